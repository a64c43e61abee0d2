"""The door for rows that are not sealed: how many there are, and what an operator is told to do."""

import json
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from custody.keks.legacy import Door
from custody.ops.doctor import examine
from kek_backends.findings import Verdict
from tests.client import client_session, readiness
from tests.db.command import custody
from tests.db.connecting import engine_of
from tests.db.data_keys import add_sealed_row
from tests.db.format2_database import KEK, move
from tests.servers import Daemon, Database, daemon_here
from tests.tokens import Issuer

SHUT = (
    "12 rows (4 in zero-knowledge mode) are not sealed yet and refused: set "
    "CUSTODY_LEGACY_ROWS=accept and restart, then run: custody rewrap run"
)
OPEN = "12 rows (4 in zero-knowledge mode) are not sealed yet: run: custody rewrap run"
USELESS = "every row is sealed, and the door for others is open: take CUSTODY_LEGACY_ROWS away"
ADD = "INSERT INTO auth.encryption_vaults (user_id, wrapped_mk, wrap_iv) VALUES ($1, '', '')"
SEAL_ALL = "UPDATE auth.encryption_vaults SET seal = 's'"


@pytest.fixture
async def old(empty: Database) -> Database:
    """A database of format 2, migrated: 12 rows, none sealed."""
    await move(empty)
    return empty


async def asked(daemon: Daemon, path: str) -> tuple[int, Any]:
    async with client_session() as session, session.get(f"{daemon.admin}{path}") as response:
        text = await response.text()
        return response.status, json.loads(text) if path == "/readyz" else text


async def of_rows(settings: dict[str, str]) -> list[tuple[Verdict, str]]:
    found = await examine(settings)
    return [(one.verdict, one.message) for one in found if one.part == "rows"]


@pytest.mark.prove
async def test_shut(old: Database, issuer: Issuer, tmp_path: Path) -> None:
    async with daemon_here(old, issuer, tmp_path, raw_MANA_AUTH_KEK=KEK) as daemon:
        status, parts = await readiness(daemon)
        assert (status, parts.pop("rows")) == (503, SHUT)
        assert set(parts.values()) == {"ok"}
        _, metrics = await asked(daemon, "/metrics")
        assert 'custody_unsealed_rows{kind="wrap"} 8.0' in metrics
        assert 'custody_unsealed_rows{kind="zero-knowledge"} 4.0' in metrics
        assert 'custody_ready{part="rows"} 0.0' in metrics
        assert await of_rows(daemon.settings) == [(Verdict.FINDING, SHUT)]
        await old.execute(SEAL_ALL)
        assert await of_rows(daemon.settings) == [(Verdict.OK, "every row is sealed")]
    async with daemon_here(old, issuer, tmp_path, raw_MANA_AUTH_KEK=KEK) as daemon:
        assert (await asked(daemon, "/readyz"))[1]["parts"]["rows"] == "ok"


@pytest.mark.prove
async def test_open(old: Database, issuer: Issuer, tmp_path: Path) -> None:
    settings = {"raw_MANA_AUTH_KEK": KEK, "LEGACY_ROWS": "accept"}
    async with daemon_here(old, issuer, tmp_path, **settings) as daemon:
        status, body = await asked(daemon, "/readyz")
        assert (status, body["parts"]["rows"], body["degraded"]) == (200, "ok", {"rows": OPEN})
        assert await of_rows(daemon.settings) == [(Verdict.FINDING, OPEN)]
        await old.execute(SEAL_ALL)
        assert await of_rows(daemon.settings) == [(Verdict.FINDING, USELESS)]
    async with daemon_here(old, issuer, tmp_path, **settings) as daemon:
        _, body = await asked(daemon, "/readyz")
        assert (body["ready"], body["degraded"]) == (True, {"rows": USELESS})


@pytest.mark.prove
async def test_they_are_listed_by_kek(old: Database, issuer: Issuer, tmp_path: Path) -> None:
    async with daemon_here(old, issuer, tmp_path, raw_MANA_AUTH_KEK=KEK) as daemon:
        environ = daemon.settings | {"CUSTODY_REWRAP_DATABASE_URL": old.url("custody_rewrap")}
    (listed,) = json.loads(custody(environ, "kek", "list", "--json").out)
    assert (listed["rows"], listed["legacy_rows"], listed["format_1_rows"]) == (8, 8, 0)
    heads, cells, *_ = custody(environ, "kek", "list").out.splitlines()
    assert dict(zip(heads.split()[:4], cells.split()[:4], strict=True))["LEGACY"] == "8"


async def test_more_of_them_are_an_alarm(database: Database) -> None:
    """No daemon writes one: somebody else does."""
    async with engine_of(database.url("custody_app")) as engine:
        door = Door(engine, is_open=True)
        await database.execute("INSERT INTO auth.users (id) VALUES ('zoe'), ('yan')")
        await database.execute(ADD, "zoe")
        with capture_logs() as logged:
            await door.look()  # as it was found
            await add_sealed_row(database, "sealed", "s")
            await door.look()
            assert logged == []
            await database.execute(ADD, "yan")
            await door.look()
            await door.look()
            await database.execute(SEAL_ALL)
            await door.look()
    assert logged == [{"event": "unsealed_rows_rose", "log_level": "error", "rows": 2, "before": 1}]


async def test_before_a_look_nothing_is_said(database: Database) -> None:
    async with engine_of(database.url("custody_app")) as engine:
        for is_open in (True, False):
            door = Door(engine, is_open=is_open)
            assert (door.unsealed, door.problem, door.remark) == (None, None, None)
