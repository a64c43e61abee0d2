"""What can go wrong with a KEK. The caller decides by type: the message is for an operator.

No message may hold key material, a token, plaintext or ciphertext.
"""


class KekError(Exception):
    """A KEK could not do what was asked."""


class Misconfigured(KekError):
    """The KEK's URI, or what it points at, is missing or wrong: nobody can use it before a cure."""


class UnknownKek(KekError):
    """No configured KEK has the kek_id that a row names."""


class Transient(KekError):
    """The KEK can't be reached now: the same call may succeed later."""


class Throttled(Transient):
    """The KMS refused because of too many calls."""


class Denied(KekError):
    """The KMS knows the key and refuses this caller."""


class KeyMissing(KekError):
    """The KMS has no such key, or it is disabled or deleted."""


class VersionRetired(KekError):
    """The version of the key that made the wrap may no longer be used."""


class Tampered(KekError):
    """The wrap does not open: altered, of another user, or made with other key material."""
