"""``pkcs11:…``: which key of which token, as RFC 7512 writes it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import unquote_to_bytes

from kek_backends.errors import Misconfigured
from kek_backends.key_file import read_key_file
from kek_backends.uri import KekUri

_OF_TOKEN = ("token", "manufacturer", "serial", "model", "slot-id")
_OF_KEY = ("object", "id")
_KNOWN = (*_OF_TOKEN, *_OF_KEY, "type")
_CREDENTIAL = re.compile(r"[A-Za-z0-9._-]{1,255}")
_CREDENTIALS = "CREDENTIALS_DIRECTORY"
_EXAMPLE = (
    "pkcs11:token=TOKEN;object=LABEL?module-path=/usr/lib/softhsm/libsofthsm2.so"
    "&pin-source=file:/etc/custody/hsm-pin"
)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a key is. All that is given must be true of it, and of it alone.

    Args:
        module: path of the library that speaks to the HSM.
        pin: path of the file with the user PIN.
        token: label, manufacturer, serial, model and slot-id, as far as they are given.
        label: of the key, or None.
        key_id: of the key (``CKA_ID``), or None.
    """

    module: str
    pin: Path
    token: tuple[tuple[str, str], ...]
    label: str | None
    key_id: bytes | None

    @classmethod
    def parse(cls, uri: KekUri, environ: Mapping[str, str]) -> Self:
        """Read the address of a URI. Nothing is opened.

        Args:
            uri: which.
            environ: the variables of the process, for a credential of systemd's.

        Raises:
            Misconfigured: naming what is wrong with it, and the cure.
        """
        attributes = _attributes(uri)
        token = tuple((name, attributes[name]) for name in _OF_TOKEN if name in attributes)
        if not token or not any(name in attributes for name in _OF_KEY):
            raise _wrong(uri, f"name a token and a key, for example {_EXAMPLE}")
        if attributes.get("type", "secret-key") != "secret-key":
            raise _wrong(uri, "the type of a KEK is secret-key")
        if not attributes.get("slot-id", "0").isdecimal():
            raise _wrong(uri, "slot-id is a number")
        options = dict(uri.options)
        module = options.get("module-path", "")
        if not Path(module).is_absolute():
            raise _wrong(uri, f"module-path is the whole path of a library, as in {_EXAMPLE}")
        return cls(
            module=module,
            pin=_pin_file(uri, options.get("pin-source", ""), environ),
            token=token,
            label=attributes.get("object"),
            key_id=_key_id(uri) if "id" in attributes else None,
        )

    def check_module(self, uri: KekUri) -> None:
        """See that there is a library to load.

        Raises:
            Misconfigured: there is none.
        """
        if not Path(self.module).is_file():
            raise _wrong(uri, f"module-path: there is no file {self.module}: install the module")

    def read_pin(self, uri: KekUri) -> str:
        """Return the user PIN.

        Raises:
            Misconfigured: there is none, or others may read it.
        """
        content = read_key_file(self.pin, f"KEK {uri.text}: pin-source names {self.pin}, which")
        try:
            pin = content.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            pin = ""
        if not pin or not pin.isprintable():
            raise _wrong(uri, f"{self.pin} does not hold a PIN: one line of text")
        return pin


def _attributes(uri: KekUri) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in uri.path.split(";"):
        name, equals, value = part.partition("=")
        if name not in _KNOWN or not equals:
            # Its name alone: what is misspelt may be a PIN.
            raise _wrong(uri, f"no attribute {name!r}; known: {', '.join(_KNOWN)}")
        if name in found or not value:
            raise _wrong(uri, f"{name} is there twice, or without a value")
        try:
            found[name] = unquote_to_bytes(value).decode("utf-8" if name != "id" else "latin-1")
        except UnicodeDecodeError:
            raise _wrong(uri, f"{name} is not UTF-8") from None
    return found


def _key_id(uri: KekUri) -> bytes:
    """Return the bytes of ``id=``, which are no text."""
    (value,) = (part for part in uri.path.split(";") if part.startswith("id="))
    return unquote_to_bytes(value.removeprefix("id="))


def _pin_file(uri: KekUri, source: str, environ: Mapping[str, str]) -> Path:
    kind, colon, name = source.partition(":")
    if kind == "systemd" and colon:
        directory = environ.get(_CREDENTIALS)
        if not _CREDENTIAL.fullmatch(name) or name in {".", ".."}:
            raise _wrong(uri, f"pin-source: {name!r} is not the name of a credential")
        if not directory:
            raise _wrong(
                uri,
                f"pin-source: {_CREDENTIALS} is not set: systemd gives this process no credential; "
                f"add to its unit: LoadCredential={name}:/path/to/the/pin",
            )
        return Path(directory) / name
    path = Path((name.removeprefix("//") if kind == "file" and colon else source) or ".")
    if not path.is_absolute():
        raise _wrong(
            uri,
            "pin-source names the file with the PIN: file:/path/to/it, or a credential of "
            "systemd's: systemd:NAME",
        )
    return path


def _wrong(uri: KekUri, what: str) -> Misconfigured:
    return Misconfigured(f"KEK {uri.text}: {what}")
