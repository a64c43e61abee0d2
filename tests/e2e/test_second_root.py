"""The first KMS is gone for good: the second root opens what there is, and takes its place."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.client import Client, becomes, client_session
from tests.db.command import Done, custody
from tests.e2e.keks import Place, enveloped, make_place, overrides, read_keys
from tests.http.wire import assert_problem
from tests.kek import kms_stub as stubs
from tests.kek.kms_stub import kms_stub
from tests.servers import Database, daemon_here, settings_for
from tests.states import IV, WRAPPED
from tests.systemd.howto import sections
from tests.tokens import Issuer

pytestmark = pytest.mark.timeout(120)

IN_USE = "SELECT array_agg(kek_id ORDER BY kek_id) FROM auth.encryption_data_key_wraps"


class Fleet:
    """A database with its settings, which commands and daemons take.

    Args:
        database: of the test.
        issuer: of the tokens.
        folder: for the JWKS.
    """

    def __init__(self, database: Database, issuer: Issuer, folder: Path) -> None:
        self.database = database
        self.issuer = issuer
        self.folder = folder

    def settings(self, first: Place, *old: Place, second: Place | None = None) -> dict[str, str]:
        """Return the overrides for these KEKs."""
        found = overrides(first, *old)
        if second is not None:
            found |= {f"raw_{name}": value for name, value in second.environ.items()}
            found["SECOND_KEK"] = second.uri
        return found

    async def command(self, overridden: dict[str, str], *words: str) -> Done:
        """Run a command of custody."""
        environ = settings_for(self.database, self.issuer, self.folder, **overridden)
        environ["CUSTODY_REWRAP_DATABASE_URL"] = self.database.url("custody_rewrap")
        return await asyncio.to_thread(custody, environ, *words)


@pytest.fixture
def fleet(database: Database, issuer: Issuer, tmp_path: Path) -> Fleet:
    return Fleet(database, issuer, tmp_path)


@pytest.mark.prove
@pytest.mark.parametrize("kms", [False, pytest.param(True, marks=pytest.mark.prove)])
async def test_the_first_kms_is_gone(
    database: Database, fleet: Fleet, kms: bool, request: pytest.FixtureRequest
) -> None:
    """From a first one that is gone, by the second, to a new first one.

    As proof a transit key that is deleted, and a key in AWS KMS; else two keys in memory.
    """
    issuer, tmp_path = fleet.issuer, fleet.folder
    first, second = make_place("env", tmp_path), make_place("env", tmp_path)
    if kms:
        first = make_place("vault", tmp_path, request.getfixturevalue("bao"))
        second = make_place("aws-kms", tmp_path, moto=request.getfixturevalue("moto"))
    settings = fleet.settings(first, second=second)
    async with (
        daemon_here(database, issuer, tmp_path, **settings) as daemon,
        client_session() as session,
    ):
        users = ("alice", "zoe", "dora")
        alice, zoe, dora = (Client(daemon, session, user) for user in users)
        for user in (alice, zoe, dora):
            assert (await user.init()).status == 200
        await dora.set_recovery(WRAPPED, IV)
        await zoe.set_recovery(WRAPPED, IV)
        await zoe.enable_zk()
        # The first data key was made by a daemon, which asks the second root for nothing.
        assert await database.value(IN_USE) == [first.stamp]
        assert (await fleet.command(settings, "kek", "drill")).code == 1
        assert (await fleet.command(settings, "rewrap", "run")).code == 0
        assert await database.value(IN_USE) == sorted([first.stamp, second.stamp])
        await becomes(daemon, 200)

    if kms:
        request.getfixturevalue("bao").delete_key(first.uri.rpartition("/")[2])
    else:
        settings = {name: "" if name[4:] in first.environ else settings[name] for name in settings}
    drilled = json.loads((await fleet.command(settings, "kek", "drill", "--json")).out)
    assert (drilled["success"], drilled["kek_id"]) == (True, second.stamp)
    assert all(key["opens"] for key in drilled["data_keys"])

    settings = fleet.settings(second)
    async with (
        daemon_here(database, issuer, tmp_path, **settings) as daemon,
        client_session() as session,
    ):
        alice, zoe, bob = (Client(daemon, session, user) for user in ("alice", "zoe", "bob"))
        # In direct mode alice's key was under the first KEK alone.
        parts = await becomes(daemon, 503, kek=f"rows carry the kek_id {first.stamp}")
        assert (parts["data-key"], parts["database"]) == ("ok", "ok")
        assert_problem(await alice.key(), 503, "KEK_UNAVAILABLE")
        assert (await zoe.key()).json["recoveryWrappedMk"] == WRAPPED
        # Its seal was judged, as before.
        assert (await database.audit("zoe"))[-1] == ("fetch", "zk-recovery-blob", 200)
        assert (await bob.init()).status == 200
        # What is of no more use goes, though nobody has the key of it.
        done = await fleet.command(settings, "rewrap", "run")
        assert (done.code, first.stamp in done.complaint) == (1, True)
        assert await database.value(IN_USE) == [second.stamp]
        assert "rows" in (await fleet.command(settings, "kek", "retire", first.stamp)).complaint
        await save(database, first.stamp)
        dora = Client(daemon, session, "dora")
        assert_problem(await dora.key(), 500, "ROW_TAMPERED")
        accepting = settings | {"LEGACY_ROWS": "accept"}
        # It still names alice's row, which nothing opens.
        assert (await fleet.command(accepting, "rewrap", "run")).code == 1
        assert (await dora.key()).json["recoveryWrappedMk"] == WRAPPED
        made = (await alice.rotate()).json["masterKey"]
        assert (await alice.key()).json["masterKey"] == made
        assert (await fleet.command(settings, "kek", "retire", first.stamp)).code == 0
        await becomes(daemon, 200)
        keys = await read_keys(daemon, ["alice", "bob"])
        assert keys["alice"] == made

    # A move as any other, to a new first one; then the second root is that again.
    third = make_place("env", tmp_path)
    async with daemon_here(database, issuer, tmp_path, **fleet.settings(third, second)) as daemon:
        assert (await fleet.command(fleet.settings(third, second), "rewrap", "run")).code == 0
        assert await database.value(IN_USE) == [third.stamp]
        assert await read_keys(daemon, keys) == keys
    settings = fleet.settings(third, second=second)
    assert (await fleet.command(settings, "rewrap", "run")).code == 0
    assert await database.value(IN_USE) == sorted([second.stamp, third.stamp])
    assert (await fleet.command(settings, "kek", "drill")).code == 0
    async with daemon_here(database, issuer, tmp_path, **settings) as daemon:
        assert await read_keys(daemon, keys) == keys


@pytest.mark.parametrize("kms", [False, pytest.param(True, marks=pytest.mark.prove)])
async def test_in_envelope_mode_the_second_root_serves_everybody(
    database: Database, fleet: Fleet, kms: bool, request: pytest.FixtureRequest
) -> None:
    """The first KMS is deleted: each user has the key of before, and nothing is re-wrapped."""
    issuer, tmp_path = fleet.issuer, fleet.folder
    first, second = make_place("env", tmp_path), make_place("env", tmp_path)
    if kms:
        first = make_place("vault", tmp_path, request.getfixturevalue("bao"))
        second = make_place("aws-kms", tmp_path, moto=request.getfixturevalue("moto"))
    settings = fleet.settings(enveloped(first), second=second)
    users = [f"user-{number}" for number in range(20)]
    async with (
        daemon_here(database, issuer, tmp_path, **settings) as daemon,
        client_session() as session,
    ):
        for user in users:
            assert (await Client(daemon, session, user).init()).status == 200
        keys = await read_keys(daemon, users)
        assert (await fleet.command(settings, "rewrap", "run")).code == 0
    before = await database.fetch("SELECT * FROM auth.encryption_vaults ORDER BY user_id")
    if kms:
        request.getfixturevalue("bao").delete_key(first.uri.rpartition("/")[2])
    else:
        settings = {name: "" if name[4:] in first.environ else settings[name] for name in settings}
    assert (await fleet.command(settings, "kek", "drill")).code == 0
    settings = fleet.settings(enveloped(second))
    async with daemon_here(database, issuer, tmp_path, **settings) as daemon:
        await becomes(daemon, 200)
        assert await read_keys(daemon, users) == keys
        assert (await fleet.command(settings, "rewrap", "run")).code == 0
        assert await database.value(IN_USE) == [second.stamp]
        assert (await fleet.command(settings, "kek", "retire", first.stamp)).code == 0
        assert await read_keys(daemon, users) == keys
    assert await database.fetch("SELECT * FROM auth.encryption_vaults ORDER BY user_id") == before


async def save(database: Database, kek_id: str) -> None:
    """Put users with a recovery wrap into zero-knowledge mode, as the how-to does."""
    ((statements,),) = [found for found in sections("second-root", "sql").values() if found]
    assert "'systemd-kek_2026'" in statements
    await database.execute(statements.replace("systemd-kek_2026", kek_id))


@pytest.mark.prove
async def test_daemons_never_ask_it(
    database: Database, issuer: Issuer, tmp_path: Path, fleet: Fleet
) -> None:
    """It may be away at boot and at any time; the daemon's own worker alone asks it."""
    first = make_place("env", tmp_path)
    with kms_stub() as stub:
        stub.make_key("alias/second")
        second = Place("aws-kms:alias/second", "", stub.environ)
        stub.faults["*"] = stubs.refuse("InternalException", 500)
        settings = fleet.settings(first, second=second)
        worker = {"REWRAP_DATABASE_URL": database.url("custody_rewrap"), "REWRAP_INTERVAL": "300"}
        for more in ({}, worker):
            async with (
                daemon_here(database, issuer, tmp_path, **settings, **more) as daemon,
                client_session() as session,
            ):
                await becomes(daemon, 200)
                alice = Client(daemon, session, "alice")
                assert (await (alice.key() if more else alice.init())).status == 200
            assert stub.requests == []


@pytest.mark.prove
async def test_an_outage_of_the_first_kms_says_nothing_of_the_second(
    database: Database, issuer: Issuer, tmp_path: Path, fleet: Fleet
) -> None:
    """Nobody is told to list the second root among old KEKs, or to forget the data key."""
    second = make_place("env", tmp_path)
    with kms_stub() as stub:
        stub.make_key("alias/custody")
        first = Place("aws-kms:alias/custody", "", stub.environ)
        settings = fleet.settings(first, second=second)
        async with daemon_here(database, issuer, tmp_path, **settings):
            assert (await fleet.command(settings, "rewrap", "run")).code == 0
        stub.faults["Decrypt"] = stubs.refuse("InternalException", 500)
        async with daemon_here(database, issuer, tmp_path, **settings) as daemon:
            parts = await becomes(daemon, 503, **{"data-key": "can't be opened"})
            assert second.stamp not in parts["data-key"]
            assert "forget" not in parts["data-key"]
        done = await fleet.command(settings, "doctor")
        (line,) = [line for line in done.out.splitlines() if " data-key: " in line]
        assert line.startswith("  DOWN ")
        assert (await fleet.command(settings, "kek", "drill")).code == 0


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ("env:NOBODY", "CUSTODY_SECOND_KEK: KEK env:NOBODY"),
        ("vault:transit/x", "CUSTODY_SECOND_KEK: KEK vault:transit/x"),
    ],
)
async def test_a_worker_does_not_start_with_one_that_can_not_be_loaded(
    database: Database, fleet: Fleet, tmp_path: Path, second: str, words: str
) -> None:
    settings = fleet.settings(make_place("env", tmp_path)) | {"SECOND_KEK": second}
    done = await fleet.command(settings, "serve")
    assert (done.code, words in done.complaint) == (78, True)
    assert await database.value("SELECT count(*) FROM auth.rewrap_runs") == 0
