"""What the daemon tells its service manager, and when."""

import asyncio
import itertools
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from custody.ops import report
from tests.client import Client, client_session, readiness
from tests.db.command import custody
from tests.e2e import quick
from tests.e2e.hangup import configured
from tests.e2e.held import held, one_waits
from tests.e2e.keks import Place, make_vaults
from tests.e2e.service_manager import ServiceManager, service_manager
from tests.eventually import eventually
from tests.faulty_proxy import Fault, faulty_proxy
from tests.leaks import remember
from tests.servers import (
    Database,
    daemon_beside,
    settings_for,
)
from tests.tokens import Issuer

# Long, since others work on the same machine: within it four signs of life are due.
WATCHDOG_SECONDS = 6.0
# Short, for what must not come within it, or may take its time.
SHORT_WATCHDOG_SECONDS = 0.6
some_seconds = pytest.mark.parametrize(
    "seconds", [SHORT_WATCHDOG_SECONDS, pytest.param(WATCHDOG_SECONDS, marks=pytest.mark.prove)]
)
ORIGIN = "https://app.example"
OTHER_KEK = "QW5vdGhlciBrZXkgb2YgMzIgYnl0ZXMsIGZvciBhIHQ="


def variables(manager: ServiceManager, **others: str) -> dict[str, str]:
    return {"raw_NOTIFY_SOCKET": manager.address, **others}


@pytest.mark.prove
async def test_ready_with_a_status(
    pace: str, database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    with (
        service_manager() as manager,
        daemon_beside(database, issuer, tmp_path, module=pace, **variables(manager)) as daemon,
    ):
        await eventually(lambda: manager.said("READY"))
        (ready,) = manager.said("READY")
        assert ready.sender == daemon.running.pid
        address = daemon.base.removesuffix("/api/v1/me/encryption-vault")
        assert ready.fields["STATUS"] == f"{address} | KEK env-v1 | no re-wrap worker"
        await asyncio.sleep(2.5 * report._REPORT_SECONDS)
        # Nobody is told the same again, and nobody asked for signs of life.
        assert [one.fields for one in manager.messages if one.at > ready.at] == []


@pytest.mark.prove
async def test_database_that_is_down_at_boot(
    pace: str, database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    """More time is asked for, again and again; ready is said when the database was judged."""
    with service_manager() as manager, faulty_proxy(database.server.port) as proxy:
        proxy.fault = Fault.REFUSE
        others = variables(manager, DATABASE_URL=database.through(proxy.port))
        with daemon_beside(
            database, issuer, tmp_path, module=pace, probe="livez", **others
        ) as daemon:
            await eventually(lambda: len(manager.said("EXTEND_TIMEOUT_USEC")) >= 4)
            first, *later = manager.said("EXTEND_TIMEOUT_USEC")
            for one in later:
                # Asked for long before the last one has run out.
                assert (one.at - first.at) * 1_000_000 < int(first.fields["EXTEND_TIMEOUT_USEC"])
                first = one
            assert manager.status.startswith(
                "NOT READY: database: CUSTODY_DATABASE_URL: no connection to the database at "
            )
            assert manager.said("READY") == []
            assert (await readiness(daemon))[0] == 503
            proxy.fault = Fault.NONE
            await eventually(lambda: manager.said("READY"))
            assert (await readiness(daemon))[0] == 200
            extended = len(manager.said("EXTEND_TIMEOUT_USEC"))
            await eventually(lambda: manager.status.endswith("| KEK env-v1 | no re-wrap worker"))
            await asyncio.sleep(1.5 * report._REPORT_SECONDS)
            assert len(manager.said("EXTEND_TIMEOUT_USEC")) == extended
        assert len(manager.said("READY")) == 1


async def test_configuration_that_is_refused_is_never_ready(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    with service_manager() as manager:
        environ = settings_for(
            database, issuer, tmp_path, **variables(manager, KEK="env:MISSING?id=missing")
        )
        done = await asyncio.to_thread(custody, environ, "serve")
        assert done.code == 78
        assert "neither MISSING nor MISSING_FILE is set" in done.complaint
        assert manager.said("READY") == []


@pytest.mark.prove
async def test_status_counts_the_rows_that_are_left(
    pace: str, database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    environ = {"OTHER_KEK": remember(OTHER_KEK)}
    old = Place("env:OTHER_KEK?id=other", "other", environ)
    await make_vaults(database, issuer, tmp_path, old, "alice", "bob", "carol")
    worker = {"REWRAP_DATABASE_URL": database.url("custody_rewrap"), "REWRAP_INTERVAL": "1"}
    with service_manager() as manager:
        # With no KEK for them they stay.
        blind = variables(manager, **worker)
        with daemon_beside(database, issuer, tmp_path, module=pace, probe="livez", **blind):
            await eventually(lambda: manager.status.endswith("| 3 rows left to re-wrap"))
            assert manager.status.startswith("NOT READY: kek: rows carry the kek_id other")
            # Others are served: that is what ready means to a service manager.
            assert len(manager.said("READY")) == 1
    with service_manager() as manager:
        seeing = variables(manager, **worker, OLD_KEKS=old.uri, raw_OTHER_KEK=OTHER_KEK)
        with daemon_beside(database, issuer, tmp_path, module=pace, **seeing):
            await eventually(
                lambda: manager.status.endswith("| KEK env-v1 | 0 rows left to re-wrap")
            )


def watchdog(process: int | None = None, *, seconds: float = WATCHDOG_SECONDS) -> dict[str, str]:
    found = {"raw_WATCHDOG_USEC": str(int(seconds * 1_000_000))}
    return found if process is None else found | {"raw_WATCHDOG_PID": str(process)}


@pytest.mark.prove
async def test_signs_of_life_in_short(database: Database, issuer: Issuer, tmp_path: Path) -> None:
    """They come while the database is well, gone, or silent."""
    with service_manager() as manager, faulty_proxy(database.server.port) as proxy:
        url = database.through(proxy.port)
        others = variables(manager, DATABASE_URL=url, **watchdog(seconds=SHORT_WATCHDOG_SECONDS))
        with daemon_beside(database, issuer, tmp_path, module=quick.__name__, **others):
            for fault in (Fault.NONE, Fault.REFUSE, Fault.BLACK_HOLE):
                proxy.fault = fault
                await more_signs(manager, 2)
            proxy.fault = Fault.NONE


async def more_signs(manager: ServiceManager, count: int) -> None:
    """Wait for that many signs of life from now on."""
    before = len(manager.said("WATCHDOG"))
    await eventually(lambda: len(manager.said("WATCHDOG")) >= before + count)


@pytest.mark.prove
@pytest.mark.parametrize("fault", [Fault.NONE, Fault.REFUSE, Fault.BLACK_HOLE])
async def test_signs_of_life_whatever_the_database_does(
    database: Database, issuer: Issuer, tmp_path: Path, fault: Fault
) -> None:
    """None is later than half of what the watchdog waits, so that one may be late."""
    with service_manager() as manager, faulty_proxy(database.server.port) as proxy:
        url = database.through(proxy.port)
        others = variables(manager, **watchdog(), DATABASE_URL=url)
        with daemon_beside(database, issuer, tmp_path, **others):
            await eventually(lambda: manager.said("WATCHDOG"))
            proxy.fault = fault
            began = time.monotonic()
            await asyncio.sleep(2.5 * WATCHDOG_SECONDS)
            limit = WATCHDOG_SECONDS if fault is Fault.BLACK_HOLE else WATCHDOG_SECONDS / 2
            signs = [sign.at for sign in manager.said("WATCHDOG") if sign.at > began]
            pauses = itertools.pairwise([began, *signs, time.monotonic()])
            assert max(after - before for before, after in pauses) < limit
            proxy.fault = Fault.NONE


@pytest.mark.prove
@some_seconds
async def test_no_sign_of_life_while_it_is_frozen(
    database: Database, issuer: Issuer, tmp_path: Path, seconds: float
) -> None:
    others = watchdog(seconds=seconds)
    with (
        service_manager() as manager,
        daemon_beside(database, issuer, tmp_path, **variables(manager, **others)) as daemon,
    ):
        await eventually(lambda: manager.said("WATCHDOG"))
        daemon.running.send_signal(signal.SIGSTOP)
        await asyncio.sleep(0.5)
        count = len(manager.messages)
        await asyncio.sleep(seconds)
        assert len(manager.messages) == count
        daemon.running.send_signal(signal.SIGCONT)
        await eventually(lambda: len(manager.said("WATCHDOG")) > count)


@pytest.mark.prove
@some_seconds
async def test_watchdog_of_another_process_is_not_ours(
    database: Database, issuer: Issuer, tmp_path: Path, seconds: float
) -> None:
    others = watchdog(os.getpid(), seconds=seconds)
    with (
        service_manager() as manager,
        daemon_beside(database, issuer, tmp_path, **variables(manager, **others)),
    ):
        await eventually(lambda: manager.said("READY"))
        await asyncio.sleep(seconds / 2)
        assert manager.said("WATCHDOG") == []


@pytest.mark.prove
async def test_reload_is_told_of_with_its_outcome(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    with (
        service_manager() as manager,
        configured(database, issuer, tmp_path, {"cors_origins": []}, **variables(manager)) as at,
    ):
        await eventually(lambda: manager.said("READY"))
        before = time.monotonic()
        await at.reloads(cors_origins=[ORIGIN])
        await eventually(lambda: len(manager.said("READY")) == 2)
        (reloading,), ready = manager.said("RELOADING"), manager.said("READY")[1]
        moment = int(reloading.fields["MONOTONIC_USEC"]) / 1_000_000
        assert before <= moment <= reloading.at <= ready.at
        assert "reload failed" not in ready.fields["STATUS"]
        assert "CUSTODY_RATE_LIMIT" in await at.refuses(rate_limit=-1)
        await eventually(lambda: len(manager.said("READY")) == 3)
        assert "| reload failed: CUSTODY_RATE_LIMIT: " in manager.status
        await at.reloads(rate_limit=0)
        await eventually(lambda: len(manager.said("READY")) == 4)
        assert len(manager.said("RELOADING")) == 3
        assert "reload failed" not in manager.said("READY")[3].fields["STATUS"]


@pytest.mark.prove
async def test_reload_before_it_is_ready(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    """Carried out, and not told of: a start is not over with the end of a reload."""
    with service_manager() as manager, faulty_proxy(database.server.port) as proxy:
        proxy.fault = Fault.REFUSE
        others = variables(manager, DATABASE_URL=database.through(proxy.port))
        values: dict[str, Any] = {"cors_origins": []}
        with configured(database, issuer, tmp_path, values, probe="livez", **others) as at:
            await at.reloads(cors_origins=[ORIGIN])
            await at.refuses(rate_limit=-1)
            await eventually(lambda: "| reload failed: CUSTODY_RATE_LIMIT" in manager.status)
            assert manager.said("READY") == manager.said("RELOADING") == []
            proxy.fault = Fault.NONE
            await eventually(lambda: manager.said("READY"))


@pytest.mark.prove
async def test_a_stop_is_told_of_when_it_begins(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    with (
        service_manager() as manager,
        daemon_beside(database, issuer, tmp_path, **variables(manager, **watchdog())) as daemon,
    ):
        async with client_session() as session:
            alice = Client(daemon, session, "alice")
            await alice.init()
            async with held(database):
                rotation = asyncio.create_task(alice.rotate())
                await one_waits(database)
                assert manager.said("STOPPING") == []
                daemon.running.send_signal(signal.SIGTERM)
                await eventually(lambda: manager.said("STOPPING"))
                assert daemon.running.poll() is None
                assert manager.status == "answering what is under way"
            assert (await rotation).status == 200
        assert await daemon.ended() == 0
        told = [message for message in manager.messages if "WATCHDOG" not in message.fields]
        assert next(iter(told[-1].fields)) == "STOPPING"


@pytest.mark.prove
@some_seconds
async def test_nobody_listens(
    database: Database, issuer: Issuer, tmp_path: Path, seconds: float
) -> None:
    """The daemon serves as without a service manager, also when that goes away."""
    with service_manager() as manager:
        others = variables(manager, **watchdog(seconds=seconds))
        with daemon_beside(database, issuer, tmp_path, **others) as daemon:
            await eventually(lambda: manager.said("WATCHDOG"))
            await asyncio.to_thread(Path(manager.address).unlink)
            await asyncio.sleep(seconds / 2)
            async with client_session() as session:
                assert (await Client(daemon, session, "alice").init()).status == 200
    missing = {"raw_NOTIFY_SOCKET": str(tmp_path / "missing")}
    with daemon_beside(database, issuer, tmp_path, **missing) as daemon:
        async with client_session() as session:
            assert (await Client(daemon, session, "alice").key()).status == 200
