"""Signed notes, as c2sp.org/signed-note has them, with signatures by Ed25519."""

import re
from base64 import b64decode, b64encode
from collections.abc import Iterable
from hashlib import sha256
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

# Room for the signatures of many witnesses; those of later kinds of keys have up to 5 kB each.
MOST = 100_000
_MOST_SIGNATURES = 100
_ED25519 = b"\x01"
_ID_SIZE = 4

_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
# Any character that is a space to Unicode ends a name; a plus would break a verifier key.
_NAME = re.compile(r"[^\s+]+")


class MalformedNote(ValueError):
    """This is no signed note."""


class UnknownKeys(ValueError):
    """None of the signatures is by a key that is known."""


class WrongSignature(ValueError):
    """A signature is not by the key that it names."""


class Verifier(NamedTuple):
    """Whose signatures are believed.

    Args:
        name: of the key.
        public: the key.
    """

    name: str
    public: Ed25519PublicKey

    @property
    def id(self) -> bytes:
        """What names the key beside its name; 4 bytes."""
        return _id_of(self.name, self.public)


class Signer(NamedTuple):
    """Who signs.

    Args:
        name: of the key.
        private: the key; never shown.
    """

    name: str
    private: Ed25519PrivateKey

    def __repr__(self) -> str:
        return f"Signer({self.name!r})"


class Signature(NamedTuple):
    """A line of a note.

    Args:
        name: of the key that it says it is by.
        id: of the same.
        bytes: the signature.
    """

    name: str
    id: bytes
    bytes: bytes


class Note(NamedTuple):
    """A note of which nothing is believed yet.

    Args:
        text: with the newline at its end.
        signatures: at least one.
    """

    text: str
    signatures: tuple[Signature, ...]


def sign(text: str, signer: Signer) -> str:
    """Return a note with one signature.

    Args:
        text: what is signed; it ends with a newline.
        signer: by whom.

    Raises:
        MalformedNote: no note can have this text, or no key this name.
    """
    signature = _id_of(signer.name, signer.private.public_key()) + signer.private.sign(
        text.encode()
    )
    note = f"{text}\n\u2014 {signer.name} {b64encode(signature).decode()}\n"
    if parse(note).text != text:
        raise MalformedNote
    return note


def parse(note: str) -> Note:
    """Take a note apart, and believe nothing of it.

    Args:
        note: whatever it is.

    Raises:
        MalformedNote: it is none.
    """
    # The last empty line is what parts text and signatures: a text may have empty lines.
    text, gap, lines = note.rpartition("\n\n")
    signatures = lines.removesuffix("\n").split("\n")
    if (
        len(note) > MOST
        or not text
        or not gap
        or not lines.endswith("\n")
        or len(signatures) > _MOST_SIGNATURES
        or _CONTROL.search(note) is not None
    ):
        raise MalformedNote
    return Note(f"{text}\n", tuple(_signature(line) for line in signatures))


def open_note(note: str, verifiers: Iterable[Verifier]) -> str:
    """Return the text of a note that is signed by at least one of these keys.

    Signatures by other keys are passed over: a witness may have added its own.

    Args:
        note: whatever it is.
        verifiers: the keys that are believed.

    Raises:
        MalformedNote: it is none.
        UnknownKeys: none of them has signed it.
        WrongSignature: a signature says that it is by one of them, and is not.
    """
    parsed = parse(note)
    known = {(one.name, one.id): one.public for one in verifiers}
    signed = False
    for name, key_id, signature in parsed.signatures:
        public = known.get((name, key_id))
        if public is None:
            continue
        try:
            public.verify(signature, parsed.text.encode())
        except InvalidSignature:
            raise WrongSignature from None
        signed = True
    if not signed:
        raise UnknownKeys
    return parsed.text


def verifier_key(name: str, public: Ed25519PublicKey) -> str:
    """Return what others need to check signatures, in the form that their tools take.

    Args:
        name: of the key.
        public: the key.
    """
    key = b64encode(_ED25519 + public.public_bytes_raw()).decode()
    return f"{name}+{_id_of(name, public).hex()}+{key}"


def _id_of(name: str, public: Ed25519PublicKey) -> bytes:
    named = name.encode() + b"\n" + _ED25519 + public.public_bytes_raw()
    return sha256(named).digest()[:_ID_SIZE]


def _signature(line: str) -> Signature:
    dash, _, rest = line.partition(" ")
    name, _, encoded = rest.partition(" ")
    if dash != "\u2014" or _NAME.fullmatch(name) is None:
        raise MalformedNote
    signature = decoded(encoded)
    if signature is None or len(signature) <= _ID_SIZE:
        raise MalformedNote
    return Signature(name, signature[:_ID_SIZE], signature[_ID_SIZE:])


def decoded(encoded: str) -> bytes | None:
    """Return what is encoded in base64, or None where it is not, or not in the one form.

    Args:
        encoded: whatever it is.
    """
    try:
        value = b64decode(encoded, validate=True)
    except ValueError:
        return None
    # Bits that mean nothing could be set in the last character.
    return value if b64encode(value).decode() == encoded else None
