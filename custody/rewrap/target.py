"""Where a run brings rows to: proven, compared with the registry, and readable by all daemons."""

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.datakeys.check import DataKeyCheck
from custody.datakeys.ring import Ring
from custody.datakeys.sealer import Sealer
from custody.keks import instances
from custody.keks.registry import KekRegistry
from kek_backends.base import KekBackend
from kek_backends.errors import Transient
from kek_backends.keyring import Keyring


class Blocked(Exception):
    """The run must not go on now; the message says what to do first."""


class Target:
    """The active KEK, as a run needs it.

    Args:
        engine: connections of the role custody_rewrap.
        keyring: all KEKs.
        ring: the data keys.
        legacy: whether rows that are not sealed are brought over.
    """

    def __init__(
        self, engine: AsyncEngine, keyring: Keyring, ring: Ring, *, legacy: bool = False
    ) -> None:
        self._engine = engine
        self._keyring = keyring
        self._ring = ring
        self._registry = KekRegistry(engine, keyring, Sealer(ring), legacy=legacy)
        self._data_keys = DataKeyCheck(engine, keyring, ring, self._registry)

    async def ready(self) -> str:
        """Return its kek_id, once a run may begin; and record what is new of the KEKs.

        Every KEK is compared with the registry, not the active one alone: with a wrong old key all
        its rows would seem damaged, and be set aside.

        Raises:
            Blocked: a live daemon can't read it, or writes under another KEK.
            Misconfigured: a KEK is not the one that its kek_id stands for, or does not bind.
            KekError, DatabaseError: it can't be checked now.
        """
        kek_id = await self._prove()
        # First, for the registry would take the active KEK as everybody's.
        await self.check_instances(kek_id)
        await self._data_keys.run()
        try:
            await self._registry.admit(kek_id)
        except Transient:
            # What is on record needs no data key; what is new can't be recorded without one.
            if (problem := self._data_keys.problem) is not None:
                raise Transient(problem) from None
            raise
        return kek_id

    async def see_unchanged(self) -> None:
        """Make sure that every KEK is still the one that its kek_ids stand for.

        Raises:
            Misconfigured: one is not.
            KekError, DatabaseError: it can't be checked now.
        """
        for backend in self._keyring:
            await backend.refresh()
        await self._data_keys.run()

    async def foresee(self) -> str:
        """Return its kek_id as :meth:`ready` does, and record nothing.

        Raises:
            Misconfigured: as for a run.
            KekError, DatabaseError: as for a run.
        """
        kek_id = await self._prove()
        await self._ring.load()
        await self._registry.compare()
        return kek_id

    async def check_instances(self, kek_id: str) -> None:
        """Make sure that every live daemon can read what is wrapped, and writes nothing stale.

        Args:
            kek_id: of the active KEK.

        Raises:
            Blocked: one can't, or does; the message names the cure.
        """
        uri = self._active.uri.text
        for instance in await instances.live(self._engine):
            where = f"the daemon on {instance.host} (process {instance.process})"
            if not instance.can_read(uri, kek_id):
                raise Blocked(
                    f"{where} can't read {uri}: list it there in CUSTODY_KEK or CUSTODY_OLD_KEKS "
                    "and restart it"
                )
            if instance.writes_uri != uri and instance.writes_kek_id != kek_id:
                raise Blocked(
                    f"{where} still writes under {instance.writes_uri}: set CUSTODY_KEK to {uri} "
                    "there and restart it"
                )

    async def _prove(self) -> str:
        await self._active.refresh()
        await self._active.prove()
        if self._active.kek_id is None:
            raise Transient(f"{self._active.uri.text}: not reached yet")
        return self._active.kek_id

    @property
    def _active(self) -> KekBackend:
        return self._keyring.active
