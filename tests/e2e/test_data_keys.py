"""The data key of a serving daemon: one call of the KMS, whatever fails and for how long."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from custody.datakeys import records
from custody.datakeys.ring import Ring
from custody.db.engine import Dsn, open_engine
from kek_backends.loader import load_keyring
from tests.client import Client, becomes, client_session
from tests.db.first_data_key import READY
from tests.e2e.hangup import configured
from tests.e2e.keks import Place, make_place, make_vaults, overrides
from tests.eventually import eventually
from tests.forked import Forked
from tests.http.wire import assert_problem
from tests.kek import kms_stub as stubs
from tests.kek.kms_stub import KmsStub, kms_stub
from tests.kek.patience import CALL_SECONDS, be_patient
from tests.proofs import FULL
from tests.servers import Daemon, Database, daemon_here, log_file, settings_for
from tests.states import IV, WRAPPED
from tests.tokens import Issuer

DATA_KEYS = "custody:data-key"
DOWN = stubs.refuse("InternalException", 500)
BACK_WITHIN = 5.0


@pytest.fixture
def stub() -> Iterator[KmsStub]:
    with kms_stub() as running:
        running.make_key("alias/custody")
        yield running


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where calls are counted: one that is given up, and made again, would be two."""
    be_patient(monkeypatch.setattr)
    monkeypatch.setattr(records, "_UNWRAP_SECONDS", CALL_SECONDS)


def place_of(stub: KmsStub) -> Place:
    return Place("aws-kms:alias/custody", "", stub.environ)


def calls(stub: KmsStub, operation: str) -> int:
    """Count the calls for data keys."""
    return sum(
        name == operation
        # The proof of a KEK asks for others, too, which must not open.
        and request.get("EncryptionContext", {}).get(DATA_KEYS, "").startswith("dk-")
        for name, request in stub.requests
    )


async def said(daemon: Daemon, path: str = "readyz") -> tuple[int, Any]:
    async with client_session() as session, session.get(f"{daemon.admin}/{path}") as answer:
        return answer.status, await (answer.json() if path == "readyz" else answer.text())


async def seconds_left(daemon: Daemon) -> float:
    _, text = await said(daemon, "metrics")
    (line,) = [one for one in text.splitlines() if one.startswith("custody_data_key_seconds_left")]
    return float(line.split()[1])


@pytest.mark.prove
async def test_requests_make_no_calls_for_it(
    database: Database, issuer: Issuer, tmp_path: Path, stub: KmsStub
) -> None:
    async with (
        daemon_here(database, issuer, tmp_path, **overrides(place_of(stub))) as daemon,
        client_session() as session,
    ):
        await becomes(daemon, 200)
        assert 86_000 < await seconds_left(daemon) <= 86_400
        alice = Client(daemon, session, "alice")
        assert (await alice.init()).status == 200
        # Made, opened before it is stored, and opened as all do.
        assert (calls(stub, "Encrypt"), calls(stub, "Decrypt")) == (1, 2)
        for _ in range(20):
            answers = await asyncio.gather(*(alice.key() for _ in range(10)))
            assert {answer.status for answer in answers} == {200}
        assert (calls(stub, "Encrypt"), calls(stub, "Decrypt")) == (1, 2)


@pytest.mark.prove
@pytest.mark.parametrize("rings", [30, pytest.param(100, marks=pytest.mark.full)])
@pytest.mark.usefixtures("patient")
async def test_each_process_opens_it_once(
    database: Database, issuer: Issuer, tmp_path: Path, stub: KmsStub, rings: int
) -> None:
    await make_vaults(database, issuer, tmp_path, place_of(stub))
    before = calls(stub, "Decrypt")
    async with open_engine(Dsn(database.url("custody_app")), pool_size=4) as engine:
        for _ in range(rings):
            keyring = load_keyring(
                "aws-kms:alias/custody", (), environ=stub.environ, development=False
            )
            try:
                await keyring.active.refresh()
                ring = Ring(engine, keyring, 3600, 86_400)
                await asyncio.gather(*(ring.load() for _ in range(20)))
                assert ring.current is not None
                found = await asyncio.gather(*(ring.get(ring.current.prefix) for _ in range(30)))
                assert set(map(id, found)) == {id(ring.current)}
            finally:
                await keyring.close()
    assert calls(stub, "Decrypt") - before == rings


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "processes",
    [4, pytest.param(30, marks=pytest.mark.prove), pytest.param(100, marks=FULL)],
)
async def test_processes_that_start_at_once_make_a_call_each(
    database: Database, issuer: Issuer, tmp_path: Path, stub: KmsStub, processes: int
) -> None:
    place = place_of(stub)
    await make_vaults(database, issuer, tmp_path, place)
    before = calls(stub, "Encrypt"), calls(stub, "Decrypt")
    settings = settings_for(database, issuer, tmp_path, **overrides(place))
    environ, log = {"PATH": os.defpath, **settings}, log_file("one-look")
    go = tmp_path / "go"
    children = [
        Forked("tests.db.first_data_key", "0", str(go), environ=environ, out=log, err=log)
        for _ in range(processes)
    ]

    async def ready() -> bool:
        return log.read_text().count(READY) == processes

    await eventually(ready, 200)
    go.touch()
    codes = await asyncio.gather(*(asyncio.to_thread(child.wait, 200) for child in children))
    assert set(codes) == {0}, log.read_text()
    after = calls(stub, "Encrypt"), calls(stub, "Decrypt")
    assert (after[0] - before[0], after[1] - before[1]) == (0, processes)


@pytest.mark.prove
@pytest.mark.usefixtures("pace")
async def test_kms_that_is_away(
    database: Database, issuer: Issuer, tmp_path: Path, stub: KmsStub
) -> None:
    """Coasting until the hard age; then dropped; back within seconds of the cure."""
    # The KEK that wraps is well: what is seen comes of the data key's.
    far = place_of(stub)
    await make_vaults(database, issuer, tmp_path, far)
    near = make_place("env", tmp_path)
    short = {"DATA_KEY_TTL": "1", "DATA_KEY_MAX_AGE": "4"}
    async with (
        daemon_here(database, issuer, tmp_path, **overrides(near, far), **short) as daemon,
        client_session() as session,
    ):
        await becomes(daemon, 200)
        alice, zoe = (Client(daemon, session, user) for user in ("alice", "zoe"))
        key = (await alice.init()).json
        await zoe.init()
        await zoe.set_recovery(WRAPPED, IV)
        await zoe.enable_zk()
        opened = calls(stub, "Decrypt")
        await eventually(lambda: calls(stub, "Decrypt") > opened + 1)
        assert await seconds_left(daemon) > 2
        stub.faults["Decrypt"] = DOWN

        async def coasts() -> bool:
            answer = await alice.key()
            _, body = await said(daemon)
            assert body["parts"]["data-key"] == "ok"
            assert answer.json == key
            return "could not be opened again" in body.get("degraded", {}).get("data-key", "")

        await eventually(coasts)
        parts = await becomes(daemon, 503, **{"data-key": "can't be opened"})
        assert "InternalException" in parts["data-key"]
        assert await seconds_left(daemon) == 0
        assert_problem(await alice.key(), 503, "KEK_UNAVAILABLE")
        assert_problem(await alice.status(), 503, "KEK_UNAVAILABLE")
        assert_problem(await alice.rotate(), 503, "KEK_UNAVAILABLE")
        assert_problem(await Client(daemon, session, "bob").init(), 503, "KEK_UNAVAILABLE")
        assert (await zoe.key()).json["recoveryWrappedMk"] == WRAPPED
        assert (await database.audit("zoe"))[-1] == ("fetch", "unverified-seal", 200)
        stub.faults.clear()

        async def serves() -> bool:
            return (await alice.key()).status == 200

        await eventually(serves, BACK_WITHIN)
        assert (await alice.key()).json == key
        assert (await zoe.key()).json["recoveryWrappedMk"] == WRAPPED
        assert (await database.audit("zoe"))[-1] == ("fetch", "zk-recovery-blob", 200)
        await eventually(lambda: becomes_ready(daemon), BACK_WITHIN)
        assert await seconds_left(daemon) > 2
        assert "degraded" not in (await said(daemon))[1]


async def becomes_ready(daemon: Daemon) -> bool:
    return (await said(daemon))[0] == 200


@pytest.mark.prove
@pytest.mark.usefixtures("pace")
async def test_kms_that_is_down_at_boot(
    database: Database, issuer: Issuer, tmp_path: Path, stub: KmsStub
) -> None:
    """Up, and not ready; then ready, with a data key that was made or opened."""
    place = place_of(stub)
    for made in (0, 1):
        stub.faults["*"] = DOWN
        async with daemon_here(database, issuer, tmp_path, **overrides(place)) as daemon:
            parts = await becomes(daemon, 503, **{"data-key": "data key"})
            assert parts["database"] == "ok"
            assert await database.value("SELECT count(*) FROM auth.encryption_data_keys") == made
            stub.faults.clear()
            await eventually(lambda: becomes_ready(daemon), 2 * BACK_WITHIN)
        assert await database.value("SELECT count(*) FROM auth.encryption_data_keys") == 1


@pytest.mark.prove
async def test_reload_brings_the_kek_of_the_data_key(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    old, new = make_place("env", tmp_path), make_place("env", tmp_path)
    await make_vaults(database, issuer, tmp_path, old)
    environ = {f"raw_{name}": value for name, value in (old.environ | new.environ).items()}
    with configured(database, issuer, tmp_path, {"kek": new.uri}, probe="livez", **environ) as at:
        parts = await becomes(at.daemon, 503, **{"data-key": "list the KEK of"})
        assert old.stamp in parts["data-key"]
        await at.change(old_keks=old.uri)
        await becomes(at.daemon, 200)
