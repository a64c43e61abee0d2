"""What a database administrator does, or sets, beside a daemon that serves."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from tests.chaos.fault import Fault
from tests.chaos.scene import Scene

_END = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'custody_app'"
_TABLES = ("auth.encryption_vaults", "auth.encryption_vault_audit")
# Shorter than anybody waits for a lock.
_SHORT_SECONDS = 0.5
_SETTLED_SECONDS = 1.0


async def lock_row(on: Scene, seconds: float) -> int:
    """Hold one user's row in an open transaction: nobody else is to notice."""
    victim = on.ledger.users[0]
    async with on.database.connect() as session, session.transaction():
        await session.execute(
            "SELECT FROM auth.encryption_vaults WHERE user_id = $1 FOR UPDATE", victim
        )
        async with on.all_are_served(but=victim):
            await asyncio.sleep(seconds)
    return 1


async def lock_tables(on: Scene, seconds: float) -> int:
    """Hold both tables against everybody, longer than anybody waits."""
    async with on.database.connect() as session, session.transaction():
        for table in _TABLES:
            await session.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        await asyncio.sleep(seconds)
    return 1


async def repack(on: Scene, seconds: float) -> int:
    """Hold a table against everybody for moments, as pg_repack does at its begin and end."""
    return await _again_and_again(
        on, seconds, "LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE", hold=True
    )


async def vacuum_full(on: Scene, seconds: float) -> int:
    """Write both tables anew, again and again."""
    return await _again_and_again(on, seconds, "VACUUM FULL {table}")


async def _again_and_again(on: Scene, seconds: float, sql: str, *, hold: bool = False) -> int:
    loop, count = asyncio.get_running_loop(), 0
    end = loop.time() + seconds
    async with on.all_are_served(), on.database.connect() as session:
        while loop.time() < end:
            table = _TABLES[count % 2]
            if hold:
                async with session.transaction():
                    await session.execute(sql.format(table=table))
                    await asyncio.sleep(_SHORT_SECONDS)
            else:
                await session.execute(sql.format(table=table))
            count += 1
            await asyncio.sleep(_SHORT_SECONDS / 2)
    return count


async def set_harmless(setting: str, on: Scene, seconds: float) -> int:
    """Set for the role what is to change nothing, once its sessions have it."""
    async with _set(on, setting):
        await asyncio.sleep(_SETTLED_SECONDS)
        async with on.all_are_served():
            await asyncio.sleep(seconds)
    return 1


async def set_harmful(setting: str, on: Scene, seconds: float) -> int:
    """Set for the role what nobody can be served with."""
    async with _set(on, setting):
        await asyncio.sleep(seconds)
    return 1


@asynccontextmanager
async def _set(on: Scene, setting: str) -> AsyncIterator[None]:
    """Set it, and end all sessions, so that the next ones have it; then take it back, and wait."""
    name = setting.partition(" = ")[0]
    await on.database.execute(f"ALTER ROLE custody_app SET {setting}")
    await on.database.execute(_END)
    try:
        yield
    finally:
        # Sessions that began with it keep it: to see to that is the daemon's part.
        await on.database.execute(f"ALTER ROLE custody_app RESET {name}")


FAULTS = (
    Fault("a user's row locked", lock_row),
    Fault("tables locked for long", lock_tables),
    Fault("locks as pg_repack's", repack),
    Fault("VACUUM FULL", vacuum_full),
    Fault(
        "role: serializable", partial(set_harmless, "default_transaction_isolation = serializable")
    ),
    Fault("role: statement_timeout 500 ms", partial(set_harmless, "statement_timeout = 500")),
    Fault("role: statement_timeout 1 ms", partial(set_harmful, "statement_timeout = 1")),
    Fault("role: read only", partial(set_harmful, "default_transaction_read_only = on")),
)
