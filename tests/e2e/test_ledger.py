"""A ledger of real daemons is found good, and what is planted in their database is told."""

import asyncio

import pytest

from tests import checker
from tests.checker import Finding, Kind, check
from tests.ledger import Ledger, going_on, ledger_of
from tests.servers import Daemon

USERS = [f"user-{number}" for number in range(4)]


async def found(ledger: Ledger, daemons: tuple[Daemon, ...]) -> list[Finding]:
    database = daemons[0].database
    owner = {"CUSTODY_OWNER_DATABASE_URL": database.url("custody_owner")}
    return await check(
        ledger,
        database=database.url("postgres"),
        environ=daemons[0].settings | owner,
        admins=[one.admin for one in daemons],
    )


@pytest.mark.prove
async def test_nothing_is_found_until_it_is_planted(
    pair: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    database = pair[0].database
    async with ledger_of([one.base for one in pair], pair[0].issuer) as ledger:
        async with going_on(ledger, USERS, pause=0.01):
            await asyncio.sleep(0.5)
        assert ledger.errors() == {}
        assert await found(ledger, pair) == []
        # A seal that does not hold, a row of the audit that is gone, an open transaction.
        victim = f"{ledger.agent}1"
        await database.execute(
            "UPDATE auth.encryption_vaults SET recovery_set_at = now(), seal = seal"
            " WHERE user_id = 'user-0'"
        )
        await database.execute(
            "DELETE FROM auth.encryption_vault_audit WHERE user_agent = $1", victim
        )
        async with database.connect("custody_app") as app, app.transaction():
            await app.execute("SELECT 1")
            monkeypatch.setattr(checker, "_SECONDS_TO_COME_BACK", 0.2)
            kinds = {one.kind for one in await found(ledger, pair)}
        assert kinds >= {Kind.AUDIT, Kind.SEAL, Kind.LEFT, Kind.ANSWER}
