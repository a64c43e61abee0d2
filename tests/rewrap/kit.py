"""What tests of re-wraps share: rows with a ledger of their keys, KEKs that count, and a worker."""

import base64
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db.engine import Dsn, create_engine
from custody.rewrap.options import Options
from custody.rewrap.runs import Run
from custody.rewrap.worker import RewrapRun
from kek_backends.base import KekBackend, OwnedWrap, Rewrapped, Wrap
from kek_backends.keyring import Keyring
from kek_backends.local import LocalKek
from kek_backends.uri import KekUri
from tests.db.old_service import KEK as OLD_KEY
from tests.leaks import remember
from tests.many_rows import copy_rows
from tests.servers import Database

NEW_KEY = remember(base64.b64encode(b"the KEK that comes after: test 2").decode())
OLD, NEW = "env:OLD", "env:NEW?id=env-v2"
KEKS = {"OLD": OLD_KEY, "NEW": NEW_KEY}
ROWS = "SELECT * FROM auth.encryption_vaults ORDER BY user_id"

Hook = Callable[[str], Awaitable[None]]


class CountingKek(LocalKek):
    """A KEK in this process that counts, for each user, what is wrapped and unwrapped.

    Args:
        kek_id: its stamp.
        key: 32 bytes in base64.
        before_wrap: waited for before each wrap, with the user's id: a user who is quicker.
    """

    def __init__(self, kek_id: str, key: str, before_wrap: Hook | None = None) -> None:
        uri = KekUri.parse(f"env:{kek_id.upper()}?id={kek_id}")
        super().__init__(uri=uri, kek_id=kek_id, key=base64.b64decode(key), development=False)
        self.before_wrap = before_wrap
        self.wrapped: Counter[str] = Counter()
        self.unwrapped: Counter[str] = Counter()

    @classmethod
    def from_uri(cls, uri: KekUri, *, environ: Mapping[str, str], development: bool) -> Any:
        raise NotImplementedError

    async def prove(self) -> None:
        """Is proven elsewhere; here it would be counted."""

    async def _wrap(self, user_id: str, master_key: bytes) -> Wrap:
        self.wrapped[user_id] += 1
        if self.before_wrap is not None:
            await self.before_wrap(user_id)
        return await super()._wrap(user_id, master_key)

    async def _unwrap(self, user_id: str, wrap: Wrap) -> bytes:
        self.unwrapped[user_id] += 1
        return await super()._unwrap(user_id, wrap)


class Inside(CountingKek):
    """A KMS that re-wraps by itself what it wrapped: wraps stay under one kek_id, as AWS's do."""

    def can_rewrap_from(self, source: KekBackend) -> bool:
        return source is self

    async def _rewrap(self, items: Sequence[OwnedWrap]) -> list[Rewrapped]:
        done: list[Rewrapped] = []
        for item in items:
            key = await LocalKek._unwrap(self, item.user_id, item.wrap)
            done.append(await self._wrap(item.user_id, key))
        return done


def old_kek() -> CountingKek:
    return CountingKek("env-v1", OLD_KEY)


def new_kek(before_wrap: Hook | None = None) -> CountingKek:
    return CountingKek("env-v2", NEW_KEY, before_wrap)


def keyring() -> Keyring:
    """From the old KEK to the new one."""
    return Keyring(new_kek(), [old_kek()])


async def fill(
    database: Database, count: int, *, kek: KekBackend | None = None, prefix: str = "user"
) -> dict[str, bytes]:
    """Make users with a vault under a KEK, the old one unless told otherwise; return the ledger."""
    ledger = {f"{prefix}-{number:06}": secrets.token_bytes(32) for number in range(count)}
    await copy_rows(database, (kek or old_kek()).wrap, ledger.items())
    return ledger


async def make_format_1(database: Database, ledger: Mapping[str, bytes]) -> None:
    """Give users of a ledger the rows that the old service wrote: not bound, no key check value."""
    old = AESGCM(base64.b64decode(OLD_KEY))
    for user, key in ledger.items():
        nonce = secrets.token_bytes(12)
        wrap = (base64.b64encode(part).decode() for part in (old.encrypt(nonce, key, b""), nonce))
        await database.execute(
            "UPDATE auth.encryption_vaults SET wrapped_mk = $2, wrap_iv = $3, format_version = 1,"
            " kek_id = 'env-v1', key_check = NULL WHERE user_id = $1",
            user,
            *wrap,
        )


async def go_zk(database: Database, *users: str) -> None:
    """Turn zero-knowledge mode on."""
    await database.execute(
        "UPDATE auth.encryption_vaults SET wrapped_mk = NULL, wrap_iv = NULL,"
        " recovery_wrapped_mk = 'r', recovery_iv = 'i', zero_knowledge = true"
        " WHERE user_id = ANY ($1::text[])",
        list(users),
    )


async def rotate(database: Database, user: str, kek: KekBackend | None = None) -> bytes:
    """Give a user a new key, as POST /rotate does; returns it."""
    key = secrets.token_bytes(32)
    wrap = await LocalKek._wrap(kek or new_kek(), user, key)  # type: ignore[arg-type]
    await database.execute(
        "UPDATE auth.encryption_vaults SET wrapped_mk = $2, wrap_iv = $3, format_version = 2,"
        " kek_id = $4, key_check = NULL, generation = generation + 1, quarantined_at = NULL,"
        " quarantine_reason = NULL WHERE user_id = $1",
        user,
        wrap.wrapped_mk,
        wrap.wrap_iv,
        wrap.kek_id,
    )
    return key


async def damage(database: Database, *users: str) -> None:
    """Tamper with wraps."""
    await database.execute(
        "UPDATE auth.encryption_vaults SET wrapped_mk = reverse(wrapped_mk)"
        " WHERE user_id = ANY ($1::text[])",
        list(users),
    )


async def rows_of(database: Database) -> dict[str, dict[str, Any]]:
    return {row["user_id"]: dict(row) for row in await database.fetch(ROWS)}


async def opened(database: Database, keks: Keyring) -> dict[str, bytes]:
    """Return every key that the database has a wrap of."""
    found = {}
    for user, row in (await rows_of(database)).items():
        if row["wrapped_mk"] is not None:
            wrap = Wrap(row["wrapped_mk"], row["wrap_iv"], row["format_version"], row["kek_id"])
            found[user] = await keks.unwrap(user, wrap)
    return found


async def stamps(database: Database) -> Counter[tuple[str, int]]:
    """Count the rows that have a wrap, by kek_id and format."""
    return Counter(
        (row["kek_id"], row["format_version"])
        for row in (await rows_of(database)).values()
        if row["wrapped_mk"] is not None
    )


async def run_audit(database: Database) -> list[tuple[str, str | None, int]]:
    """Return the audit rows of runs: they are nobody's."""
    return await database.audit("")


@asynccontextmanager
async def rewrap_engine(database: Database) -> AsyncIterator[AsyncEngine]:
    """Connect as custody_rewrap."""
    engine = create_engine(Dsn(database.url("custody_rewrap")), pool_size=4)
    try:
        yield engine
    finally:
        await engine.dispose()


async def rewrap(database: Database, keks: Keyring, **options: Any) -> Run:
    """Run one worker to its end."""
    async with rewrap_engine(database) as engine:
        return await RewrapRun(engine, keks, Options(**options)).run()


@dataclass
class Ticks:
    """Takes note of what a worker reports."""

    done: int = 0
    moved: int = 0
    failed: int = 0
    steps: list[int] = field(default_factory=list)

    def __call__(self, _run: Run, counts: Any) -> None:
        self.done += counts.done
        self.moved += counts.moved
        self.failed += counts.failed
        self.steps.append(counts.done)
