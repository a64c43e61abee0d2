"""Names of keys in Google Cloud KMS."""

import re
from dataclasses import dataclass
from typing import Self

_SCHEME = "gcp-kms:"
_KEY = re.compile(
    r"projects/[a-z0-9.:-]{1,63}/locations/[a-z0-9-]{1,40}"
    r"/keyRings/[A-Za-z0-9_-]{1,63}/cryptoKeys/[A-Za-z0-9_-]{1,63}"
)
_VERSION = re.compile(rf"(?P<key>{_KEY.pattern})/cryptoKeyVersions/[1-9][0-9]{{0,8}}")


@dataclass(frozen=True, slots=True)
class KeyName:
    """The resource name of a CryptoKey.

    Args:
        text: ``projects/…/locations/…/keyRings/…/cryptoKeys/…``.
    """

    text: str

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the name, or None where it is none."""
        return cls(text) if _KEY.fullmatch(text) else None

    def has(self, version: object) -> bool:
        """Say whether a text names a version of this key."""
        match = _VERSION.fullmatch(version) if isinstance(version, str) else None
        return match is not None and match["key"] == self.text

    def version_of(self, kek_id: str) -> str | None:
        """Return the resource name of the version that a stamp names, if it is one of this key."""
        version = kek_id.removeprefix(_SCHEME)
        return version if version != kek_id and self.has(version) else None


def stamp(version: str) -> str:
    """Return the kek_id of rows that a version wraps."""
    return _SCHEME + version
