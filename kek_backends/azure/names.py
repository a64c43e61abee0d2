"""Names of keys in Azure Key Vault and Managed HSM."""

import re
from dataclasses import dataclass
from typing import Self

_SCHEME = "azure-kv:"
_KEY = re.compile(
    r"https://(?P<host>[A-Za-z0-9.-]{1,120}(?::[0-9]{1,5})?)/keys/[A-Za-z0-9-]{1,127}"
)
_VERSION = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class KeyName:
    """Where a key is, without a version.

    Args:
        text: ``https://HOST/keys/NAME``.
        host: of the vault, with its port where it has one.
    """

    text: str
    host: str

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the name, or None where it is none."""
        match = _KEY.fullmatch(text)
        return match and cls(text, match["host"])

    @property
    def scope(self) -> str:
        """What a token is asked for: the service that the host belongs to, in whichever cloud."""
        return f"https://{self.host.partition('.')[2]}/.default"

    def version(self, key_id: object) -> str | None:
        """Return the version in a key's identifier, if it is one of this key."""
        if not isinstance(key_id, str):
            return None
        name, _, version = key_id.rpartition("/")
        return version if name == self.text and _VERSION.fullmatch(version) else None

    def version_of(self, kek_id: str) -> str | None:
        """Return the version that a stamp names, if it is one of this key."""
        return self.version(kek_id.removeprefix(_SCHEME)) if kek_id.startswith(_SCHEME) else None

    def stamp(self, version: str) -> str:
        """Return the kek_id of what a version wraps."""
        return f"{_SCHEME}{self.text}/{version}"
