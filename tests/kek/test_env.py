"""``env:NAME``: every source, every refusal, and the development fallback."""

import base64
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from kek_backends.base import KekBackend
from kek_backends.loader import load
from tests.bindings import of
from tests.kek.kit import refusal

KEY = bytes(range(32))
TEXT = base64.b64encode(KEY).decode()


def env(uri: str = "env:KEK", *, development: bool = False, **environ: str) -> KekBackend:
    return load(uri, environ=environ, development=development)


def fingerprint(backend: KekBackend) -> str:
    seen = backend.fingerprint("env-v1")
    assert seen
    return seen


@pytest.mark.parametrize("text", [TEXT, f"  {TEXT}\n", f"{TEXT}\r\n"])
async def test_variable_and_file_are_one_key(tmp_path: Path, text: str) -> None:
    file = tmp_path / "kek"
    file.write_text(text)
    file.chmod(0o600)
    by_variable, by_file = env(KEK=text), env(KEK_FILE=str(file))
    assert fingerprint(by_variable) == fingerprint(by_file) == fingerprint(env(KEK=TEXT))
    assert by_variable.kek_id == "env-v1"
    wrap = await by_variable.wrap(of("alice"), b"k" * 32)
    assert await by_file.unwrap(of("alice"), wrap) == b"k" * 32


def test_id_of_the_uri() -> None:
    backend = env("env:KEK?id=env-v2", KEK=TEXT)
    assert (backend.kek_id, backend.uri.text) == ("env-v2", "env:KEK?id=env-v2")


def test_nothing_is_set() -> None:
    assert "neither KEK nor KEK_FILE is set; give it the key that wrapped the rows" in refusal(
        "env:KEK"
    )


def test_both_are_set() -> None:
    assert "both KEK and KEK_FILE are set; unset one" in refusal(
        "env:KEK", KEK=TEXT, KEK_FILE="/nowhere"
    )


def test_empty_is_not_set() -> None:
    assert env(KEK=TEXT, KEK_FILE="").kek_id == "env-v1"
    assert "neither KEK nor KEK_FILE is set" in refusal("env:KEK", KEK="", KEK_FILE="")


@pytest.mark.parametrize(
    "text",
    [
        "password",
        TEXT[:-1],
        TEXT[:-4],
        TEXT + "AAAA",
        base64.b64encode(bytes(31)).decode(),
        base64.b64encode(bytes(33)).decode(),
        KEY.hex(),
        base64.urlsafe_b64encode(b"\xff" * 32).decode(),
        f"{TEXT[:20]}\n{TEXT[20:]}",
        f"'{TEXT}'",
        "ä" + TEXT,
        TEXT + "\0",
    ],
)
@pytest.mark.parametrize("development", [True, False])
def test_not_base64_of_32_bytes(tmp_path: Path, text: str, development: bool) -> None:
    file = tmp_path / "kek"
    file.write_text(text)
    file.chmod(0o600)
    for message in (
        refusal("env:KEK", development, KEK=text),
        refusal("env:KEK", development, KEK_FILE=str(file)),
    ):
        assert "is not base64 of 32 bytes: " in message
        assert "restore the key that wrapped the rows there are; only where there are" in message
        assert message.endswith("make a new one with: openssl rand -base64 32")
        assert text not in message
        assert TEXT[:20] not in message


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        (KEY.hex(), "it is 64 hex characters: write the same bytes as base64"),
        (KEY.hex().upper(), "it is 64 hex characters"),
        (base64.urlsafe_b64encode(b"\xff" * 32).decode(), "it is url-safe base64: write +"),
        (base64.urlsafe_b64encode(b"\xff" * 32).decode()[:-1], "it is url-safe base64: write +"),
        (TEXT[:-1], "it lacks the = at its end"),
        (f"'{TEXT}'", "it has quotes around it: take them away"),
        (f'"{TEXT}"', "it has quotes around it"),
        (f'{TEXT}"', "it has quotes around it"),
        (f"\ufeff{TEXT}", "it begins with a byte order mark"),
        (f"{TEXT[:20]}\n{TEXT[20:]}", "it has white space in it"),
        (" \n", "it is empty"),
        ("0123456789abcdef" * 2, "32 printable characters are text, not a raw key"),
        (base64.b64encode(bytes(31)).decode(), "it is base64 of 31 bytes"),
        ("correct horse", "it is text of another kind"),
        ("ключ", "it is text of another kind"),
        ("kl\udcfcssel", "it is 7 bytes that are no text"),
        ("k" * 2000, "it is longer than 1024 bytes"),
    ],
)
def test_what_was_seen_is_said(text: str, seen: str) -> None:
    assert f"is not base64 of 32 bytes: {seen}" in refusal("env:KEK", KEK=text)


def test_raw_key_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "kek"
    file.write_bytes(KEY)
    file.chmod(0o600)
    assert "it is 32 raw bytes: write them as base64" in refusal("env:KEK", KEK_FILE=str(file))


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/nowhere/kek", "which does not exist"),
        ("/", "which is a folder: name the file in it that holds the key"),
        ("/dev/zero", "which is not a regular file"),
        ("/dev/null/kek", "which can't be read: Not a directory"),
        ("/kek\0", "which can't be read: not a path"),
    ],
)
@pytest.mark.parametrize("development", [True, False])
def test_file_that_cannot_be_used(path: str, why: str, development: bool) -> None:
    message = refusal("env:KEK", development, KEK_FILE=path)
    assert f"KEK_FILE names {path}, {why}" in message
    assert "chmod" not in message


def test_fifo_holds_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "kek", 0o600)
    assert "is not a regular file" in refusal("env:KEK", KEK_FILE=f"{tmp_path}/kek")


@pytest.mark.parametrize("mode", [0o404, 0o444, 0o602, 0o401, 0o644, 0o777])
def test_file_that_others_may_use(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "kek"
    file.write_text(TEXT)
    file.chmod(mode)
    message = refusal("env:KEK", KEK_FILE=str(file))
    assert f"{file}, which has mode {mode:04o}: others may use it; run chmod 400 on it" in message
    file.chmod(0o640)
    assert env(KEK_FILE=str(file)).kek_id == "env-v1"


def test_all_zero_key_is_refused_in_production() -> None:
    zero = base64.b64encode(bytes(32)).decode()
    assert "the all-zero key protects nothing" in refusal("env:KEK", KEK=zero)
    assert env(KEK=zero, development=True).kek_id == "env-v1"


def test_development_falls_back_to_zero_bytes_loudly() -> None:
    with capture_logs() as logs:
        backend = env(development=True)
    zero = base64.b64encode(bytes(32)).decode()
    assert fingerprint(backend) == fingerprint(env(KEK=zero, development=True))
    assert [(line["event"], line["log_level"]) for line in logs] == [("zero_kek", "warning")]
    assert "NO KEK IS SET" in logs[0]["warning"]


def test_development_warns_of_nothing_with_a_key() -> None:
    with capture_logs() as logs:
        env(KEK=TEXT, development=True)
    assert logs == []


@pytest.mark.parametrize("name", ["1K", "A-B", "A B", "ä", "A/B", "A="])
def test_not_the_name_of_a_variable(name: str) -> None:
    assert "is not the name of a variable" in refusal(f"env:{name}")


def test_only_the_given_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEK", TEXT)
    assert "neither KEK nor" in refusal("env:KEK")
