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
    """What new wraps of users' keys are made with, and the active KEK, as a run needs them.

    They are one and the same, unless data keys wrap users' keys.

    Args:
        engine: connections of the role custody_rewrap.
        keyring: all that users' keys are wrapped under.
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
        self._data_keys = DataKeyCheck(engine, keyring.keks, ring, self._registry)

    @property
    def kek_id(self) -> str:
        """That of the active KEK, which data keys are brought to.

        Raises:
            Transient: its KMS has not said it yet.
        """
        if self._active.kek_id is None:
            raise Transient(f"{self._active.uri.text}: not reached yet")
        return self._active.kek_id

    async def ready(self) -> str:
        """Return the kek_id that rows are brought to, once a run may begin; record what is new.

        Every KEK is compared with the registry, not the active one alone: with a wrong old key all
        its rows would seem damaged, and be set aside.

        Raises:
            Blocked: a live daemon can't read it, or writes under another KEK.
            Misconfigured: a KEK is not the one that its kek_id stands for, or does not bind.
            KekError, DatabaseError: it can't be checked now.
        """
        kek_id = await self._prove()
        # First, for the registry would take the active KEK as everybody's.
        await self.check_instances()
        await self._data_keys.run()
        try:
            await self._registry.admit(kek_id)
        except Transient:
            # What is on record needs no data key; what is new can't be recorded without one.
            if (problem := self._data_keys.problem) is not None:
                raise Transient(problem) from None
            raise
        target = self._of_rows()
        await self._check_readers(target)
        return target

    async def see_unchanged(self) -> None:
        """Make sure that every KEK is still the one that its kek_ids stand for.

        Raises:
            Misconfigured: one is not.
            KekError, DatabaseError: it can't be checked now.
        """
        for backend in self._keyring.keks:
            await backend.refresh()
        await self._data_keys.run()

    async def foresee(self) -> str:
        """Return the kek_id that rows would be brought to as :meth:`ready` does; record nothing.

        Raises:
            Misconfigured: as for a run.
            KekError, DatabaseError: as for a run.
        """
        kek_id = await self._prove()
        await self._ring.load()
        await self._registry.compare()
        # The first data key is made by a run, or by a daemon.
        return self._keyring.active.kek_id or kek_id

    async def check_instances(self) -> None:
        """Make sure that every live daemon can read the active KEK, and wraps under no other.

        Raises:
            Blocked: one can't, or does; the message names the cure.
            Transient: its KMS has not said yet what it stamps.
        """
        uri, kek_id = self._active.uri.key_text, self.kek_id
        writes = self._keyring.active.uri.text
        for instance in await instances.live(self._engine):
            where = f"the daemon on {instance.host} (process {instance.process})"
            if not instance.can_read(uri, kek_id):
                raise Blocked(
                    f"{where} can't read {uri}: list it there in CUSTODY_KEK or CUSTODY_OLD_KEKS "
                    "and restart it"
                )
            if not instance.writes(writes, self._keyring.active.kek_id, kek_id):
                raise Blocked(
                    f"{where} still writes under {instance.writes_uri}: set CUSTODY_KEK to "
                    f"{writes} there and restart it"
                )

    async def _check_readers(self, target: str) -> None:
        """Make sure that every live daemon has the data key open which rows are brought to.

        Raises:
            Blocked: one has not.
        """
        if target == self._active.kek_id:
            return  # no data key; it was checked
        for instance in await instances.live(self._engine):
            if target not in instance.reads:
                raise Blocked(
                    f"the daemon on {instance.host} (process {instance.process}) has not opened "
                    f"the data key {target}: it does so within seconds; if not, its /readyz says "
                    "why, or it is of a release before envelope mode: upgrade it first"
                )

    async def _prove(self) -> str:
        """Return the active KEK's kek_id, once it is seen to bind."""
        await self._active.refresh()
        await self._active.prove()
        return self.kek_id

    def _of_rows(self) -> str:
        target = self._keyring.active.kek_id
        if target is None:
            raise Transient(self._data_keys.problem or "no data key is open")
        return target

    @property
    def _active(self) -> KekBackend:
        return self._keyring.keks.active
