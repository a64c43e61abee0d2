"""The KEKs of a daemon as one object: loaded, proven, registered, watched and swapped."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db.errors import DatabaseError
from custody.keks import instances
from custody.keks.instances import Instance
from custody.keks.plain import in_clear, refuse_plain
from custody.keks.registry import KekRegistry, RecordSealer
from custody.keks.watch import KekWatch, probe_keks
from custody.settings import ConfigurationError, Settings
from kek_backends.base import KekBackend
from kek_backends.errors import Misconfigured
from kek_backends.keyring import Keyring
from kek_backends.loader import load, load_keyring
from kek_backends.uri import KekUri

# As long as a user's call may take: those that began before a change still have their KEK.
LAST_CALLS_SECONDS = 5.0

log = structlog.get_logger()


def load_keks(settings: Settings, environ: Mapping[str, str]) -> Keyring:
    """Build the KEKs that the settings name. No KMS is asked.

    Args:
        settings: which.
        environ: the variables that backends may read.

    Raises:
        ConfigurationError: naming the URI and the cure.
    """
    try:
        keyring = load_keyring(
            settings.kek, settings.old_keks, environ=environ, development=settings.development
        )
    except Misconfigured as error:
        raise ConfigurationError(str(error)) from None
    refuse_plain(keyring, settings)
    return keyring


async def _loaded(uri: str, settings: Settings, environ: Mapping[str, str]) -> KekBackend:
    """Build one in a thread: one of a third party may take its time to be imported."""
    return await asyncio.to_thread(
        partial(load, uri, environ=environ, development=settings.development)
    )


@asynccontextmanager
async def loaded_keks(settings: Settings, environ: Mapping[str, str]) -> AsyncIterator[Keyring]:
    """Build the KEKs as :func:`load_keks`, and close them at the end of the block."""
    keyring = load_keks(settings, environ)
    try:
        _warn_of_plain(keyring)
        yield keyring
    finally:
        await keyring.close()


def _warn_of_plain(backends: Iterable[KekBackend]) -> None:
    """Log those that are allowed to be asked in clear."""
    for problem in map(in_clear, backends):
        if problem:
            log.warning("unsafe_setting", part="kek", problem=problem)


class Keks:
    """The KEKs of a daemon, with what the database knows of them.

    Args:
        keyring: all that users' keys are wrapped under; stays the same object while its old KEKs
            are swapped.
        engine: connections of the role custody_app.
        instance_id: of this life of the daemon.
        sealer: makes and judges the seals of their records.
        legacy: as for :class:`KekRegistry`.
        observe: called for each KEK that is used, before its KMS is asked anything.
    """

    def __init__(
        self,
        keyring: Keyring,
        engine: AsyncEngine,
        instance_id: str,
        sealer: RecordSealer,
        *,
        legacy: bool = False,
        observe: Callable[[KekBackend], None] = lambda _kek: None,
    ) -> None:
        self.keyring = keyring
        self._observe = observe
        for kek in keyring.keks:
            observe(kek)
        self._engine = engine
        self._sealer = sealer
        self._legacy = legacy
        self._registry = self._registry_of(keyring)
        self._watch = KekWatch(keyring.keks)
        self._id = instance_id
        self._closing: set[asyncio.Task[None]] = set()
        self._ending = asyncio.Event()

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong now, in one line each, as far as the last calls say; asks nobody."""
        own = (one.problem for one in self.keyring.keks if self._is_asked(one))
        return (*(problem for problem in own if problem), *self._registry.problems)

    @property
    def degraded(self) -> tuple[str, ...]:
        """What is wrong with KEKs that no user's key is asked of: data keys are kept meanwhile."""
        own = (one.problem for one in self.keyring.keks if not self._is_asked(one))
        return tuple(problem for problem in own if problem)

    @property
    def has_wrong_rows(self) -> bool:
        """Whether the last look at the registry found rows or KEKs that are not right."""
        return bool(self._registry.problems)

    @property
    def in_rows(self) -> tuple[str, ...]:
        """The kek_ids that rows carried at the last look."""
        return self._registry.in_rows

    async def prove(self) -> None:
        """Ask every KMS for its key, and prove that the active KEK binds; as :func:`probe_keks`."""
        await probe_keks(self.keyring.keks)

    async def compare(self) -> None:
        """Compare every KEK with the registry; see :meth:`KekRegistry.compare`."""
        await self._registry.compare()

    async def record(self) -> None:
        """Record what was compared; see :meth:`KekRegistry.record`."""
        await self._registry.record()

    def is_proven(self, kek_id: str) -> bool:
        """Say whether a KEK is the one that is on record; see :meth:`KekRegistry.is_proven`."""
        return self._registry.is_proven(kek_id)

    async def admit(self, kek_id: str) -> None:
        """Make sure that a wrap may be stored; see :meth:`KekRegistry.admit`."""
        await self._registry.admit(kek_id)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Keep them fresh for the length of the block, also those that are swapped in.

        At its end this instance ends, too: nobody waits for it any more.
        """
        try:
            async with self._watch:
                yield
        finally:
            with contextlib.suppress(DatabaseError):
                await instances.forget(self._engine, self._id)
            # Not cancelled: a task that has not begun would close nothing.
            self._ending.set()
            await asyncio.gather(*self._closing, return_exceptions=True)

    async def record_instance(self, seals_with: str | None) -> None:
        """Record which KEKs and data keys this instance reads and writes: nobody goes past it.

        Args:
            seals_with: id of the current data key; None: it is not open.

        Raises:
            DatabaseError: the database can't be asked now.
        """
        active, keks = self.keyring.active, self.keyring.keks
        await instances.record(
            self._engine,
            Instance(
                id=self._id,
                host=socket.gethostname(),
                process=os.getpid(),
                writes_uri=active.uri.text,
                writes_kek_id=active.kek_id,
                active_kek_id=keks.active.kek_id,
                reads=(*(kek.uri.key_text for kek in keks), *self.keyring.kek_ids),
                seals_with=seals_with,
            ),
        )

    async def prepare(self, settings: Settings, environ: Mapping[str, str]) -> Keyring:
        """Return a keyring with the active KEK and the old KEKs of new settings, each proven.

        A KEK that is in use stays as it is. The registry must know the new ones under their
        fingerprints, or records them.

        Args:
            settings: the new ones.
            environ: the variables that backends may read.

        Raises:
            ConfigurationError, Misconfigured: a KEK can't be used; nothing has changed.
            DatabaseError: the database can't be asked now.
        """
        active = self.keyring.keks.active
        present = {kek.uri.key_text: kek for kek in self.keyring.keks}
        try:
            wanted = [KekUri.parse(uri).key_text for uri in settings.old_keks]
            future = KekUri.parse(settings.kek).key_text
        except Misconfigured as error:
            raise ConfigurationError(str(error)) from None
        if twice := sorted({uri for uri in wanted if [future, *wanted].count(uri) > 1}):
            raise ConfigurationError(f"KEK {twice[0]} is listed twice: remove one")
        if future in present:
            # Active after a restart. Instances that had theirs write under it already.
            wanted.append(future)
        old: list[KekBackend] = []
        fresh: list[KekBackend] = []
        try:
            for uri in wanted:
                if uri == active.uri.key_text:
                    continue  # until a restart
                if uri not in present:
                    fresh.append(await _loaded(uri, settings, environ))
                    self._observe(fresh[-1])
                old.append(present.get(uri) or fresh[-1])
            keyring = Keyring(active, old)
            refuse_plain(keyring, settings)
            if fresh:
                _warn_of_plain(fresh)
                await probe_keks(keyring)
                await self._registry_of(keyring).check()
        except BaseException:
            for backend in fresh:
                await backend.close()
            raise
        return keyring

    def replace(self, prepared: Keyring) -> None:
        """Use what was prepared from now on; what is in use no more is closed a little later.

        Args:
            prepared: by :meth:`prepare`.
        """
        dropped = self.keyring.replace(prepared)
        self._watch.follow()
        for backend in dropped:
            task = asyncio.create_task(self._close_later(backend))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _is_asked(self, kek: KekBackend) -> bool:
        """Say whether users' keys are wrapped under a KEK, or not only data keys."""
        keys = self.keyring
        return keys.active is keys.keks.active or any(map(kek.holds, self._registry.in_rows))

    def _registry_of(self, keyring: Keyring) -> KekRegistry:
        return KekRegistry(self._engine, keyring, self._sealer, legacy=self._legacy)

    async def _close_later(self, backend: KekBackend) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ending.wait(), LAST_CALLS_SECONDS)
        await backend.close()
