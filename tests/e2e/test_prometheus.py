"""A real Prometheus and a real daemon: what is scraped is clean, and every query has an answer."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from custody.db.engine import POOL_SIZE
from custody.ops.drill_metrics import write_drill
from kek_backends.breaker import FAILURES
from tests.client import Client, becomes, client_session
from tests.e2e.keks import Place, make_place, make_vaults, overrides
from tests.eventually import eventually
from tests.kek import kms_stub as stubs
from tests.kek.kms_stub import KmsStub, kms_stub
from tests.prometheus import ask, exporter, lint, prometheus
from tests.servers import Daemon, Database, daemon_here
from tests.tokens import Issuer
from tests.unit.test_alerts import RULES_FILE
from tests.unit.test_monitoring import PANELS


@pytest.fixture
def stub() -> Iterator[KmsStub]:
    with kms_stub() as running:
        running.make_key("alias/custody")
        yield running


def firing(alerts: list[dict[str, Any]]) -> set[str]:
    return {alert["metric"]["alertname"] for alert in alerts}


@pytest.mark.prove
async def test_every_query_has_an_answer_and_alarms_fire(
    database: Database, issuer: Issuer, tmp_path: Path, stub: KmsStub
) -> None:
    old, new = make_place("env", tmp_path), Place("aws-kms:alias/custody", "", stub.environ)
    await make_vaults(database, issuer, tmp_path, old, "alice", "bob")
    drill = tmp_path / "drill.prom"
    write_drill(drill, success=True, data_keys=1)
    settings = overrides(new, old) | {
        "REWRAP_DATABASE_URL": database.url("custody_rewrap"),
        "REWRAP_INTERVAL": "1",
        "AUDIT_SEAL_INTERVAL": "1",
        "CANARY_USERS": "eve",
        # A KEK of today is due within thirty days, so its date is seen to come with it.
        "KEK_MAX_AGE": "20",
    }
    async with (
        daemon_here(database, issuer, tmp_path, **settings) as daemon,
        client_session() as session,
        exporter(drill) as node,
        prometheus(tmp_path, RULES_FILE, custody=[daemon.admin], node=[node]) as here,
    ):
        await becomes(daemon, 200)
        refused = {"Authorization": "Bearer none"}
        async with session.get(f"{daemon.base}/status", headers=refused) as answer:
            assert answer.status == 401
        alice = Client(daemon, session, "alice")

        async def are_answered() -> bool:
            assert (await alice.key()).status == 200
            for panel in PANELS:
                for target in panel["targets"]:
                    assert await ask(session, here, target["expr"]), panel["title"]
            return True

        await eventually(are_answered, 60)
        # A range in which it is seen to grow: from the first scrape on it was there, and 0.
        assert (await Client(daemon, session, "eve").key()).status == 503
        fires = 'ALERTS{alertname="CustodyCanaryTouched", alertstate="firing"}'
        await eventually(lambda: ask(session, here, fires), 30)
        async with session.get(f"{daemon.admin}/metrics") as answer:
            assert not lint(await answer.text())
        # Those with a time to wait before they fire are pending.
        due = await ask(session, here, 'ALERTS{alertname="CustodyKekDue"}')
        assert {one["metric"]["severity"] for one in due} == {"info"}
        others = await ask(session, here, "ALERTS")
        assert firing(others) == {"CustodyCanaryTouched", "CustodyKekDue"}


async def shown(daemon: Daemon) -> dict[str, float]:
    """Return each series with its value."""
    async with client_session() as session, session.get(f"{daemon.admin}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    series = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in series}


@pytest.mark.prove
async def test_metrics_of_a_daemon_whose_kms_fails_and_is_back(
    database: Database, issuer: Issuer, tmp_path: Path, stub: KmsStub
) -> None:
    kek = 'kek="aws-kms:alias/custody"'
    settings = overrides(Place("aws-kms:alias/custody", "", stub.environ))
    began = time.time()
    async with (
        daemon_here(database, issuer, tmp_path, AUDIT_SEAL_INTERVAL="1", **settings) as daemon,
        client_session() as session,
    ):
        await becomes(daemon, 200)
        alice = Client(daemon, session, "alice")
        assert (await alice.init()).status == 200
        well = await shown(daemon)
        assert well[f'custody_kms_calls_total{{{kek},outcome="ok"}}'] > 0
        assert well[f"custody_kms_breaker_open{{{kek}}}"] == 0
        assert well["custody_data_key_coasting"] == 0
        assert well['custody_connections{listener="vault"}'] == 1
        assert well['custody_database_connections_limit{pool="requests"}'] == POOL_SIZE
        assert well["custody_commit_deadline_left_seconds_count"] == 0  # a change goes alone
        for moment in ("data_key_opened", "jwks_fetched", "kek_activated"):
            assert abs(well[f"custody_{moment}_timestamp_seconds"] - began) < 60, moment
        assert well["custody_rewrap_looked_timestamp_seconds"] == 0
        stub.faults["*"] = stubs.refuse("InternalException", 500)
        for _ in range(FAILURES):
            assert (await alice.key()).code == "KEK_UNAVAILABLE"
        ill = await shown(daemon)
        assert ill[f"custody_kms_breaker_open{{{kek}}}"] == 1
        assert ill[f'custody_kms_calls_total{{{kek},outcome="unavailable"}}'] >= FAILURES
        stub.faults.clear()

        async def is_back() -> bool:
            assert (await alice.key()).status == 200
            now = await shown(daemon)
            assert now[f"custody_kms_breaker_open{{{kek}}}"] == 0
            assert now["custody_commit_deadline_left_seconds_count"] > 0
            assert now['custody_batch_requests_count{statement="record"}'] > 0
            assert now["custody_audit_sealed_timestamp_seconds"] > began
            return True

        await eventually(is_back)
