"""The values of the vault: frozen, and silent about secrets in their repr."""

from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, NamedTuple, Self

from custody.deadline import Deadline
from kek_backends.base import MASTER_KEY_SIZE, Wrap


@dataclass(frozen=True, slots=True)
class IfMatch:
    """A precondition against stale devices (RFC 9110, section 13.1.1; strong comparison).

    Args:
        any_vault: True for ``*``: any existing vault will do.
        tags: the opaque strings of the strong entity tags that were sent.
    """

    any_vault: bool
    tags: frozenset[str] = frozenset()

    def allows(self, generation: int | None) -> bool:
        """Say whether a vault of this generation (None: no vault) may be changed."""
        return generation is not None and (self.any_vault or str(generation) in self.tags)


class Caller(NamedTuple):
    """Who asks, from where, and how long the request may take.

    Args:
        user_id: the ``sub`` of the verified token.
        event_id: of the audit row that this action leaves.
        ip_address: of the client, where it is known to be valid.
        user_agent: at most 512 characters.
        deadline: of the whole request.
        if_match: the precondition, where one was sent.
    """

    user_id: str
    event_id: str
    ip_address: str | None
    user_agent: str | None
    deadline: Deadline
    if_match: IfMatch | None = None


@dataclass(frozen=True, slots=True)
class RecoveryWrap:
    """The master key as the client wrapped it, under a key that the server never sees.

    Args:
        wrapped_mk: 48 bytes in base64: 32 and the tag of AES-256-GCM.
        iv: 12 bytes in base64.
        format_version: 1.
    """

    WRAPPED_SIZE: ClassVar[int] = MASTER_KEY_SIZE + 16
    IV_SIZE: ClassVar[int] = 12

    wrapped_mk: str = field(repr=False)
    iv: str = field(repr=False)
    format_version: int = 1

    @property
    def is_well_formed(self) -> bool:
        """Whether it can be a wrap at all: the service that custody replaces stored anything."""
        try:
            sizes = [len(b64decode(text, validate=True)) for text in (self.wrapped_mk, self.iv)]
        except ValueError:
            return False
        return sizes == [self.WRAPPED_SIZE, self.IV_SIZE]


@dataclass(frozen=True, slots=True)
class Vault:
    """A user's row.

    Args:
        wrap: the server's wrap, or None in zero-knowledge mode.
        recovery: the recovery wrap, where the client has set one.
        recovery_set_at: when.
        zero_knowledge: whether the server has given up its wrap.
        generation: grows with every new master key.
        key_check: the key check value, or None while the server has not opened the wrap yet.
        row_version: grows with every change of the row.
    """

    wrap: Wrap | None
    recovery: RecoveryWrap | None
    recovery_set_at: datetime | None
    zero_knowledge: bool
    generation: int
    key_check: str | None = field(repr=False)
    row_version: int

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Build the vault from the columns of ``sql/queries/read_vault.sql``."""
        wrap = recovery = None
        if row["wrapped_mk"] is not None:
            wrap = Wrap(row["wrapped_mk"], row["wrap_iv"], row["format_version"], row["kek_id"])
        if row["recovery_wrapped_mk"] is not None:
            recovery = RecoveryWrap(
                row["recovery_wrapped_mk"], row["recovery_iv"], row["recovery_format_version"]
            )
        return cls(
            wrap,
            recovery,
            row["recovery_set_at"],
            row["zero_knowledge"],
            row["generation"],
            row["key_check"],
            row["row_version"],
        )


@dataclass(frozen=True, slots=True)
class MasterKey:
    """The answer that carries the key.

    Args:
        key: 32 bytes.
        generation: of the vault.
        format_version: of the wrap it came from.
        kek_id: which KEK wraps it.
    """

    key: bytes = field(repr=False)
    generation: int
    format_version: int
    kek_id: str


@dataclass(frozen=True, slots=True)
class RecoveryBlob:
    """The answer in zero-knowledge mode: what only the user's recovery code opens."""

    recovery: RecoveryWrap
    generation: int


@dataclass(frozen=True, slots=True)
class Status:
    """What a client may know of its vault without unlocking it."""

    vault_exists: bool
    has_recovery_wrap: bool
    zero_knowledge: bool
    recovery_set_at: datetime | None
