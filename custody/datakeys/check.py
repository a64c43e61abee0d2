"""Boot, and every look after it: data keys are opened, KEKs compared, and the first key is made."""

import asyncio
from typing import Protocol

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.datakeys.making import make_data_key
from custody.datakeys.records import add_record, does_not_open
from custody.datakeys.ring import Ring
from kek_backends.errors import KekError, Misconfigured
from kek_backends.keyring import Keyring

# How long nothing is made after it was refused, for what is sealed is not unsealed in a moment.
_REFUSED_SECONDS = 30.0

_SEALED = (
    "rows are sealed, and there is no record of the data key that seals them: restore "
    "auth.encryption_data_keys and auth.encryption_data_key_wraps from a backup"
)

log = structlog.get_logger()


class Registry(Protocol):
    """The KEKs and what the database knows of them; see :class:`custody.keks.keks.Keks`."""

    async def compare(self) -> None:
        """Compare every KEK with its record, or with what it wrapped; record nothing."""

    async def record(self) -> None:
        """Record what was compared."""

    def is_proven(self, kek_id: str) -> bool:
        """Say whether a KEK was seen to be the one that its kek_id stands for."""


class DataKeyCheck:
    """Sees that there is a data key and that it is open, and that every KEK is the right one.

    Each needs the other: a data key is opened by a KEK, and a KEK's record is judged by a data key.
    So what is there is opened first, and only KEKs that are not refused may make a key.

    Args:
        engine: connections of a runtime role.
        keyring: the configured KEKs.
        ring: the data keys.
        registry: what the database knows of the KEKs.
    """

    def __init__(
        self, engine: AsyncEngine, keyring: Keyring, ring: Ring, registry: Registry
    ) -> None:
        self._engine = engine
        self._keyring = keyring
        self._ring = ring
        self._registry = registry
        self._refusal: str | None = None
        self._refused_until = float("-inf")

    @property
    def problem(self) -> str | None:
        """Why no data key can be used; None when one can."""
        problem = self._ring.problem
        return self._refusal or problem if problem else None

    async def run(self) -> None:
        """Check once, and make a data key where there is none and can be none.

        Raises:
            Misconfigured: a KEK is not the right one, or two data keys vouch for themselves.
            DatabaseError: the database can't be asked now.
        """
        await self._ring.load()
        await self._registry.compare()
        if self._ring.is_empty:
            await self._make_first()
        elif self._ring.is_doubled:
            raise Misconfigured(self._ring.problem or "")
        await self._registry.record()

    async def _make_first(self) -> None:
        self._refuse_unproven()
        if asyncio.get_running_loop().time() < self._refused_until:
            return
        try:
            key, wrap = await make_data_key(self._keyring)
        except Misconfigured:
            raise
        except KekError as error:
            # Its part of the readiness says so, too; the next look tries again.
            self._refusal = f"no data key can be made now: {error}"
            return
        bad = [record.id for record in self._ring.bad]
        there = await add_record(self._engine, key, wrap, bad)
        if there is None:
            self._refusal = _SEALED
            self._refused_until = asyncio.get_running_loop().time() + _REFUSED_SECONDS
            log.error("data_key_not_made", reason=_SEALED)
            return
        self._refusal = None
        if there == key.id:
            log.info("data_key_made", data_key=key.id, kek_id=wrap.kek_id)
        # Whoever was faster: what is there is read and opened, as by everybody else.
        await self._ring.load(anew=True)
        self._refuse_unproven()

    def _refuse_unproven(self) -> None:
        """Refuse a KEK that opens no record of its own, where nothing else says it is right.

        Raises:
            Misconfigured: the message names the cure.
        """
        for record in self._ring.bad:
            for kek_id in sorted({wrap.kek_id for wrap in record.wraps}):
                if not self._registry.is_proven(kek_id):
                    raise Misconfigured(does_not_open(record, kek_id))
