"""Each alert has its cause made on real daemons, fires in a real Prometheus, and clears.

No cause is left out. What lies days back is made by a date: in the database, written by one who
may, or in the file of the drill. All else happens. Rules and waits are shortened, and keep their
shape: see :mod:`tests.e2e.alarm_rules`.
"""

import asyncio
import json
import re
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from kek_backends.breaker import FAILURES
from tests.client import Client
from tests.e2e.alarm_stage import ALL, Stage, again_and_again, stage
from tests.eventually import eventually
from tests.faulty_proxy import Fault
from tests.http_servers import Asked
from tests.kek import kms_stub as stubs
from tests.sealed_rows import past_triggers
from tests.servers import Database
from tests.tokens import Issuer

INFO, WARNING, CRITICAL = "info", "warning", "critical"
MANY = tuple(f"user-{n}" for n in range(20))
CONNECTIONS = 80

PUT_BACK = "UPDATE auth.encryption_keks SET activated_at = now() - make_interval(days => $1)"
RUN_LONG_AGO = "UPDATE auth.rewrap_runs SET ended_at = ended_at - interval '3 days'"
DROP_CHECKPOINT = (
    "DELETE FROM auth.encryption_audit_checkpoints"
    " WHERE number = (SELECT max(number) FROM auth.encryption_audit_checkpoints)"
)
REVERSE = "UPDATE auth.encryption_vaults SET wrapped_mk = reverse(wrapped_mk) WHERE user_id = $1"
READ_SEAL = "SELECT seal FROM auth.encryption_vaults WHERE user_id = $1"
SET_SEAL = "UPDATE auth.encryption_vaults SET seal = $2 WHERE user_id = $1"
HOLD_AUDIT = "LOCK TABLE auth.encryption_vault_audit IN ROW EXCLUSIVE MODE"
HOLD_VAULTS = "LOCK TABLE auth.encryption_vaults IN SHARE ROW EXCLUSIVE MODE"


@pytest.mark.prove
@pytest.mark.timeout(240)
async def test_each_alert_fires_at_its_cause_and_clears(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    async with stage(database, issuer, tmp_path, "alice", "bob", "carol", "dave", *MANY) as on:
        await what_never_ran(on)
        await asyncio.gather(
            a_canary(on),
            a_brake(on),
            a_row_that_is_not_what_was_sealed(on),
            an_audit_that_is_not_what_it_was(on),
            a_row_that_is_not_sealed(on),
            runs_and_drills_that_do_not_happen(on),
            an_old_kek(on),
            an_issuer_that_is_down(on),
        )
        await asyncio.gather(
            an_issuer_without_keys(on), an_audit_that_waits(on), many_connections(on)
        )
        await a_kms_that_is_down(on)
        await a_slow_kms(on)
        await rows_that_are_locked(on)
        await a_slow_database(on)
        await a_daemon_that_stops_and_is_started_with_a_new_kek(on)
        await on.becomes(lambda firing: not firing)
        assert await on.fired() == ALL


async def what_never_ran(on: Stage) -> None:
    """A fresh service: no re-wrap, and no drill, though it has a second root."""
    never = ("CustodyRewrapOverdue", WARNING), ("CustodyDrillOverdue", WARNING)
    await on.becomes(lambda firing: firing == set(never))
    async with on.rings(("CustodyDrillFailed", CRITICAL)):
        assert await on.drill() == 1  # the data key has no wrap under the second root yet
    assert await on.command("rewrap", "run") == 0
    assert await on.drill() == 0
    await on.becomes(lambda firing: not firing)


async def a_canary(on: Stage) -> None:
    async with on.rings(("CustodyCanaryTouched", CRITICAL)):
        assert (await on.client("eve").key()).status == 503
    await on.clears("CustodyCanaryTouched")


async def a_brake(on: Stage) -> None:
    async with on.rings(("CustodyBrakeHolds", CRITICAL)):
        answers = [await Client(on.second, on.session, user).key() for user in MANY[:2]]
        assert [answer.status for answer in answers] == [200, 503]
    await on.clears("CustodyBrakeHolds")


async def a_row_that_is_not_what_was_sealed(on: Stage) -> None:
    async with past_triggers(on.database) as thief:
        seal = await thief.fetchval(READ_SEAL, "bob")
        async with on.rings(("CustodyRowTampered", CRITICAL)):
            await thief.execute(SET_SEAL, "bob", await thief.fetchval(READ_SEAL, "alice"))
            assert (await on.client("bob").key()).code == "ROW_TAMPERED"
        await thief.execute(SET_SEAL, "bob", seal)
    await on.clears("CustodyRowTampered")


async def an_audit_that_is_not_what_it_was(on: Stage) -> None:
    async with on.rings(("CustodyAuditTampered", CRITICAL)):
        await on.database.execute(DROP_CHECKPOINT)
    await on.clears("CustodyAuditTampered")


async def a_row_that_is_not_sealed(on: Stage) -> None:
    async with past_triggers(on.database) as thief:
        seal = await thief.fetchval(READ_SEAL, "dave")
        async with on.rings(("CustodyUnsealedRows", WARNING), ("CustodyNotReady", CRITICAL)):
            await thief.execute(SET_SEAL, "dave", None)
        await thief.execute(SET_SEAL, "dave", seal)
    await on.clears("CustodyUnsealedRows", "CustodyNotReady")


async def runs_and_drills_that_do_not_happen(on: Stage) -> None:
    """They have happened, long ago; the next run sets a row aside."""
    async with past_triggers(on.database) as owner:
        await owner.execute(RUN_LONG_AGO)
        age_the_drill(on.drill_file)
        await on.becomes(
            lambda firing: (
                {
                    ("CustodyRewrapOverdue", WARNING),
                    ("CustodyDrillOverdue", WARNING),
                }
                <= firing
            )
        )
        async with on.rings(("CustodyRowsSetAside", WARNING)):
            await owner.execute(REVERSE, "carol")
            assert await on.command("rewrap", "run", "--all") == 1
        await owner.execute(REVERSE, "carol")
    assert await on.command("rewrap", "run", "--all", "--quarantined") == 0
    assert await on.drill() == 0
    await on.clears("CustodyRowsSetAside", "CustodyRewrapOverdue", "CustodyDrillOverdue")


def age_the_drill(path: Path) -> None:
    """Have the last drill been nine days ago."""
    then = time.time() - 9 * 86_400
    name = "custody_drill_timestamp_seconds"
    path.write_text(re.sub(rf"(?m)^{name} .*$", f"{name} {then}", path.read_text()))


async def an_old_kek(on: Stage) -> None:
    """It stays old until the second daemon is started with another one."""
    async with past_triggers(on.database) as owner:
        for days, severity in ((340, INFO), (360, WARNING), (370, CRITICAL)):
            async with on.rings(("CustodyKekDue", severity)):
                await owner.execute(PUT_BACK, days)


async def an_issuer_that_is_down(on: Stage) -> None:
    published = on.jwks
    async with on.rings(("CustodyJwksStale", WARNING)):
        on.jwks = None
    on.jwks = published
    await on.clears("CustodyJwksStale")


async def an_issuer_without_keys(on: Stage) -> None:
    """Who has a token of before is refused; nobody is let in by a key that was withdrawn."""
    published = on.jwks

    async def come() -> None:
        await on.client("alice").key()

    with again_and_again(come):
        async with on.rings(("CustodyTokensRefused", WARNING)):
            on.jwks = json.dumps({"keys": []}).encode()
        await on.becomes(lambda firing: ("CustodyNotReady", CRITICAL) in firing)
    on.jwks = published
    await on.clears("CustodyNotReady", "CustodyTokensRefused")


async def an_audit_that_waits(on: Stage) -> None:
    """Somebody writes the audit in a transaction that does not end: nothing is settled."""
    async with past_triggers(on.database) as owner:
        async with on.rings(("CustodyAuditUnsealed", WARNING)):
            writing = owner.transaction()
            await writing.start()
            await owner.execute(HOLD_AUDIT)
        await writing.rollback()
    await on.clears("CustodyAuditUnsealed")


async def many_connections(on: Stage) -> None:
    place = urlsplit(on.second.base)
    assert place.port is not None
    async with on.rings(("CustodyConnectionsFull", WARNING)):
        # An address may have a quarter of the room.
        strangers = [
            socket.create_connection(
                (place.hostname, place.port), source_address=(f"127.0.0.{2 + n % 8}", 0)
            )
            for n in range(CONNECTIONS)
        ]
    for stranger in strangers:
        stranger.close()
    await on.clears("CustodyConnectionsFull")


async def a_kms_that_is_down(on: Stage) -> None:
    async with on.rings(
        ("CustodyKmsFailing", WARNING),
        ("CustodyDataKeyCoasting", WARNING),
        ("CustodyDataKeyCoasting", CRITICAL),
        ("CustodyErrors", CRITICAL),
    ):
        on.stub.faults["*"] = stubs.refuse("InternalException", 500)
        for user in MANY[:FAILURES]:
            assert (await on.client(user).key()).code == "KEK_UNAVAILABLE"
    on.stub.faults.clear()
    await on.clears("CustodyKmsFailing", "CustodyDataKeyCoasting", "CustodyErrors")


async def a_slow_kms(on: Stage) -> None:
    def slow(asked: Asked, name: str, request: stubs.Request) -> None:
        time.sleep(1.2)
        stubs.say(asked, on.stub.answer(name, request))

    async with on.rings(("CustodySlow", WARNING)):
        on.stub.faults["Decrypt"] = slow
        assert (await on.client("alice").key()).status == 200
    on.stub.faults.clear()
    await on.clears("CustodySlow")


async def rows_that_are_locked(on: Stage) -> None:
    """Each change waits for two seconds, with a connection of its own."""

    async def rotate() -> None:
        keys = [await on.client(user).key() for user in MANY]
        await asyncio.gather(
            *(
                on.client(user).call("POST", "/rotate", if_match=key.headers["ETag"])
                for user, key in zip(MANY, keys, strict=True)
            )
        )

    async with past_triggers(on.database) as owner:
        async with on.rings(("CustodyPoolFull", WARNING)):
            holding = owner.transaction()
            await holding.start()
            await owner.execute(HOLD_VAULTS)
            rotating = asyncio.create_task(rotate())
        await holding.rollback()
    await rotating
    await on.clears("CustodyPoolFull", "CustodySlow", "CustodyErrors")


async def a_slow_database(on: Stage) -> None:
    """It is frozen until a second before a request's time is over; then all is recorded."""

    async def freeze() -> bool:
        """Say whether anybody was answered in time; on a busy machine that second may be over."""
        waiting = [asyncio.create_task(on.client(user).key()) for user in MANY]
        await asyncio.sleep(0)
        on.network.fault = Fault.BLACK_HOLE
        await asyncio.sleep(8.5)
        on.network.fault = Fault.NONE
        return any(answer.status == 200 for answer in await asyncio.gather(*waiting))

    async with on.rings(("CustodyDeadlinesNear", WARNING)):
        await eventually(freeze, 3)
    await on.clears("CustodyDeadlinesNear", "CustodyNotReady", "CustodySlow", "CustodyErrors")


async def a_daemon_that_stops_and_is_started_with_a_new_kek(on: Stage) -> None:
    async with on.rings(("CustodyDown", CRITICAL)):
        await on.stop_second()
    await on.start_second(KEK="aws-kms:alias/next", OLD_KEKS="aws-kms:alias/custody")
    await on.clears("CustodyDown", "CustodyKekDue")
