"""A third party's backend that misbehaves in a daemon: the users of other KEKs do not notice."""

import asyncio
import importlib.metadata
import threading
import time
from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from kek_backends import loader
from kek_backends.loader import ENTRY_POINT_GROUP
from tests.client import Client, becomes, client_session
from tests.e2e.keks import Place, make_place, make_vaults, overrides
from tests.kek.rude import SECRET, Polite
from tests.leaks import remember
from tests.servers import Database, daemon_here
from tests.tokens import Issuer


@pytest.fixture
def rude(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    remember(SECRET)
    points = [*importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)]
    points.append(EntryPoint("rude", "tests.kek.rude:Polite", ENTRY_POINT_GROUP))
    monkeypatch.setattr(loader, "entry_points", lambda group: EntryPoints(points))
    monkeypatch.setattr(Polite, "faults", {})
    yield Place("rude:key?id=rude-1", "rude-1", {})
    for fault in Polite.faults.values():
        if isinstance(fault, threading.Event):
            fault.set()


@pytest.mark.prove
@pytest.mark.usefixtures("pace")
@pytest.mark.parametrize("pace", ["quick"], indirect=True)
async def test_whatever_it_does_the_others_are_served(
    rude: Place, database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    healthy = make_place("env", tmp_path)
    await make_vaults(database, issuer, tmp_path, healthy, "bob")
    async with (
        daemon_here(database, issuer, tmp_path, **overrides(rude, healthy)) as daemon,
        client_session() as session,
    ):
        alice, bob = (Client(daemon, session, user) for user in ("alice", "bob"))
        made = await alice.init()
        assert made.json["kekId"] == "rude-1"
        for fault in (SystemExit, KeyboardInterrupt, threading.Event()):
            Polite.faults["unwrap"] = fault
            asked = asyncio.create_task(alice.key())
            served, began = 0, time.monotonic()
            while not asked.done():
                assert (await bob.key()).status == 200
                served += 1
            answer = await asked
            assert (answer.status, answer.code) == (503, "KEK_UNAVAILABLE")
            assert served > (5 if time.monotonic() - began > 1 else 0)
            await becomes(daemon, 503, kek="rude:key?id=rude-1")
            Polite.faults.clear()
            if isinstance(fault, threading.Event):
                fault.set()
            await becomes(daemon, 200, kek="ok")
            assert (await alice.key()).json == made.json
