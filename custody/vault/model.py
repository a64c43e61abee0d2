"""The values of the vault: frozen, and silent about secrets in their repr."""

from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, ClassVar, NamedTuple

from custody.deadline import Deadline
from kek_backends.base import MASTER_KEY_SIZE, Wrap

_EPOCH = datetime.fromtimestamp(0, UTC)


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
    FORMAT: ClassVar[int] = 1

    wrapped_mk: str = field(repr=False)
    iv: str = field(repr=False)
    format_version: int = FORMAT

    @property
    def is_well_formed(self) -> bool:
        """Whether it can be a wrap at all: the service that custody replaces stored anything."""
        try:
            sizes = [len(b64decode(text, validate=True)) for text in (self.wrapped_mk, self.iv)]
        except ValueError:
            return False
        return sizes == [self.WRAPPED_SIZE, self.IV_SIZE]


class PreviousKey(NamedTuple):
    """The master key before the live one, while a rotation is pending: wrapped under the live one.

    Args:
        generation: that it was the master key of.
        wrapped_mk: see :mod:`custody.vault.previous`, in base64.
        iv: its nonce, in base64.
    """

    generation: int
    wrapped_mk: str
    iv: str

    def __repr__(self) -> str:
        """Show nothing that is stored of a key."""
        return f"PreviousKey(generation={self.generation})"


class Trust(Enum):
    """Why a row is believed."""

    SEALED = "its seal holds"
    LEGACY = "it was never sealed, and such rows are accepted"
    UNVERIFIED = "no data key can be opened: nothing but its recovery wrap may be used"


class Found(NamedTuple):
    """What the database says of a user's vault.

    Args:
        row: the columns of ``sql/queries/read_vault.sql``, or None where there is no vault. Nothing
            of it is believed: see :class:`custody.vault.seals.Seals`.
        known: whether the user may have one.
        clock: of the database, in seconds since 1970.
    """

    row: Mapping[str, Any] | None
    known: bool
    clock: float


class Vault(NamedTuple):
    """A user's row that was judged, or what is to be stored in its place.

    Args:
        trust: why it is believed.
        wrap: the server's wrap, or None in zero-knowledge mode.
        recovery: the recovery wrap, where the client has set one.
        recovery_set_at: when, in seconds since 1970 as :func:`seconds` writes them.
        zero_knowledge: whether the server has given up its wrap.
        generation: grows with every new master key.
        key_check: the key check value; None in a row of before that the server has not opened.
        previous: the master key before, while a rotation is pending.
        seal_serial: how often what is sealed was changed.
        row_version: grows with every change of the row.
    """

    trust: Trust
    wrap: Wrap | None
    recovery: RecoveryWrap | None
    recovery_set_at: str | None
    zero_knowledge: bool
    generation: int
    key_check: str | None
    previous: PreviousKey | None
    seal_serial: int
    row_version: int

    def __repr__(self) -> str:
        """Show nothing that is stored of a key."""
        return f"Vault(trust={self.trust}, generation={self.generation})"


def seconds(clock: float) -> str:
    """Return a moment as PostgreSQL writes the seconds of it: with six decimals.

    Args:
        clock: seconds since 1970.
    """
    whole, micro = divmod(round(clock * 1_000_000), 1_000_000)
    return f"{whole}.{micro:06}"


def moment(text: str) -> datetime:
    """Return the moment that some seconds since 1970 stand for.

    Args:
        text: as :func:`seconds` writes them.

    Raises:
        ValueError: no moment that can be shown; a database may hold an infinite one.
    """
    try:
        return _EPOCH + timedelta(microseconds=int(Decimal(text).scaleb(6)))
    except (ArithmeticError, OverflowError) as error:
        raise ValueError(text) from error


@dataclass(frozen=True, slots=True)
class MasterKey:
    """The answer that carries the key: no tuple, for a log would write that out.

    Args:
        key: 32 bytes.
        generation: of the vault.
        format_version: of the wrap it came from.
        kek_id: which KEK wraps it.
        previous: while a rotation is pending, the key before: 32 bytes.
    """

    key: bytes = field(repr=False)
    generation: int
    format_version: int
    kek_id: str
    previous: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class RecoveryBlob:
    """The answer in zero-knowledge mode: what only the user's recovery code opens."""

    recovery: RecoveryWrap
    generation: int


class Page(NamedTuple):
    """Which of the user's audit rows are asked for, the newest first.

    Args:
        limit: how many at most.
        before: only those of before this number; None begins with the newest.
    """

    limit: int
    before: int | None


class Trail(NamedTuple):
    """A page of the user's audit rows.

    Args:
        events: the columns of ``sql/queries/list_own_events.sql``. They are shown, and never
            believed: nothing is decided by them.
        before: of the page after this one, or None where there is none.
    """

    events: Sequence[Mapping[str, Any]]
    before: int | None


@dataclass(frozen=True, slots=True)
class Status:
    """What a client may know of its vault without unlocking it."""

    vault_exists: bool
    has_recovery_wrap: bool
    zero_knowledge: bool
    recovery_set_at: datetime | None
