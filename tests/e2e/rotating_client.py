"""A program that rotates over records in files, to be killed: ADDRESS TOKEN FOLDER.

It says a byte for each record that it has looked at.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from custody.client import HttpTransport, Keys, Vault

RECORDS = 500


class FilePin:
    """A pin in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> int | None:
        return int(self._path.read_text("utf-8")) if self._path.exists() else None

    def save(self, generation: int) -> None:
        fresh = self._path.with_suffix(".new")
        fresh.write_text(str(generation), "utf-8")
        fresh.replace(self._path)


def opened(key: bytes, path: Path) -> bytes:
    """Return a record's text.

    Raises:
        InvalidTag: it is under another key.
    """
    sealed = path.read_bytes()
    return AESGCM(key).decrypt(sealed[:12], sealed[12:], path.stem.encode())


def write(key: bytes, path: Path, text: bytes) -> None:
    nonce = os.urandom(12)
    fresh = path.with_suffix(".new")
    fresh.write_bytes(nonce + AESGCM(key).encrypt(nonce, text, path.stem.encode()))
    fresh.replace(path)


def reencrypt(folder: Path, keys: Keys, tell: Callable[[], object] = lambda: None) -> None:
    assert keys.previous_master_key is not None
    for path in sorted(folder.glob("*.record")):
        try:
            opened(keys.master_key, path)
        except InvalidTag:
            write(keys.master_key, path, opened(keys.previous_master_key, path))
        tell()


def vault(address: str, token: str, folder: Path) -> Vault:
    return Vault(HttpTransport(address), lambda: token, FilePin(folder / "pin"))


if __name__ == "__main__":
    here = Path(sys.argv[3])
    while True:
        vault(sys.argv[1], sys.argv[2], here).rotate(
            lambda keys: reencrypt(here, keys, lambda: os.write(1, b"."))
        )
