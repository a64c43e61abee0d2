"""What ``make bench-rewrap`` measures, each in a process of its own, whose CPU and memory count."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import asyncpg

from custody.datakeys.ring import Ring
from custody.db.engine import Dsn, create_engine
from custody.ops.garbage import look_seldom
from custody.ops.logging import configure
from custody.rewrap.options import Options, Verify
from custody.rewrap.worker import RewrapRun
from custody.settings import LogFormat, LogLevel
from custody.vault.key_check import is_master_key
from kek_backends.base import KekBackend, OwnedWrap, Rewrapped, Wrap
from kek_backends.binding import Binding, Purpose
from kek_backends.keyring import Keyring
from kek_backends.loader import load_keyring
from kek_backends.uri import KekUri
from tests.bindings import of

_POOL_SIZE = 4
_READ = (
    "SELECT user_id, generation, wrapped_mk, wrap_iv, format_version, kek_id, key_check,"
    " row_version FROM auth.encryption_vaults WHERE wrapped_mk IS NOT NULL AND user_id > $1"
    " ORDER BY user_id LIMIT $2"
)
_STORE = (
    "UPDATE auth.encryption_vaults SET wrapped_mk = $3, wrap_iv = $4, format_version = $5,"
    " kek_id = $6, rewrapped_at = now() WHERE user_id = $1 AND row_version = $2"
)


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement.

    Args:
        kind: a name of KINDS.
        url: of the database, as custody_rewrap.
        active: URI of the KEK to bring rows to.
        old: URIs of the others.
        environ: what the KEKs read.
        rows: how many to do.
    """

    kind: str
    url: str = field(repr=False)
    active: str
    old: tuple[str, ...]
    environ: dict[str, str] = field(repr=False)
    rows: int


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured.

    Args:
        rows: done.
        seconds: it took.
        cpu: seconds of CPU that the process used meanwhile; not PostgreSQL's, nor the KMS's.
        peak: MiB of memory that the process held at most.
    """

    rows: int
    seconds: float
    cpu: float
    peak: float

    @property
    def rate(self) -> float:
        """Rows a second."""
        return self.rows / self.seconds


class Ready(KekBackend):
    """A KEK without cryptography: each of its wraps is ready-made, and has the size of a real one.

    Args:
        model: a real wrap.
        keyring: does what is done for the data key, which must be right.
    """

    def __init__(self, model: Wrap, keyring: Keyring) -> None:
        self._uri = KekUri.parse(f"ready:made?id={model.kek_id}")
        self._made = model
        self._keyring = keyring

    @classmethod
    def from_uri(cls, uri: KekUri, *, environ: Mapping[str, str], development: bool) -> Self:
        """No URI names it."""
        raise NotImplementedError

    @property
    def uri(self) -> KekUri:
        """For messages."""
        return self._uri

    @property
    def kek_id(self) -> str:
        """The model's."""
        return self._made.kek_id

    def fingerprint(self, kek_id: str) -> None:
        """There is no key."""

    def can_rewrap_from(self, source: KekBackend) -> bool:
        """From anyone."""
        return True

    async def prove(self) -> None:
        """There is nothing to prove."""

    async def _wrap(self, binding: Binding, key: bytes) -> Wrap:
        return self._made

    async def _unwrap(self, binding: Binding, wrap: Wrap) -> bytes:
        return await self._keyring.unwrap(binding, wrap)

    async def _rewrap(self, items: Sequence[OwnedWrap]) -> list[Rewrapped]:
        if items[0].binding.purpose is Purpose.DATA_KEY:
            return await self._keyring.rewrap(items)
        return [self._made] * len(items)


async def _worker(case: Case, keyring: Keyring) -> None:
    """The worker as it is."""
    await _run(case, keyring, Options())


async def _deep(case: Case, keyring: Keyring) -> None:
    """The worker with a new data key: each row is judged, re-wrapped and sealed anew."""
    await _run(case, keyring, Options(deep=True))


async def _bare(case: Case, keyring: Keyring) -> None:
    """The same claims and UPDATEs, with no cryptography."""
    model = await keyring.wrap(of("user-00000000"), bytes(range(32)))
    old = [backend for backend in keyring if backend is not keyring.active]
    await _run(case, Keyring(Ready(model, keyring), old), Options(verify=Verify.NONE))


async def _run(case: Case, keyring: Keyring, options: Options) -> None:
    engine = create_engine(Dsn(case.url), pool_size=_POOL_SIZE)
    try:
        ring = Ring(engine, keyring, ttl=3600, max_age=86_400)
        done = await RewrapRun(engine, keyring, ring, options).run()
    finally:
        await engine.dispose()
    assert (done.state, done.done) == ("done", case.rows), done


async def _single(case: Case, keyring: Keyring) -> None:
    """One row a transaction: read, unwrap, wrap, guarded UPDATE, commit."""
    connection = await asyncpg.connect(case.url)
    above = ""
    try:
        for _ in range(case.rows):
            async with connection.transaction():
                (row,) = await connection.fetch(_READ, above, 1)
                (wrap,) = await keyring.rewrap([_item(row)])
                assert isinstance(wrap, Wrap), wrap
                columns = wrap.wrapped_mk, wrap.wrap_iv, wrap.format_version, wrap.kek_id
                await connection.execute(_STORE, row["user_id"], row["row_version"], *columns)
            above = row["user_id"]
    finally:
        await connection.close()


async def _calls(case: Case, keyring: Keyring) -> None:
    """One call of the KEK after the other, and no database meanwhile."""
    connection = await asyncpg.connect(case.url)
    rows = await connection.fetch(_READ, "", case.rows)
    await connection.close()
    for row in rows:
        (wrap,) = await keyring.rewrap([_item(row)])
        assert isinstance(wrap, Wrap), wrap


def _item(row: Any) -> OwnedWrap:
    user, check = row["user_id"], row["key_check"]
    wrap = Wrap(row["wrapped_mk"], row["wrap_iv"], row["format_version"], row["kek_id"])
    binding = Binding(user, row["generation"])
    return OwnedWrap(binding, wrap, lambda key: is_master_key(user, key, check))


KINDS: dict[str, Callable[[Case, Keyring], Awaitable[None]]] = {
    "worker": _worker,
    "deep": _deep,
    "bare": _bare,
    "single": _single,
    "calls": _calls,
}


def measure(case: Case) -> Measured:
    """Do a case in this process, and say what it took."""
    configure(LogLevel.WARNING, LogFormat.TEXT)
    return asyncio.run(_measure(case))


async def _measure(case: Case) -> Measured:
    keyring = load_keyring(case.active, case.old, environ=case.environ, development=False)
    try:
        for backend in keyring:
            await backend.refresh()
        look_seldom()  # as the command does
        began, cpu_began = time.perf_counter(), time.process_time()
        await KINDS[case.kind](case, keyring)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    finally:
        await keyring.close()
    return Measured(case.rows, seconds, cpu, _peak())


def _peak() -> float:
    # Not getrusage: it remembers the parent's size from before the exec.
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024
