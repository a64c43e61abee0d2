"""The second root: one more KEK that data keys are wrapped under, and that serves nobody.

It is loaded as other KEKs are, and is in no keyring: nobody but a re-wrap and the drill asks it, so
its outage keeps nobody from a key.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.keks.plain import refuse_plain
from custody.keks.proof import RETIRED, RecordSealer, compare, read_record, retired
from custody.keks.registry import KekRegistry
from custody.settings import ConfigurationError, Settings
from kek_backends.base import KekBackend
from kek_backends.errors import Misconfigured, Transient
from kek_backends.keyring import Keyring
from kek_backends.loader import load

VARIABLE = "CUSTODY_SECOND_KEK"

# A KMS gives up by itself before; a backend of others may not.
_SECONDS = 20.0


def load_second(
    settings: Settings, environ: Mapping[str, str], keyring: Keyring | None = None
) -> KekBackend | None:
    """Build the KEK of the second root, or None where there is none. No KMS is asked.

    Args:
        settings: which.
        environ: the variables that backends may read.
        keyring: the KEKs that it must be another than; None: they may be gone.

    Raises:
        ConfigurationError: naming the URI and the cure.
    """
    if settings.second_kek is None:
        return None
    try:
        backend = load(settings.second_kek, environ=environ, development=settings.development)
        if keyring is not None:
            refuse_same(keyring, backend)
    except Misconfigured as error:
        raise ConfigurationError(f"{VARIABLE}: {error}") from None
    refuse_plain([backend], settings)
    return backend


def refuse_same(keyring: Keyring, backend: KekBackend) -> None:
    """Refuse a second root that is one of the KEKs, as far as is known of them.

    Args:
        keyring: the KEKs.
        backend: the KEK of the second root.

    Raises:
        Misconfigured: it is; the message names the cure.
    """
    for other in keyring:
        if _is_same(other, backend):
            raise Misconfigured(
                f"KEK {backend.uri.text} and KEK {other.uri.text} are one key, or share the kek_id "
                f"{backend.kek_id}: the second root must be another KEK"
            )


def _is_same(one: KekBackend, two: KekBackend) -> bool:
    """Say whether two KEKs are the same key, by what they hold, or by their material."""
    if one.kek_id is None or two.kek_id is None:
        return False
    # Both ways: an alias holds whatever is on record of its kind, and is no other key for that.
    if one.holds(two.kek_id) and two.holds(one.kek_id):
        return True
    # Of a key in a KMS a fingerprint may say no more than when it was made.
    in_memory = one.in_process and two.in_process
    return in_memory and one.fingerprint(one.kek_id) == two.fingerprint(two.kek_id)


async def refuse_retired(engine: AsyncEngine, backend: KekBackend, sealer: RecordSealer) -> None:
    """Refuse a second root whose kek_id is retired.

    Args:
        engine: connections of a runtime role.
        backend: its KEK, whose kek_id is known.
        sealer: judges the record.

    Raises:
        Misconfigured: it is; the message names the cure.
        DatabaseError: the database can't be asked now.
    """
    kek_id = backend.kek_id or ""
    record = await read_record(engine, kek_id)
    if record is not None and record["state"] == RETIRED:
        raise Misconfigured(retired(backend, kek_id, record, sealer, VARIABLE))


@asynccontextmanager
async def second_root(
    settings: Settings,
    environ: Mapping[str, str],
    engine: AsyncEngine,
    keyring: Keyring,
    sealer: RecordSealer,
) -> AsyncIterator["SecondRoot | None"]:
    """Build the second root, where there is one, and close it at the end of the block.

    Args:
        settings: which.
        environ: the variables that backends may read.
        engine: connections of the role custody_rewrap.
        keyring: the KEKs.
        sealer: makes and judges the seals of their records.

    Raises:
        ConfigurationError: as :func:`load_second`.
    """
    backend = load_second(settings, environ, keyring)
    if backend is None:
        yield None
        return
    try:
        yield SecondRoot(backend, engine, keyring, sealer)
    finally:
        await backend.close()


class SecondRoot:
    """The KEK of ``CUSTODY_SECOND_KEK``, as a re-wrap needs it.

    Args:
        backend: the KEK.
        engine: connections of the role custody_rewrap.
        keyring: the KEKs that serve; its old ones may be swapped.
        sealer: makes and judges the seals of records.
    """

    def __init__(
        self, backend: KekBackend, engine: AsyncEngine, keyring: Keyring, sealer: RecordSealer
    ) -> None:
        self._backend = backend
        self._engine = engine
        self._keyring = keyring
        self._sealer = sealer
        # Which of its kek_ids were proven to bind: a KMS may come to have others.
        self._proven: set[str] = set()

    @property
    def uri(self) -> str:
        """Its URI."""
        return self._backend.uri.text

    def keyring(self) -> Keyring:
        """Return a keyring that wraps under it, and unwraps with all KEKs."""
        return Keyring(self._backend, list(self._keyring))

    async def look(self) -> str:
        """Return its kek_id, once it is known to be fit to wrap; nothing is recorded.

        Raises:
            Misconfigured: it is one of the other KEKs, or retired, or not what its kek_id stands
                for, or it does not bind.
            KekError, DatabaseError: it can't be checked now.
        """
        try:
            async with asyncio.timeout(_SECONDS):
                kek_id = await self._prove()
                await refuse_retired(self._engine, self._backend, self._sealer)
                fingerprint = self._backend.fingerprint(kek_id) or kek_id
                await compare(self._engine, self._backend, kek_id, fingerprint, self._sealer)
        except TimeoutError:
            raise Transient(f"{self.uri}: no answer in time") from None
        return kek_id

    async def admit(self) -> str:
        """Return its kek_id, once it is on record: what is wrapped under it may be stored.

        Raises:
            Misconfigured, KekError, DatabaseError: as :meth:`look`.
        """
        kek_id = await self.look()
        # Behind the active KEK, so it is recorded as one that does not wrap users' keys.
        everyone = Keyring(self._keyring.active, [*list(self._keyring)[1:], self._backend])
        await KekRegistry(self._engine, everyone, self._sealer).admit(kek_id)
        return kek_id

    async def _prove(self) -> str:
        await self._backend.refresh()
        kek_id = self._backend.kek_id
        if kek_id is None:
            raise Transient(f"{self.uri}: not reached yet")
        refuse_same(self._keyring, self._backend)
        if kek_id not in self._proven:
            await self._backend.prove()
            self._proven.add(kek_id)
        return kek_id
