"""The names of AWS KMS keys: what a URI may hold, and the ARN that rows are stamped with."""

import re
from dataclasses import dataclass, replace
from typing import Self

SCHEME = "aws-kms"
# AWS gives ids that begin so to keys that may have replicas in other regions, and to no others.
_MULTI_REGION = "mrk-"

_PARTITION = r"(?P<partition>aws(?:-[a-z]+)*)"
_REGION = r"[a-z]{2,4}(?:-[a-z]+)+-[0-9]{1,2}"
_KEY = (
    rf"(?P<key>{_MULTI_REGION}[0-9a-f]{{32}}|[0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}})"
)
# AWS keeps the names below alias/aws/ for keys that only its own services can use.
_ALIAS = r"alias/(?!aws/)[A-Za-z0-9/_-]{1,250}"
_PREFIX = rf"arn:{_PARTITION}:kms:(?P<region>{_REGION}):(?P<account>[0-9]{{12}}):"

_KEY_ARN = re.compile(f"{_PREFIX}key/{_KEY}")
_NAMES = (_KEY_ARN, *map(re.compile, (_PREFIX + _ALIAS, _KEY, _ALIAS)))
_REGION_ALONE = re.compile(_REGION)


def is_region(text: str) -> bool:
    """Say whether a text has the form of a region's name, for example ``eu-central-1``."""
    return _REGION_ALONE.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class KeyArn:
    """The ARN of a key: never reused, so a stamp can't come to mean other key material.

    Args:
        text: the ARN.
        partition: for example ``aws`` or ``aws-cn``.
        region: for example ``eu-central-1``.
        account: twelve digits.
        key: the key id.
    """

    text: str
    partition: str
    region: str
    account: str
    key: str

    @classmethod
    def parse(cls, text: object) -> Self | None:
        """Parse a key's ARN; None where it is none (the ARN of an alias is none)."""
        found = _KEY_ARN.fullmatch(text) if isinstance(text, str) else None
        return None if found is None else cls(text=found[0], **found.groupdict())

    @classmethod
    def of_stamp(cls, kek_id: str) -> Self | None:
        """Parse the kek_id of a row; None where it is no key of AWS KMS."""
        scheme, _, arn = kek_id.partition(":")
        return cls.parse(arn) if scheme == SCHEME else None

    @property
    def stamp(self) -> str:
        """The kek_id of wraps under this key."""
        return f"{SCHEME}:{self.text}"

    @property
    def is_multi_region(self) -> bool:
        """Whether the key may have replicas in other regions."""
        return self.key.startswith(_MULTI_REGION)

    def in_region(self, region: str) -> Self:
        """Return the replica in a region of a multi-Region key; any other key is where it is.

        All replicas have the same key material and key id, and so open each other's wraps.

        Args:
            region: of the replica, whether there is one or not.
        """
        if not self.is_multi_region:
            return self
        text = f"arn:{self.partition}:kms:{region}:{self.account}:key/{self.key}"
        return replace(self, text=text, region=region)


@dataclass(frozen=True, slots=True)
class KeyName:
    """What a URI calls a key: its id, its ARN, an alias, or the ARN of an alias.

    Args:
        text: the name, as AWS KMS takes it.
        partition: of an ARN, else None.
        region: of an ARN, else None.
        account: of an ARN, else None.
        key: the key id, or None for an alias.
    """

    text: str
    partition: str | None
    region: str | None
    account: str | None
    key: str | None

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Parse a name; None where it is none of the four."""
        for pattern in _NAMES:
            if found := pattern.fullmatch(text):
                parts = found.groupdict()
                return cls(text, *map(parts.get, ("partition", "region", "account", "key")))
        return None

    @property
    def alias(self) -> str:
        """The name of the alias, without an ARN around it."""
        return self.text.rpartition(":")[2]

    def may_mean(self, arn: KeyArn) -> bool:
        """Say whether this name can stand for a key; for an alias that is any of its account."""
        own = (self.partition, self.region, self.account, self.key)
        other = (arn.partition, arn.region, arn.account, arn.key)
        return all(mine in (None, theirs) for mine, theirs in zip(own, other, strict=True))
