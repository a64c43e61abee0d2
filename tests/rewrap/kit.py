"""What tests of re-wraps share: rows with a ledger of their keys, KEKs that count, and a worker."""

import base64
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.datakeys.ring import Ring
from custody.rewrap.options import Options
from custody.rewrap.runs import Run
from custody.rewrap.storing import Counts
from custody.rewrap.worker import RewrapRun
from custody.vault.key_check import key_check_value
from kek_backends.base import KekBackend, OwnedWrap, Rewrapped, Wrap
from kek_backends.binding import Binding, Purpose
from kek_backends.env import EnvKek
from kek_backends.keyring import Keyring
from kek_backends.uri import KekUri
from tests.bindings import of
from tests.db.connecting import engine_of
from tests.db.old_service import KEK as OLD_KEY
from tests.e2e.browser import encode
from tests.eventually import eventually
from tests.leaks import remember
from tests.many_rows import copy_rows
from tests.sealed_rows import data_key_of, past_triggers, reseal
from tests.servers import Database

NEW_KEY = remember(encode(b"the KEK that comes after: test 2"))
OLD, NEW = "env:OLD", "env:NEW?id=env-v2"
KEKS = {"OLD": OLD_KEY, "NEW": NEW_KEY}
SETTINGS = {"CUSTODY_KEK": NEW, "CUSTODY_OLD_KEKS": OLD, **KEKS}
ROWS = "SELECT * FROM auth.encryption_vaults ORDER BY user_id"

STORED_MORE = (
    "SELECT count(*) > $1 FROM auth.encryption_vaults"
    " WHERE kek_id = 'env-v2' AND format_version = 3 AND wrapped_mk IS NOT NULL"
)
# What is done to some users' rows: zero-knowledge mode is turned on, wraps are tampered with.
_GO_ZK = (
    "UPDATE auth.encryption_vaults SET wrapped_mk = NULL, wrap_iv = NULL,"
    " recovery_wrapped_mk = 'r', recovery_iv = 'i', zero_knowledge = true"
    " WHERE user_id = ANY ($1::text[])"
)
DAMAGE = (
    "UPDATE auth.encryption_vaults SET wrapped_mk = reverse(wrapped_mk)"
    " WHERE user_id = ANY ($1::text[])"
)
# Lets so many seconds pass for the claims that nobody looks after any more.
AGE_CLAIMS = "UPDATE auth.rewrap_claims SET heartbeat_at = heartbeat_at - make_interval(secs => $1)"

Progress = Callable[[Run, Counts], None]
Hook = Callable[[str], Awaitable[None]]


class CountingKek(EnvKek):
    """A KEK in this process that counts, for each user, what is wrapped.

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

    async def prove(self) -> None:
        """Is proven elsewhere; here it would be counted."""

    async def _wrap(self, binding: Binding, key: bytes) -> Wrap:
        if binding.purpose is Purpose.MASTER_KEY:
            self.wrapped[binding.subject] += 1
            if self.before_wrap is not None:
                await self.before_wrap(binding.subject)
        return await super()._wrap(binding, key)


class Counted(CountingKek):
    """Counts for each user what is opened, too."""

    def __init__(self) -> None:
        super().__init__("env-v2", NEW_KEY)
        self.unwrapped = Counter[str]()

    async def _unwrap(self, binding: Binding, wrap: Wrap) -> bytes:
        if binding.purpose is Purpose.MASTER_KEY:
            self.unwrapped[binding.subject] += 1
        return await super()._unwrap(binding, wrap)


class Cheating(CountingKek):
    """Wraps another key than it was given, for some; its probes are right.

    Args:
        purpose: of the keys that it replaces.
    """

    def __init__(self, purpose: Purpose) -> None:
        super().__init__("env-v2", NEW_KEY)
        self._purpose = purpose

    async def _wrap(self, binding: Binding, key: bytes) -> Wrap:
        return await super()._wrap(binding, bytes(32) if binding.purpose is self._purpose else key)


class Inside(CountingKek):
    """A KMS that re-wraps by itself what it wrapped: wraps stay under one kek_id, as AWS's do."""

    def can_rewrap_from(self, source: KekBackend) -> bool:
        return source is self

    async def _rewrap(self, items: Sequence[OwnedWrap]) -> list[Rewrapped]:
        return [
            await self._wrap(item.binding, await self._unwrap(item.binding, item.wrap))
            for item in items
        ]


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
    await copy_rows(database, kek or old_kek(), ledger.items())
    return ledger


async def make_format_1(database: Database, ledger: Mapping[str, bytes]) -> None:
    """Give users of a ledger the rows that the old service wrote: not bound, no key check value."""
    async with past_triggers(database) as superuser:
        for user, key in ledger.items():
            nonce = secrets.token_bytes(12)
            sealed = AESGCM(base64.b64decode(OLD_KEY)).encrypt(nonce, key, b"")
            await _store(superuser, user, Wrap(encode(sealed), encode(nonce), 1, "env-v1"))


async def go_zk(database: Database, *users: str) -> None:
    """Turn zero-knowledge mode on for users, as they do."""
    await database.execute(_GO_ZK, users)
    await reseal(database, await data_key_of(database, old_kek()), *users)


async def rotate(database: Database, user: str, kek: KekBackend | None = None) -> bytes:
    """Give a user a new key, as POST /rotate does; returns it."""
    key = secrets.token_bytes(32)
    now = await database.value(
        "SELECT generation FROM auth.encryption_vaults WHERE user_id = $1", user
    )
    wrap, check = await (kek or new_kek()).wrap(of(user, now + 1), key), key_check_value(user, key)
    await _store(database, user, wrap, check, newer=1)
    await reseal(database, await data_key_of(database, old_kek()), user)
    return key


async def _store(
    connection: Any, user: str, wrap: Wrap, key_check: str | None = None, newer: int = 0
) -> None:
    await connection.execute(
        "UPDATE auth.encryption_vaults SET wrapped_mk = $2, wrap_iv = $3,"
        " format_version = $4::smallint, kek_id = $5, key_check = $6,"
        " generation = generation + $7, quarantined_at = NULL,"
        " quarantine_reason = NULL, seal = CASE WHEN $4::smallint < 3 THEN NULL ELSE seal END"
        " WHERE user_id = $1",
        *(user, wrap.wrapped_mk, wrap.wrap_iv, wrap.format_version, wrap.kek_id, key_check, newer),
    )


async def rows_of(database: Database) -> dict[str, dict[str, Any]]:
    return {row["user_id"]: dict(row) for row in await database.fetch(ROWS)}


async def opened(database: Database, keks: Keyring) -> dict[str, bytes]:
    """Return every key that the database has a wrap of."""
    found = {}
    for user, row in (await rows_of(database)).items():
        if row["wrapped_mk"] is not None:
            wrap = Wrap(row["wrapped_mk"], row["wrap_iv"], row["format_version"], row["kek_id"])
            found[user] = await keks.unwrap(of(user, row["generation"]), wrap)
    return found


async def stamps(database: Database) -> Counter[tuple[str, int]]:
    """Count the rows that have a wrap, by kek_id and format."""
    rows = (await rows_of(database)).values()
    return Counter(
        (row["kek_id"], row["format_version"]) for row in rows if row["wrapped_mk"] is not None
    )


async def has_stored(database: Database, more_than: int = 0) -> None:
    """Wait until more rows are under the new KEK."""
    await eventually(lambda: database.value(STORED_MORE, more_than), 30)


def rewrap_engine(database: Database) -> AbstractAsyncContextManager[AsyncEngine]:
    """Connect as custody_rewrap."""
    return engine_of(database.url("custody_rewrap"), 4)


def worker_of(
    engine: AsyncEngine, keks: Keyring, options: Options, *progress: Progress
) -> RewrapRun:
    """Return a worker as a process of its own has it: no data key is open yet."""
    ring = Ring(engine, keks, ttl=3600, max_age=86_400)
    return RewrapRun(engine, keks, ring, options, *progress)


async def rewrap(database: Database, keks: Keyring, *progress: Progress, **options: Any) -> Run:
    """Run one worker to its end; it reports progress."""
    async with rewrap_engine(database) as engine:
        return await worker_of(engine, keks, Options(**options), *progress).run()


def environ_of(database: Database) -> dict[str, str]:
    """Return the variables of a command that brings rows from the old KEK to the new one."""
    return SETTINGS | {"CUSTODY_REWRAP_DATABASE_URL": database.url("custody_rewrap")}
