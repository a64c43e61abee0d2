"""The daemon on each of the KEK backends, and moving from one to the next."""

import base64
import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from custody.vault.key_check import key_check_value
from tests.bao_server import Bao, least_policy
from tests.client import Client, client_session
from tests.e2e.keks import BACKENDS, MTLS, PLACES, Place, make_place, overrides
from tests.e2e.life import live
from tests.kek.clouds import Clouds
from tests.keks import kek_of
from tests.moto_server import Moto
from tests.proofs import FULL, some
from tests.sealed_rows import READ, data_key_of, past_triggers, seal_of
from tests.servers import Daemon, Database, daemon_beside, daemon_here
from tests.tokens import Issuer

STAMPS = (
    "SELECT user_id, kek_id FROM auth.encryption_vaults WHERE wrapped_mk IS NOT NULL"
    " ORDER BY user_id"
)
COPY = (
    "UPDATE auth.encryption_vaults SET wrapped_mk = $2, wrap_iv = $3, key_check = $4, seal = $5"
    " WHERE user_id = $1"
)
REFUSED = re.compile(r'custody_tampered_rows_total\{reason="([^"]*)"\} (.*)')
Make: TypeAlias = Callable[[str], Place]

REGISTRY = "SELECT kek_id, backend, locator, state FROM auth.encryption_keks ORDER BY recorded_at"


@pytest.fixture
def make(tmp_path: Path, bao: Bao, moto: Moto, clouds: Clouds) -> Make:
    return lambda backend: make_place(backend, tmp_path, bao, moto, clouds)


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, make: Make) -> Place:
    return make(request.param)


# With a key in a variable it is lived in test_life.
whole_life_of = pytest.mark.parametrize(
    "place",
    some((*PLACES, MTLS), "systemd", "vault", "aws-kms"),
    indirect=True,
)


async def stamps(database: Database) -> dict[str, str]:
    return {row["user_id"]: row["kek_id"] for row in await database.fetch(STAMPS)}


@pytest.mark.prove
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


# The conformance suite has all pairs, too; it is all that a token needs.
@pytest.fixture(params=[*BACKENDS, "vault, not derived"])
def any_place(request: pytest.FixtureRequest, tmp_path: Path, bao: Bao, moto: Moto) -> Place:
    if request.param in BACKENDS:
        return make_place(request.param, tmp_path, bao, moto)
    name = bao.make_key(derived=False)
    return Place(f"vault:transit/{name}", f"vault:transit/{name}:v1", bao.environ(name))


@pytest.mark.prove
@pytest.mark.timeout(300)
@pytest.mark.parametrize("count", [8, pytest.param(20, marks=FULL)])
async def test_copied_wraps_never_open(
    any_place: Place, database: Database, issuer: Issuer, tmp_path: Path, count: int
) -> None:
    """All pairs of users, in all generations, and each user's own earlier ones.

    The victim's row is sealed anew, with the key check value of the key that is in the copied wrap,
    as nobody could: so that the binding alone decides.
    """
    async with (
        daemon_here(database, issuer, tmp_path, **overrides(any_place)) as daemon,
        client_session() as session,
        past_triggers(database) as superuser,
        kek_of(any_place.uri, any_place.environ) as kek,
    ):
        devices = {f"user-{n}": Client(daemon, session, f"user-{n}") for n in range(count)}
        good: dict[str, dict[str, Any]] = {}
        made: list[tuple[dict[str, Any], bytes]] = []
        for user, device in devices.items():
            for make in (device.init, device.rotate, device.rotate):
                key = base64.b64decode((await make()).json["masterKey"])
                good[user] = dict((await superuser.fetch(READ, [user]))[0])
                made.append((good[user], key))
        data_key = await data_key_of(database, kek)
        tried = 0
        for (user, device), (source, key) in product(devices.items(), made):
            if source is not good[user]:
                check = key_check_value(user, key)
                seal = seal_of(data_key, good[user] | {"key_check": check})
                wrap = source["wrapped_mk"], source["wrap_iv"]
                await superuser.execute(COPY, user, *wrap, check, seal)
                answer = await device.key()
                assert (answer.status, answer.code) == (500, "ROW_TAMPERED")
                tried += 1
        assert tried == count * (count - 1) * 3 + count * 2
        assert await refusals(daemon) == {"wrap": tried}
        for row, key in made:
            if row is good[row["user_id"]]:
                columns = "user_id", "wrapped_mk", "wrap_iv", "key_check", "seal"
                await superuser.execute(COPY, *(row[column] for column in columns))
                answer = await devices[row["user_id"]].key()
                assert base64.b64decode(answer.json["masterKey"]) == key


async def refusals(daemon: Daemon) -> dict[str, float]:
    """Return how many rows were refused, by reason."""
    async with client_session() as session, session.get(f"{daemon.admin}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    found = (REFUSED.fullmatch(line) for line in lines)
    return {one[1]: float(one[2]) for one in found if one is not None and float(one[2])}


@pytest.mark.prove
async def test_chain_from_one_backend_to_the_next(
    database: Database, issuer: Issuer, tmp_path: Path, make: Make
) -> None:
    """From each to the next by settings and restarts: all stay readable."""
    names = ("env", "vault", "aws-kms", "pkcs11", "gcp-kms", "azure-kv", "systemd")
    chain = [make(name) for name in names]
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
    assert [row["state"] for row in registered] == ["decrypt-only"] * 6 + ["active"]


async def read_all(daemon: Daemon, keys: dict[str, str], written: dict[str, str]) -> None:
    async with client_session() as session:
        for user, key in keys.items():
            answer = await Client(daemon, session, user).key()
            assert answer.status == 200
            assert (answer.json["masterKey"], answer.json["kekId"]) == (key, written[user])


@pytest.mark.prove
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


@pytest.mark.prove
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
