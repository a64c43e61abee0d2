"""The daemon on each of the four KEK backends, and moving from one to the next."""

from pathlib import Path

import pytest

from tests.bao_server import Bao, least_policy
from tests.client import Client, client_session
from tests.e2e.keks import BACKENDS, Place, make_place, overrides
from tests.e2e.life import live
from tests.moto_server import Moto
from tests.sealed_rows import past_triggers
from tests.servers import Daemon, Database, daemon_beside, daemon_here
from tests.tokens import Issuer

STAMPS = (
    "SELECT user_id, kek_id FROM auth.encryption_vaults WHERE wrapped_mk IS NOT NULL"
    " ORDER BY user_id"
)
REGISTRY = "SELECT kek_id, backend, locator, state FROM auth.encryption_keks ORDER BY recorded_at"


@pytest.fixture(params=BACKENDS)
def place(request: pytest.FixtureRequest, tmp_path: Path, bao: Bao, moto: Moto) -> Place:
    return make_place(request.param, tmp_path, bao, moto)


# With a key in a variable it is lived in test_life.
whole_life_of = pytest.mark.parametrize(
    "place",
    [pytest.param("env", marks=pytest.mark.prove), *(name for name in BACKENDS if name != "env")],
    indirect=True,
)


async def stamps(database: Database) -> dict[str, str]:
    return {row["user_id"]: row["kek_id"] for row in await database.fetch(STAMPS)}


@whole_life_of
async def test_the_whole_life_of_a_vault(
    place: Place, database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    with daemon_beside(database, issuer, tmp_path, **overrides(place)) as daemon:
        await live(daemon, "alice")
        await live(daemon, "auth0|bob@example.org/ü")
        async with client_session() as session:
            answer = await Client(daemon, session, "alice").key()
    assert (answer.json["kekId"], answer.json["formatVersion"]) == (place.stamp, 3)
    assert set((await stamps(database)).values()) == {place.stamp}
    (registered,) = await database.fetch(REGISTRY)
    backend = place.uri.partition(":")[0]
    assert tuple(registered) == (place.stamp, backend, place.uri, "active")


@pytest.mark.parametrize("count", [5, pytest.param(20, marks=pytest.mark.prove)])
async def test_copied_wraps_never_open(
    place: Place, database: Database, issuer: Issuer, tmp_path: Path, count: int
) -> None:
    """All pairs of users, and each user's wrap of the generation before."""
    users = [f"user-{number}" for number in range(count)]
    copy = (
        "UPDATE auth.encryption_vaults AS victim SET wrapped_mk = source.wrapped_mk,"
        " wrap_iv = source.wrap_iv FROM kept AS source"
        " WHERE victim.user_id = $1 AND source.user_id = $2 AND source.step = $3"
    )
    async with (
        daemon_here(database, issuer, tmp_path, **overrides(place)) as daemon,
        client_session() as session,
        past_triggers(database) as superuser,
    ):
        devices = {user: Client(daemon, session, user) for user in users}
        for device in devices.values():
            assert (await device.init()).status == 200
        await superuser.execute(
            "CREATE TEMP TABLE kept AS SELECT *, 0 AS step FROM auth.encryption_vaults"
        )
        for device in devices.values():
            assert (await device.rotate()).status == 200
        await superuser.execute("INSERT INTO kept SELECT *, 1 FROM auth.encryption_vaults")
        for victim, device in devices.items():
            for source in users:
                for step in (0, 1):
                    if (source, step) != (victim, 1):
                        await superuser.execute(copy, victim, source, step)
                        answer = await device.key()
                        assert (answer.status, answer.code) == (500, "ROW_TAMPERED")
            await superuser.execute(copy, victim, victim, 1)
        assert [(await device.key()).status for device in devices.values()] == [200] * count


@pytest.mark.prove
async def test_chain_from_one_backend_to_the_next(
    database: Database, issuer: Issuer, tmp_path: Path, bao: Bao, moto: Moto
) -> None:
    """env → vault → aws-kms → systemd by settings and restarts: every key stays readable."""
    chain = [make_place(name, tmp_path, bao, moto) for name in ("env", "vault", "aws-kms")]
    chain.append(make_place("systemd", tmp_path, bao, moto))
    keys: dict[str, str] = {}
    written: dict[str, str] = {}
    async with client_session() as session:
        for step, place in enumerate(chain):
            old = chain[:step]
            with daemon_beside(database, issuer, tmp_path, **overrides(place, *old)) as daemon:
                await read_all(daemon, keys, written)
                for user in (f"made-{step}", f"moves-{step}"):
                    answer = await Client(daemon, session, user).init()
                    keys[user], written[user] = answer.json["masterKey"], place.stamp
                # One user of each earlier KEK rotates: the new key is under the active one.
                for earlier in range(step):
                    user = f"moves-{earlier}"
                    answer = await Client(daemon, session, user).rotate()
                    assert answer.status == 200
                    assert answer.json["masterKey"] != keys[user]
                    keys[user], written[user] = answer.json["masterKey"], place.stamp
                await read_all(daemon, keys, written)
            assert await stamps(database) == written
    registered = await database.fetch(REGISTRY)
    assert [row["kek_id"] for row in registered] == [place.stamp for place in chain]
    assert [row["state"] for row in registered] == ["decrypt-only"] * 3 + ["active"]


async def read_all(daemon: Daemon, keys: dict[str, str], written: dict[str, str]) -> None:
    async with client_session() as session:
        for user, key in keys.items():
            answer = await Client(daemon, session, user).key()
            assert answer.status == 200
            assert (answer.json["masterKey"], answer.json["kekId"]) == (key, written[user])


async def test_a_key_that_moves_is_followed_without_a_restart(
    database: Database, issuer: Issuer, tmp_path: Path, bao: Bao, moto: Moto
) -> None:
    """A new transit version, and an alias pointed elsewhere: within a minute, at the next wrap."""
    vault, aws = (make_place(name, tmp_path, bao, moto) for name in ("vault", "aws-kms"))
    for place, other in ((vault, aws), (aws, vault)):
        async with (
            daemon_here(database, issuer, tmp_path, **overrides(place, other)) as daemon,
            client_session() as session,
        ):
            before = Client(daemon, session, f"before-{place.uri}")
            first = (await before.init()).json
            assert first["kekId"] == place.stamp
            if place is vault:
                bao.rotate(place.uri.partition("/")[2])
                moved = place.stamp.removesuffix("v1") + "v2"
            else:
                moved = f"aws-kms:{moto.make_key(place.uri.partition(':')[2])}"
            after = (await Client(daemon, session, f"after-{place.uri}").init()).json
            assert after["kekId"] == moved
            assert (await before.key()).json["masterKey"] == first["masterKey"]
    rows = {row["kek_id"]: row["state"] for row in await database.fetch(REGISTRY)}
    assert len(rows) == 4
    # And after a restart, with nothing but the same two URIs.
    async with (
        daemon_here(database, issuer, tmp_path, **overrides(vault, aws)) as daemon,
        client_session() as session,
    ):
        for place in (vault, aws):
            for user in ("before", "after"):
                assert (await Client(daemon, session, f"{user}-{place.uri}").key()).status == 200


async def test_decrypt_only_keks_need_no_right_to_encrypt(
    database: Database, issuer: Issuer, tmp_path: Path, bao: Bao, moto: Moto
) -> None:
    old = make_place("vault", tmp_path, bao, moto)
    async with (
        daemon_here(database, issuer, tmp_path, **overrides(old)) as daemon,
        client_session() as session,
    ):
        key = (await Client(daemon, session, "alice").init()).json["masterKey"]
    name = old.uri.partition("/")[2]
    reading = least_policy(name).replace("transit/encrypt", "transit/none")
    bao.write_policy(name, reading)
    new = make_place("env", tmp_path, bao, moto)
    async with (
        daemon_here(database, issuer, tmp_path, **overrides(new, old)) as daemon,
        client_session() as session,
    ):
        answer = await Client(daemon, session, "alice").key()
        assert (answer.status, answer.json["masterKey"]) == (200, key)
