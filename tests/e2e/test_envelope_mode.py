"""The daemon in envelope mode: no KMS call for any login, and a way in and out under traffic."""
# ruff: noqa: S608 - the SQL is of this file

import asyncio
import itertools
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from custody.datakeys import ring
from custody.datakeys.records import open_record
from custody.rewrap.deep import DeepRotation
from custody.rewrap.runs import LEASE_SECONDS
from kek_backends.keyring import Keyring
from kek_backends.loader import load
from tests.bao_server import Bao
from tests.client import Client, becomes, client_session
from tests.db.command import Command, custody
from tests.db.connecting import engine_of
from tests.e2e.hangup import configured
from tests.e2e.keks import PLACES, RSA, Place, enveloped, make_place, overrides, read_keys
from tests.e2e.life import live
from tests.eventually import eventually
from tests.http.wire import assert_problem
from tests.kek import kms_stub as stubs
from tests.kek.clouds import Clouds
from tests.kek.kms_stub import KmsStub, kms_stub
from tests.moto_server import Moto
from tests.rewrap.kit import AGE_CLAIMS
from tests.servers import Database, daemon_beside, daemon_here, settings_for
from tests.softhsm import Mirror
from tests.tokens import Issuer

ROWS = "SELECT kek_id, count(*) FROM auth.encryption_vaults WHERE wrapped_mk IS NOT NULL GROUP BY 1"
DATA_KEY = "SELECT id FROM auth.encryption_data_keys"
INSTANCE = "SELECT writes_uri, writes_kek_id, active_kek_id, reads FROM auth.custody_instances"
PLANT = "UPDATE auth.encryption_vaults SET kek_id = $2 WHERE user_id = $1"
DOWN = stubs.refuse("InternalException", 500)
BACK_WITHIN = 5.0
USERS = [f"user-{number:02}" for number in range(12)]


@pytest.fixture
def stub() -> Iterator[KmsStub]:
    with kms_stub() as running:
        running.make_key("alias/custody")
        yield running


Make: TypeAlias = Callable[[str], Place]


@pytest.fixture
def make(tmp_path: Path, bao: Bao, moto: Moto, clouds: Clouds) -> Make:
    """Makes a fresh KEK of a backend."""
    return lambda backend: make_place(backend, tmp_path, bao, moto, clouds)


def place_of(stub: KmsStub) -> Place:
    return enveloped(Place("aws-kms:alias/custody", "", stub.environ))


async def rows(database: Database) -> dict[str, int]:
    return dict(await database.fetch(ROWS))


async def run(
    database: Database, issuer: Issuer, folder: Path, *places: Place, more: tuple[str, ...] = ()
) -> Any:
    """Bring all to the first of some KEKs, as an operator does."""
    worker = {"REWRAP_DATABASE_URL": database.url("custody_rewrap")}
    environ = settings_for(database, issuer, folder, **overrides(*places), **worker)
    return await asyncio.to_thread(custody, environ, "rewrap", "run", *more)


# ── a life without the KMS ────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "backend",
    [
        "vault",
        *(pytest.param(one, marks=pytest.mark.prove) for one in (*PLACES, RSA) if one != "vault"),
    ],
)
async def test_the_whole_life_of_a_vault(
    database: Database, issuer: Issuer, tmp_path: Path, make: Make, backend: str
) -> None:
    place = enveloped(make(backend))
    with daemon_beside(database, issuer, tmp_path, **overrides(place)) as daemon:
        await live(daemon, "alice")
        async with client_session() as session:
            answer = await Client(daemon, session, "alice").key()
        key_id = await database.value(DATA_KEY)
        assert (answer.json["kekId"], answer.json["formatVersion"]) == (key_id, 3)
        (instance,) = await database.fetch(INSTANCE)
    assert instance["writes_uri"] == place.uri
    assert (instance["writes_kek_id"], instance["active_kek_id"]) == (key_id, place.stamp)
    plain = place.uri.replace("?mode=envelope", "").replace("&mode=envelope", "")
    assert instance["reads"] == [plain, place.stamp, key_id]
    assert set(await rows(database)) == {key_id}


@pytest.mark.prove
async def test_no_request_asks_the_kms(
    database: Database, issuer: Issuer, tmp_path: Path, stub: KmsStub
) -> None:
    async with (
        daemon_here(database, issuer, tmp_path, **overrides(place_of(stub))) as daemon,
        client_session() as session,
    ):
        await becomes(daemon, 200)
        before = len(stub.requests)
        clients = [Client(daemon, session, user) for user in USERS]
        made = [await client.init() for client in clients]
        for _ in range(5):
            got = await asyncio.gather(*(client.key() for client in clients))
            assert [one.json for one in got] == [one.json for one in made]
        assert [(await client.rotate()).status for client in clients] == [200] * len(clients)
        assert len(stub.requests) == before


@pytest.mark.prove
async def test_only_openings_and_rotations_are_calls_of_the_kms(
    database: Database,
    issuer: Issuer,
    tmp_path: Path,
    stub: KmsStub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exactly: each opening of the data key is one call, and there is no other one."""
    openings = 0

    async def counted(*given: Any) -> Any:
        nonlocal openings
        openings += 1
        return await open_record(*given)

    monkeypatch.setattr(ring, "open_record", counted)
    settings = overrides(place_of(stub)) | {"DATA_KEY_TTL": "1"}
    made, opened = wraps_of_data_keys(stub, "Encrypt"), wraps_of_data_keys(stub, "Decrypt")
    for start in range(2):
        async with (
            daemon_here(database, issuer, tmp_path, **settings) as daemon,
            client_session() as session,
        ):
            alice, seen = Client(daemon, session, "alice"), openings
            await alice.init()

            async def opened_again(alice: Client = alice, seen: int = seen) -> bool:
                assert (await alice.key()).status == 200
                return openings >= seen + 2

            await eventually(opened_again)
        # The first boot makes the data key, and opens it once before it is stored.
        assert wraps_of_data_keys(stub, "Encrypt") - made == 1
        assert wraps_of_data_keys(stub, "Decrypt") - opened == openings + 1, start
    before = wraps_of_data_keys(stub, "Encrypt"), wraps_of_data_keys(stub, "Decrypt")
    assert (await run(database, issuer, tmp_path, place_of(stub), more=("--all",))).code == 0
    # It is opened by the command, and wrapped anew in the KMS; that is opened, then stored.
    after = wraps_of_data_keys(stub, "Encrypt"), wraps_of_data_keys(stub, "Decrypt")
    assert (after[0] - before[0], after[1] - before[1]) == (0, 2)
    rewraps = [one for name, one in stub.requests if name == "ReEncrypt"]
    assert len(rewraps) == 1


@pytest.mark.prove
@pytest.mark.parametrize("logins", [3000])
async def test_first_logins_at_once_are_one_call_of_the_kms(
    database: Database, issuer: Issuer, tmp_path: Path, stub: KmsStub, logins: int
) -> None:
    """However many log in on a process whose KMS was away at boot: no data key is open yet."""
    settings = overrides(place_of(stub))
    async with (
        daemon_here(database, issuer, tmp_path, **settings) as daemon,
        client_session() as session,
    ):
        await Client(daemon, session, "alice").init()
    stub.faults["*"] = DOWN
    async with (
        daemon_here(database, issuer, tmp_path, **settings) as daemon,
        client_session() as session,
    ):
        await becomes(daemon, 503, **{"data-key": "can't be opened"})
        alice = Client(daemon, session, "alice")
        assert_problem(await alice.key(), 503, "KEK_UNAVAILABLE")
        stub.faults.clear()
        before = wraps_of_data_keys(stub, "Decrypt")
        # So many at a time: a daemon takes no more connections from one address.
        room = asyncio.Semaphore(200)

        async def status() -> int:
            async with room:
                return (await alice.key()).status

        async def serves() -> bool:
            return set(await asyncio.gather(*(status() for _ in range(logins)))) == {200}

        await eventually(serves, 20)
        await becomes(daemon, 200)
        assert wraps_of_data_keys(stub, "Decrypt") - before == 1


def wraps_of_data_keys(stub: KmsStub, operation: str) -> int:
    """Count the calls for data keys; the proof of a KEK makes others, and users must make none."""
    asked = [one["EncryptionContext"] for name, one in stub.requests if name == operation]
    assert all(
        one.get("custody:user", "custody-proof").startswith("custody-proof") for one in asked
    )
    return sum(one.get("custody:data-key", "").startswith("dk-") for one in asked)


def is_down(stub: KmsStub) -> None:
    stub.faults["*"] = DOWN


def is_revoked(stub: KmsStub) -> None:
    stub.denied |= {"Encrypt", "Decrypt", "DescribeKey", "ReEncryptFrom", "ReEncryptTo"}


@pytest.mark.prove
@pytest.mark.parametrize("begins", [is_down, is_revoked])
async def test_kms_that_is_away(
    database: Database,
    issuer: Issuer,
    tmp_path: Path,
    stub: KmsStub,
    begins: Callable[[KmsStub], None],
) -> None:
    """Nobody notices until the hard age; then nothing is given out; back within seconds.

    Whether the KMS is down, or the daemon's right at it was taken away.
    """
    short = {"DATA_KEY_TTL": "1", "DATA_KEY_MAX_AGE": "6"}
    with daemon_beside(database, issuer, tmp_path, **overrides(place_of(stub)), **short) as daemon:
        async with client_session() as session:
            alice = Client(daemon, session, "alice")
            key = (await alice.init()).json
            begins(stub)

            async def degraded() -> bool:
                answer = await alice.key()
                assert answer.json == key
                async with session.get(f"{daemon.admin}/readyz") as ready:
                    said = await ready.json()
                assert ready.status == 200
                return "kek" in said.get("degraded", {}) and "data-key" in said["degraded"]

            await eventually(degraded)
            await eventually(lambda: bool(daemon.events("data_key_half_gone")))
            assert (await alice.key()).json == key
            (half,) = daemon.events("data_key_half_gone")
            assert half["level"] == "error"
            assert 1 <= half["seconds_left"] <= 3
            await becomes(daemon, 503, **{"data-key": "can't be opened"})
            assert_problem(await alice.key(), 503, "KEK_UNAVAILABLE")
            assert_problem(await alice.rotate(), 503, "KEK_UNAVAILABLE")
            assert_problem(await Client(daemon, session, "bob").init(), 503, "KEK_UNAVAILABLE")
            stub.faults.clear()
            stub.denied.clear()

            async def serves() -> bool:
                return (await alice.key()).status == 200

            await eventually(serves, BACK_WITHIN)
            assert (await alice.key()).json == key


# ── in and out ────────────────────────────────────────────────────────────────


@pytest.mark.prove
async def test_into_envelope_mode_and_back(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    direct = make_place("env", tmp_path)
    mode = enveloped(direct)
    async with daemon_here(database, issuer, tmp_path, **overrides(direct)) as daemon:
        keys = {}
        async with client_session() as session:
            for user in USERS:
                keys[user] = (await Client(daemon, session, user).init()).json["masterKey"]
    key_id = str(await database.value(DATA_KEY))
    for place, stamp, other in ((mode, key_id, direct.stamp), (direct, direct.stamp, key_id)):
        async with daemon_here(database, issuer, tmp_path, **overrides(place)) as daemon:
            # Before the run: rows of before are read, and what is made is as it will be.
            assert await read_keys(daemon, keys) == keys
            async with client_session() as session:
                await Client(daemon, session, f"new-{stamp}").init()
            assert (await rows(database))[stamp] == 1
            done = await run(database, issuer, tmp_path, place)
            assert done.code == 0, done.err
            assert f"to {stamp}: " in done.out
            assert set(await rows(database)) == {stamp}
            assert await read_keys(daemon, keys) == keys
            again = await run(database, issuer, tmp_path, place, more=("--dry-run",))
            assert again.out.startswith(f"0 rows to bring to {stamp}")
        assert other not in await rows(database)


@pytest.mark.prove
async def test_a_daemon_in_the_other_mode_holds_a_run_up(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    direct = make_place("env", tmp_path)
    mode = enveloped(direct)
    for here, there in ((direct, mode), (mode, direct)):
        async with daemon_here(database, issuer, tmp_path, **overrides(here)) as daemon:
            await becomes(daemon, 200)
            done = await run(database, issuer, tmp_path, there)
            assert done.code == 75
            assert (
                f"still writes under {here.uri}: set CUSTODY_KEK to {there.uri} there" in done.err
            )


@pytest.mark.prove
async def test_a_daemon_that_has_not_opened_the_data_key_holds_a_run_up(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    """One of a release before envelope mode, say: it could not read what is moved."""
    mode = enveloped(make_place("env", tmp_path))
    async with daemon_here(database, issuer, tmp_path, **overrides(mode)) as daemon:
        await becomes(daemon, 200)
        key_id = await database.value(DATA_KEY)
        await database.execute(
            "UPDATE auth.custody_instances SET reads = array_remove(reads, $1)", key_id
        )
        done = await run(database, issuer, tmp_path, mode)
    assert done.code == 75
    assert f"has not opened the data key {key_id}" in done.err


@pytest.mark.prove
@pytest.mark.usefixtures("pace")
async def test_a_kek_that_rows_carry_makes_the_daemon_unready(
    database: Database, issuer: Issuer, tmp_path: Path, stub: KmsStub
) -> None:
    """Half-way into envelope mode its users wait for the KMS; when all are in, nobody does."""
    mode = place_of(stub)
    direct = Place("aws-kms:alias/custody", "", stub.environ)
    async with (
        daemon_here(database, issuer, tmp_path, **overrides(direct)) as daemon,
        client_session() as session,
    ):
        key = (await Client(daemon, session, "alice").init()).json["masterKey"]
    async with (
        daemon_here(database, issuer, tmp_path, **overrides(mode)) as daemon,
        client_session() as session,
    ):
        alice, bob = (Client(daemon, session, user) for user in ("alice", "bob"))
        await becomes(daemon, 200)
        assert (await bob.init()).status == 200
        stub.faults["*"] = DOWN
        assert_problem(await alice.key(), 503, "KEK_UNAVAILABLE")
        await becomes(daemon, 503, kek="InternalException")
        assert (await bob.key()).status == 200
        stub.faults.clear()
        await becomes(daemon, 200)
        assert (await run(database, issuer, tmp_path, mode)).code == 0
        # The next look sees what rows carry now.
        await eventually(lambda: looked_again(database), 15)
        stub.faults["*"] = DOWN

        async def degraded() -> bool:
            async with session.get(f"{daemon.admin}/readyz") as ready:
                said = await ready.json()
            assert ready.status == 200
            return "kek" in said.get("degraded", {})

        await eventually(degraded, 40)
        assert (await alice.key()).json["masterKey"] == key


async def looked_again(database: Database) -> bool:
    """Say whether the daemon has looked at the database since the last run ended."""
    return bool(
        await database.value(
            "SELECT bool_and(daemon.heartbeat_at > run.ended_at)"
            " FROM auth.custody_instances AS daemon, auth.rewrap_runs AS run"
        )
    )


@pytest.mark.prove
async def test_a_reload_changes_old_keks_and_never_the_mode(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    old, new = make_place("env", tmp_path), make_place("env", tmp_path)
    async with (
        daemon_here(database, issuer, tmp_path, **overrides(old)) as daemon,
        client_session() as session,
    ):
        key = (await Client(daemon, session, "alice").init()).json["masterKey"]
    assert (await run(database, issuer, tmp_path, old, old)).code != 0  # listed twice
    environ = {f"raw_{name}": value for name, value in (old.environ | new.environ).items()}
    mode = enveloped(new)
    values = {"kek": mode.uri, "old_keks": enveloped(old).uri}
    with configured(database, issuer, tmp_path, values, **environ) as at:
        assert await read_keys(at.daemon, ["alice"]) == {"alice": key}
        await at.reloads(old_keks=old.uri)
        assert await read_keys(at.daemon, ["alice"]) == {"alice": key}
        await at.reloads(kek=new.uri)
        (restart,) = at.daemon.events("restart_needed")
        assert restart["changed"] == ["CUSTODY_KEK"]
        async with client_session() as session:
            made = (await Client(at.daemon, session, "bob").init()).json
        assert made["kekId"] == await database.value(DATA_KEY)
        assert await read_keys(at.daemon, ["alice"]) == {"alice": key}


@pytest.mark.prove
async def test_a_kek_of_data_keys_alone_is_moved_and_retired(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    """Shallow: another KEK, no row is touched, and the old KEK's key may be destroyed."""
    old, new = (enveloped(make_place("env", tmp_path)) for _ in range(2))
    worker = {"REWRAP_DATABASE_URL": database.url("custody_rewrap")}
    async with daemon_here(database, issuer, tmp_path, **overrides(old)) as daemon:
        async with client_session() as session:
            key = (await Client(daemon, session, "alice").init()).json["masterKey"]
        environ = settings_for(database, issuer, tmp_path, **overrides(new, old), **worker)
        refused = await asyncio.to_thread(custody, environ, "kek", "retire", old.stamp)
        assert refused.code == 1
    before = await database.vault("alice")
    async with daemon_here(database, issuer, tmp_path, **overrides(new, old)) as daemon:
        await becomes(daemon, 200)
        done = await run(database, issuer, tmp_path, new, old)
        assert done.code == 0, done.err
        assert "0 re-wrapped" in done.out
        assert "1 data key moved" in done.out
        retired = await asyncio.to_thread(custody, environ, "kek", "retire", old.stamp)
        assert retired.code == 0, retired.err
        assert await read_keys(daemon, ["alice"]) == {"alice": key}
    assert await database.vault("alice") == before
    async with daemon_here(database, issuer, tmp_path, **overrides(new)) as daemon:
        await becomes(daemon, 200)
        assert await read_keys(daemon, ["alice"]) == {"alice": key}


@pytest.mark.prove
async def test_a_dry_run_goes_on_with_a_new_data_key(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    """That one was announced by us, however it is that new wraps are made with data keys."""
    mode = enveloped(make_place("env", tmp_path))
    async with daemon_here(database, issuer, tmp_path, **overrides(mode)) as daemon:
        await becomes(daemon, 200)
    async with engine_of(database.url("custody_rewrap")) as engine:
        kek = load(mode.uri, environ=mode.environ, development=False)
        keys = ring.Ring(engine, Keyring(kek), ttl=3600, max_age=86_400)
        await DeepRotation(engine, Keyring(kek), keys, asyncio.Event()).announce()
    seen = await run(database, issuer, tmp_path, mode, more=("--dry-run",))
    assert "and a new data key" in seen.out
    assert "announced under another KEK" not in seen.err
    assert (await run(database, issuer, tmp_path, mode)).code == 0
    assert await database.value("SELECT count(*) FROM auth.encryption_data_keys") == 1


# ── what if an attacker chose it ──────────────────────────────────────────────


@pytest.mark.prove
async def test_a_planted_kek_id_gives_nothing(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    mode = enveloped(make_place("env", tmp_path))
    async with (
        daemon_here(database, issuer, tmp_path, **overrides(mode)) as daemon,
        client_session() as session,
    ):
        alice = Client(daemon, session, "alice")
        key = (await alice.init()).json
        key_id = str(await database.value(DATA_KEY))
        for planted, status, code in (
            ("dk-01932e00000070008000000000000009", 503, "KEK_UNAVAILABLE"),
            ("dk-nothing", 503, "KEK_UNAVAILABLE"),
            (mode.stamp, 500, "ROW_TAMPERED"),
        ):
            await plant(database, "alice", planted)
            assert_problem(await alice.key(), status, code)
            assert (await alice.init()).status == status
        await plant(database, "alice", "dk-01932e00000070008000000000000009")
        worker = {"REWRAP_DATABASE_URL": database.url("custody_rewrap")}
        environ = settings_for(database, issuer, tmp_path, **overrides(mode), **worker)
        listed = await asyncio.to_thread(custody, environ, "kek", "list", "--json")
        unknown = {one["kek_id"]: one["rows"] for one in json.loads(listed.out)}
        assert unknown == {mode.stamp: 0, "dk-01932e00000070008000000000000009": 1}
        await plant(database, "alice", key_id)
        assert (await alice.key()).json == key


async def plant(database: Database, user: str, kek_id: str) -> None:
    async with database.connect() as superuser, superuser.transaction():
        await superuser.execute("SET LOCAL session_replication_role = replica")
        await superuser.execute(PLANT, user, kek_id)


KEYS, WRAPS = "auth.encryption_data_keys", "auth.encryption_data_key_wraps"
KEEP = f"CREATE TABLE keys AS SELECT * FROM {KEYS}; CREATE TABLE wraps AS SELECT * FROM {WRAPS}"
PUT_BACK = (
    f"DELETE FROM {KEYS}; INSERT INTO {KEYS} SELECT * FROM keys;"
    f"INSERT INTO {WRAPS} SELECT * FROM wraps"
)
HARMS = {
    "no record": f"DELETE FROM {KEYS}",
    "no wrap": f"DELETE FROM {WRAPS}",
    "another wrap": f"UPDATE {WRAPS} SET wrapped_key = 'AAAA'",
}


@pytest.mark.prove
@pytest.mark.usefixtures("pace")
@pytest.mark.parametrize("harm", HARMS)
async def test_no_row_is_written_under_a_data_key_that_would_not_open_again(
    database: Database, issuer: Issuer, tmp_path: Path, harm: str
) -> None:
    """A daemon that has it open goes on giving out keys, and makes none that would be lost."""
    mode = enveloped(make_place("env", tmp_path))
    async with (
        daemon_here(database, issuer, tmp_path, **overrides(mode)) as daemon,
        client_session() as session,
    ):
        alice, bob, zoe = (Client(daemon, session, user) for user in ("alice", "bob", "zoe"))
        key = (await alice.init()).json
        await database.execute(KEEP)
        await database.execute(HARMS[harm])

        async def refuses() -> bool:
            return (await bob.rotate()).status == 503

        await eventually(refuses)
        await becomes(daemon, 200)
        assert_problem(await bob.rotate(), 503, "KEK_UNAVAILABLE")
        assert_problem(await zoe.init(), 503, "KEK_UNAVAILABLE")
        assert (await alice.key()).json == key
        await database.execute(PUT_BACK)

        async def serves() -> bool:
            return (await zoe.init()).status == 200

        await eventually(serves)
        assert (await alice.key()).json == key


# ── a chain of moves ──────────────────────────────────────────────────────────


def order(chance: random.Random, moves: int) -> list[tuple[str, bool]]:
    """Return backends, each with whether in envelope mode; all of them, where there are so many.

    None twice in a row: each key of an OpenBao has a token of its own, and a process has one.
    """
    kinds = [(backend, is_enveloped) for backend in PLACES for is_enveloped in (False, True)]
    while True:
        found = chance.sample(kinds, moves)
        has_all = len({backend for backend, _ in found}) >= min(moves, len(PLACES))
        if has_all and all(one[0] != other[0] for one, other in itertools.pairwise(found)):
            return found


@pytest.mark.prove
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "scale",
    [(3, 40, 2), pytest.param((10, 1000, 50), marks=pytest.mark.full)],
)
async def test_chain_of_moves(
    database: Database, issuer: Issuer, tmp_path: Path, make: Make, scale: tuple[int, int, int]
) -> None:
    """Between backends and modes, with kill -9 at random moments: every key is what it was."""
    moves, users, kills = scale
    chance = random.Random(20261128)  # noqa: S311 - which KEK comes next
    chain = [make("env")]
    for backend, is_enveloped in order(chance, moves):
        chain.append(enveloped(make(backend)) if is_enveloped else make(backend))
    tokens = Mirror(tmp_path)
    keys: dict[str, str] = {}
    async with (
        daemon_here(database, issuer, tmp_path, **overrides(chain[0])) as daemon,
        client_session() as session,
    ):
        for number in range(users):
            user = f"user-{number:04}"
            keys[user] = (await Client(daemon, session, user).init()).json["masterKey"]
    worker = {"REWRAP_DATABASE_URL": database.url("custody_rewrap")}
    killed = 0
    for step, (old, new) in enumerate(itertools.pairwise(chain), 1):
        environ = settings_for(database, issuer, tmp_path, **overrides(new, old), **worker)
        while killed < kills * step // moves:
            command = Command(environ, "rewrap", "run", "--batch", str(max(1, users // 40)))
            await asyncio.sleep(chance.uniform(0.3, 1.5))
            command.process.kill()
            await asyncio.to_thread(command.end)
            tokens.mend()
            killed += 1
        # Those that were killed hold their rows for a while; nobody waits for that here.
        await database.execute(AGE_CLAIMS, LEASE_SECONDS + 1)
        async with daemon_here(database, issuer, tmp_path, **overrides(new, old)) as daemon:
            await becomes(daemon, 200)
            done = await asyncio.to_thread(custody, environ, "rewrap", "run")
            assert done.code == 0, done.err
            assert await read_keys(daemon, keys) == keys
            retired = await asyncio.to_thread(custody, environ, "kek", "retire", old.stamp)
            assert retired.code == 0, retired.err
    assert killed == kills
    async with daemon_here(database, issuer, tmp_path, **overrides(chain[-1])) as daemon:
        await becomes(daemon, 200)
        assert await read_keys(daemon, keys) == keys
