"""``systemd:NAME``: what a credential may be, and every refusal."""

import base64
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from kek_backends.base import KekBackend
from kek_backends.errors import Misconfigured
from kek_backends.loader import load
from tests.bindings import of
from tests.kek import kit

# As a random key may be: it begins and ends with white space, and holds NUL.
KEY = b"\n \0" + bytes(range(200, 227)) + b"\0\n"
TEXT = base64.b64encode(KEY).decode()

Credential = Callable[..., Path]


@pytest.fixture
def credential(tmp_path: Path) -> Credential:
    """Writes a file into what stands for systemd's folder."""

    def write(content: bytes = KEY, *, name: str = "kek", mode: int = 0o400) -> Path:
        file = tmp_path / name
        file.write_bytes(content)
        file.chmod(mode)
        return file

    return write


def systemd(uri: str, folder: Path | str, *, development: bool = False) -> KekBackend:
    environ = {"CREDENTIALS_DIRECTORY": str(folder)}
    return load(uri, environ=environ, development=development)


def refusal(uri: str, folder: Path | str, *, development: bool = False) -> str:
    return kit.refusal(uri, development, CREDENTIALS_DIRECTORY=str(folder))


@pytest.mark.parametrize(
    "content",
    [KEY, KEY + b"\n", TEXT.encode(), f"\n {TEXT}\r\n".encode(), f"{TEXT}{' ' * 900}".encode()],
    ids=["raw", "raw and newline", "base64", "white space", "much white space"],
)
async def test_forms_of_one_key(credential: Credential, content: bytes) -> None:
    folder = credential(content).parent
    backend = systemd("systemd:kek", folder)
    same = load("env:K?id=systemd-kek", environ={"K": TEXT}, development=False)
    assert backend.kek_id == "systemd-kek"
    assert backend.fingerprint("systemd-kek") == same.fingerprint("systemd-kek")
    assert await same.unwrap(of("alice"), await backend.wrap(of("alice"), b"k" * 32)) == b"k" * 32


def test_raw_key_that_ends_with_a_newline_is_taken_whole(credential: Credential) -> None:
    """31 bytes and a newline are 32 bytes: a random key may end like that."""
    folder = credential(KEY[:31] + b"\n").parent
    assert systemd("systemd:kek", folder).kek_id == "systemd-kek"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"password",
        KEY[:31],
        KEY + b"x",
        KEY + b" ",
        KEY + b"\r\n",
        KEY + b"\n\n",
        KEY * 2,
        KEY.hex().encode(),
        TEXT[:-1].encode(),
        base64.urlsafe_b64encode(b"\xff" * 32),
        f"{TEXT[:20]}\n{TEXT[20:]}".encode(),
        f"'{TEXT}'".encode(),
        TEXT.encode("utf-16"),
        base64.b64encode(bytes(31)),
        # More than is read: what follows could be anything.
        f"{TEXT}{' ' * 2000}".encode() + b"x",
    ],
)
@pytest.mark.parametrize("development", [True, False])
def test_anything_else(credential: Credential, content: bytes, development: bool) -> None:
    message = refusal("systemd:kek", credential(content).parent, development=development)
    assert "is not base64 of 32 bytes" in message
    assert not content or content.decode("ascii", "replace") not in message
    assert TEXT[:20] not in message


@pytest.mark.parametrize(
    "text",
    [
        "0123456789abcdef" * 2,  # openssl rand -hex 16
        "A" * 32,
        "correct horse battery staple 123",
        " " * 31 + "x",
        "~" * 32,
        "\t" * 16 + "k" * 16,
        "Grüße aus Köln am Rhein, Süd",  # as UTF-8 it has 32 bytes, too
        "правильная лошад1",  # noqa: RUF001 - that is the point
    ],
)
@pytest.mark.parametrize("end", ["", "\n"])
def test_32_characters_are_no_raw_key(credential: Credential, text: str, end: str) -> None:
    message = refusal("systemd:kek", credential(f"{text}{end}".encode()).parent)
    assert text not in message
    if text == text.strip() and "\t" not in text:
        assert "32 printable characters are text, not a raw key; restore the key" in message


def test_31_characters_and_a_newline_are_no_raw_key(credential: Credential) -> None:
    assert "is not base64 of 32 bytes" in refusal(
        "systemd:kek", credential(b"k" * 31 + b"\n").parent
    )


@pytest.mark.parametrize(
    "content", [b"k" * 31 + b"\x7f", b"k" * 31 + b"\0", b"\x80" + b"k" * 31], ids=repr
)
def test_one_byte_that_no_text_has_makes_it_a_raw_key(
    credential: Credential, content: bytes
) -> None:
    assert systemd("systemd:kek", credential(content).parent).kek_id == "systemd-kek"


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        (b"", "it is empty"),
        (KEY.hex().encode(), "it is 64 hex characters"),
        (KEY[:31], "it is 31 bytes that are no text"),
        (b"\xef\xbb\xbf" + TEXT.encode(), "it begins with a byte order mark"),
        (f"{TEXT}{' ' * 2000}".encode(), "it is longer than 1024 bytes"),
    ],
)
def test_what_was_seen_is_said(credential: Credential, content: bytes, seen: str) -> None:
    message = refusal("systemd:kek", credential(content).parent)
    assert f"is not base64 of 32 bytes nor 32 raw ones: {seen}" in message


def test_id_of_the_uri(credential: Credential) -> None:
    backend = systemd("systemd:kek?id=sd-2", credential().parent)
    assert (backend.kek_id, backend.uri.text) == ("sd-2", "systemd:kek?id=sd-2")


@pytest.mark.parametrize("name", ["kek", "custody.kek", "KEK_2-old", "...", ".kek", "k" * 247])
def test_names(credential: Credential, name: str) -> None:
    folder = credential(name=name).parent
    assert systemd(f"systemd:{name}", folder).kek_id == f"systemd-{name}"


@pytest.mark.parametrize(
    "name", [".", "..", "a/b", "../kek", "/kek", "a b", "ä", "a\n", "%6bek", "k" * 248]
)
def test_what_is_no_name(credential: Credential, name: str) -> None:
    folder = credential().parent
    (folder / "a").mkdir()
    with pytest.raises(Misconfigured, match="is not the name of a credential: write 1 to 247"):
        systemd(f"systemd:{name}", folder)


@pytest.mark.parametrize("environ", [{}, {"CREDENTIALS_DIRECTORY": ""}])
@pytest.mark.parametrize("development", [True, False])
def test_not_started_with_a_credential(environ: dict[str, str], development: bool) -> None:
    """In development, too: a key made up for want of this one would be stamped as it."""
    with capture_logs() as logs, pytest.raises(Misconfigured) as caught:
        load("systemd:kek", environ=environ, development=development)
    assert str(caught.value) == (
        "KEK systemd:kek: CREDENTIALS_DIRECTORY is not set: systemd gives this process no "
        "credential; add to its unit: LoadCredential=kek:/path/to/the/key"
    )
    assert logs == []


@pytest.mark.parametrize("development", [True, False])
def test_missing_file(tmp_path: Path, development: bool) -> None:
    message = refusal("systemd:kek", tmp_path, development=development)
    assert f"{tmp_path}/kek does not exist; add to the unit: LoadCredential=kek:/path" in message


def test_only_the_given_variables_are_read(
    credential: Credential, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credential().parent))
    with pytest.raises(Misconfigured, match="CREDENTIALS_DIRECTORY is not set"):
        load("systemd:kek", environ={}, development=False)


@pytest.mark.parametrize("mode", [0o404, 0o444, 0o602, 0o406, 0o401, 0o644, 0o777])
def test_file_that_others_may_use(credential: Credential, mode: int) -> None:
    message = refusal("systemd:kek", credential(mode=mode).parent)
    assert f"has mode {mode:04o}: others may use it; run chmod 400 on it, or 600" in message


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o600, 0o640, 0o460, 0o770])
def test_bits_of_the_group_are_legitimate(credential: Credential, mode: int) -> None:
    """systemd gives a service's user access by an ACL: its mask shows as the group's bits."""
    assert systemd("systemd:kek", credential(mode=mode).parent).kek_id == "systemd-kek"


def test_a_folder_is_no_credential(tmp_path: Path) -> None:
    (tmp_path / "kek").mkdir(mode=0o700)
    assert f"{tmp_path}/kek is a folder: name the file in it" in refusal("systemd:kek", tmp_path)


def test_a_fifo_is_no_credential_and_holds_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "kek", 0o600)
    began = time.monotonic()
    assert "is not a regular file" in refusal("systemd:kek", tmp_path)
    assert time.monotonic() - began < 2


def test_a_device_is_no_credential(tmp_path: Path) -> None:
    (tmp_path / "kek").symlink_to("/dev/zero")
    assert "is not a regular file" in refusal("systemd:kek", tmp_path)


def test_a_socket_is_no_credential(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "kek"))
        message = refusal("systemd:kek", tmp_path)
        assert f"{tmp_path}/kek can't be read: No such device or address" in message


def test_a_loop_of_links_is_no_credential(tmp_path: Path) -> None:
    (tmp_path / "kek").symlink_to(tmp_path / "kek")
    assert "Too many levels of symbolic links" in refusal("systemd:kek", tmp_path)


def test_no_descriptor_stays_open(credential: Credential) -> None:
    folder = credential().parent
    (folder / "folder").mkdir(mode=0o700)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        systemd("systemd:kek", folder)
        refusal("systemd:folder", folder)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_all_zero_key_is_refused_in_production(credential: Credential) -> None:
    folder = credential(bytes(32)).parent
    assert "the all-zero key protects nothing" in refusal("systemd:kek", folder)
    assert systemd("systemd:kek", folder, development=True).kek_id == "systemd-kek"
