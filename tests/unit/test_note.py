"""Signed notes and checkpoints: published examples, OpenSSL's word, and all that is refused."""

import subprocess
from base64 import b64decode, b64encode
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from custody.audit.checkpoint import Checkpoint, MalformedCheckpoint
from custody.audit.note import (
    MOST,
    MalformedNote,
    Signer,
    UnknownKeys,
    Verifier,
    WrongSignature,
    open_note,
    parse,
    sign,
    verifier_key,
)

# The key and the note that the format's first implementation is tested with (Go's
# golang.org/x/mod/sumdb/note), and by which most others are.
NEUMANN = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
NEUMANN_SECRET = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"  # published
ROOT = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
BY_NEUMANN = (
    "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXg"
    "KvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
BY_ROOT = (
    "\u2014 EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01"
    "oOTGwnWLox33WWd1RvMc+QQ=\n"
)
# The example of c2sp.org/tlog-checkpoint, whose key is not published.
BEHIND_THE_SOFA = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "\u2014 example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/"
    "Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
)
DASH, EM_SPACE = "\u2014", "\u2003"
HERE = Signer("custody.example/audit", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))


def verifier(key: str) -> Verifier:
    name, _, rest = key.partition("+")
    public = b64decode(rest.partition("+")[2])[1:]
    return Verifier(name, Ed25519PublicKey.from_public_bytes(public))


def verifier_of(signer: Signer) -> Verifier:
    return Verifier(signer.name, signer.private.public_key())


def test_the_published_note_is_made_and_opened() -> None:
    secret = Ed25519PrivateKey.from_private_bytes(b64decode(NEUMANN_SECRET)[1:])
    assert sign(TEXT, Signer("PeterNeumann", secret)) == f"{TEXT}\n{BY_NEUMANN}"
    assert open_note(f"{TEXT}\n{BY_NEUMANN}", [verifier(NEUMANN)]) == TEXT
    assert verifier_key("PeterNeumann", secret.public_key()) == NEUMANN


def test_signatures_of_others_are_passed_over() -> None:
    for lines in (BY_NEUMANN + BY_ROOT, BY_ROOT + BY_NEUMANN):
        for known in ([verifier(NEUMANN)], [verifier(ROOT)], [verifier(NEUMANN), verifier(ROOT)]):
            assert open_note(f"{TEXT}\n{lines}", known) == TEXT
    with pytest.raises(UnknownKeys):
        open_note(f"{TEXT}\n{BY_NEUMANN}", [verifier(ROOT)])
    with pytest.raises(UnknownKeys):
        open_note(f"{TEXT}\n{BY_NEUMANN}", [])


def test_a_name_alone_makes_no_key_known() -> None:
    with pytest.raises(UnknownKeys):
        open_note(f"{TEXT}\n{BY_NEUMANN}", [Verifier("PeterNeumann", HERE.private.public_key())])


def test_a_known_key_that_did_not_sign_refuses_the_note() -> None:
    both = f"{TEXT.replace('your', 'my')}\n{BY_NEUMANN}{BY_ROOT}"
    with pytest.raises(WrongSignature):
        open_note(both, [verifier(NEUMANN)])
    # One good signature does not make up for a wrong one.
    good = sign("other\n", HERE)
    wrong = b64encode(verifier(ROOT).id + bytes(64)).decode()
    with pytest.raises(WrongSignature):
        open_note(f"{good}\u2014 EnochRoot {wrong}\n", [verifier_of(HERE), verifier(ROOT)])


@pytest.mark.parametrize(
    "note",
    [
        "",
        "\n\n",
        f"\n\n{BY_NEUMANN}",
        TEXT,
        f"{TEXT}\n",
        f"{TEXT}{BY_NEUMANN}",
        f"{TEXT}\n{BY_NEUMANN}"[:-1],
        f"{TEXT}\n{BY_NEUMANN}\n",
        f"{TEXT}\n{BY_NEUMANN}more\n",
        f"\x01{TEXT}\n{BY_NEUMANN}",
        f"{TEXT}\n{BY_NEUMANN}".replace("\n", "\r\n"),
        f"{TEXT}\n{BY_NEUMANN.replace(DASH, '-')}",
        f"{TEXT}\n{BY_NEUMANN.replace(DASH, f'{DASH} ')}",
        f"{TEXT}\n{BY_NEUMANN.replace('Neumann', f'{EM_SPACE}Neumann')}",
        f"{TEXT}\n{BY_NEUMANN.replace('Neumann', '+Neumann')}",
        f"{TEXT}\n{BY_NEUMANN.replace('PeterNeumann', '')}",
        f"{TEXT}\n{BY_NEUMANN.replace('AM=', 'AN=')}",
        f"{TEXT}\n{BY_NEUMANN.replace('AM=', 'AM')}",
        f"{TEXT}\n{BY_NEUMANN.replace('x08go', 'x08 go')}",
        f"{TEXT}\n\u2014 PeterNeumann x08gow==\n",
        f"{TEXT}\n{BY_NEUMANN * 101}",
        f"{'long' * MOST}\n\n{BY_NEUMANN}",
    ],
)
def test_what_is_no_note_is_refused(note: str) -> None:
    with pytest.raises(MalformedNote):
        open_note(note, [verifier(NEUMANN)])


def test_a_hundred_signatures_and_empty_lines_in_a_text_are_allowed() -> None:
    note = sign("one\n\ntwo\n", HERE)
    line = note.splitlines(keepends=True)[-1]
    assert open_note(note + line * 99, [verifier_of(HERE)]) == "one\n\ntwo\n"


@pytest.mark.parametrize("text", ["", "\n", "no newline", "tab\t\n", "return\r\n"])
def test_no_text_is_signed_that_is_not_a_notes(text: str) -> None:
    with pytest.raises(MalformedNote):
        sign(text, HERE)


@pytest.mark.parametrize("name", ["", "a name", "a+b", "a\nb", "a\u00a0b"])
def test_no_key_has_such_a_name(name: str) -> None:
    with pytest.raises(MalformedNote):
        sign(TEXT, Signer(name, HERE.private))


def test_a_signer_does_not_show_its_key() -> None:
    assert repr(HERE) == "Signer('custody.example/audit')"


def test_openssl_verifies_the_signature_of_a_checkpoint(tmp_path: Path) -> None:
    note = parse(sign(Checkpoint(HERE.name, 17, bytes(32), 20).text, HERE))
    public = HERE.private.public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pem").write_bytes(pem)
    (tmp_path / "signature").write_bytes(note.signatures[0].bytes)
    for text, status in ((note.text, 0), (note.text.replace("17", "18"), 1)):
        (tmp_path / "text").write_text(text)
        command = "openssl pkeyutl -verify -rawin -pubin -inkey key.pem -sigfile signature -in text"
        done = subprocess.run(
            command.split(), cwd=tmp_path, capture_output=True, timeout=20, check=False
        )
        assert done.returncode == status


def test_the_published_checkpoint_is_read_and_written() -> None:
    text = parse(BEHIND_THE_SOFA).text + "last-row 7\n"
    read = Checkpoint.parse(text)
    assert (read.origin, read.size) == ("example.com/behind-the-sofa", 20852163)
    assert read.text == text


@pytest.mark.parametrize("size", [0, 1, 10, 2**63 - 1])
def test_a_checkpoint_is_read_as_it_was_written(size: int) -> None:
    made = Checkpoint("custody.example/audit", size, bytes(range(32)), size)
    assert Checkpoint.parse(made.text) == made


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n\n",
        "origin\n1\n",
        f"\n1\n{'A' * 43}=\nlast-row 1\n",
        f"origin\n1\n{'A' * 43}=",
        f"origin\n01\n{'A' * 43}=\nlast-row 1\n",
        f"origin\n+1\n{'A' * 43}=\nlast-row 1\n",
        f"origin\n-1\n{'A' * 43}=\nlast-row 1\n",
        f"origin\n1_0\n{'A' * 43}=\nlast-row 1\n",
        f"origin\n\u0661\n{'A' * 43}=\nlast-row 1\n",
        f"origin\n{'9' * 20}\n{'A' * 43}=\nlast-row 1\n",
        f"origin\n1\n{'A' * 42}B=\nlast-row 1\n",
        f"origin\n1\n{'A' * 44}\nlast-row 1\n",
        f"origin\n1\n{'A' * 40}\nlast-row 1\n",
        f"origin\n1\n{'A' * 43}=\nextension\n",
        f"origin\n1\n{'A' * 43}=\n",
        f"origin\n1\n{'A' * 43}=\nlast-row 01\n",
        f"origin\n1\n{'A' * 43}=\nlast-row 1\nanother\n",
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(MalformedCheckpoint):
        Checkpoint.parse(text)
