"""``make chaos-failover``: what users notice while the primary of a Patroni goes, and what is lost.

    make chaos-failover ARGS="--count 50"
    PATRONI=/opt/patroni/bin/patroni make chaos-failover ARGS="--count 3 --only isolate"

Three PostgreSQL under Patroni, three etcd and HAProxy, with the configuration of
docs/how-to/high-availability.md, its times too. Two daemons serve the same users: one has the URL
with three hosts, the other goes through HAProxy. Users ask for everything all the time; then the
primary goes, one way or the other (the table at :data:`FAULTS`).

``s`` is the longest time in which nobody was served by way of a daemon, from the fault on;
``503``s are the requests that failed in it. At the end the checker (tests/checker.py) holds every
answer against the database. The exit code is 1 where it finds anything.

PATRONI names another Patroni than Debian's. That one, 3.0.2, may not come to rest after
``isolate``: docs/how-to/high-availability.md says why.
"""

import argparse
import asyncio
import dataclasses
import itertools
import json
import math
import signal
import statistics
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from custody.db.engine import Dsn
from custody.db.migrate import migrate
from custody.ops.logging import configure
from custody.settings import LogFormat, LogLevel
from tests.bench.table import write_json
from tests.checker import Finding, check
from tests.db.embedded_server import open_folder
from tests.eventually import eventually, soon
from tests.ledger import Entry, Ledger, going_on, ledger_of
from tests.patroni import Cluster, haproxy_before, patroni_cluster
from tests.servers import Daemon, daemon_beside
from tests.tokens import Issuer

USERS = [f"user-{number}" for number in range(8)]
WAYS = ("hosts", "haproxy")
_WHOLE_SECONDS = 240
_SERVED_SECONDS = 120
# How long the new state lasts before what was broken comes back.
_STAYS_SECONDS = 2.0


# ── what happens; each returns what makes it good again ───────────────────────


def kill(made: Cluster) -> Callable[[], None]:
    """kill -9 of the primary: its postmaster, all its sessions, and its Patroni."""
    leader = made.leader()
    leader.kill()
    return lambda: made.start(leader)


def crash(made: Cluster) -> Callable[[], None]:
    """kill -9 of the postmaster and its sessions alone: Patroni starts it again, or another one."""
    made.leader().signal(signal.SIGKILL, patroni=False)
    return _nothing


def freeze(made: Cluster) -> Callable[[], None]:
    """All of the primary stands still, as a machine that is off the network; then it goes on."""
    leader = made.leader()
    leader.freeze()
    return lambda: leader.signal(signal.SIGCONT)


def isolate(made: Cluster) -> Callable[[], None]:
    """The primary's Patroni stands still and PostgreSQL goes on: for a while there are two."""
    leader = made.leader()
    leader.signal(signal.SIGSTOP, postgres=False)
    return lambda: leader.signal(signal.SIGCONT, postgres=False)


def switch_over(made: Cluster) -> Callable[[], None]:
    """As planned, by the API."""
    made.switch_over()
    return _nothing


def etcd_leader(made: Cluster) -> Callable[[], None]:
    """kill -9 of the etcd that leads."""
    number = next(number for number in range(3) if _leads(made, number))
    _end(made, number)
    return lambda: made.start_etcd(number)


def etcd_away(made: Cluster) -> Callable[[], None]:
    """kill -9 of two etcd: the third one alone answers nobody, for longer than the ttl."""
    _end(made, 0)
    _end(made, 1)
    time.sleep(25)

    def cure() -> None:
        made.start_etcd(0)
        made.start_etcd(1)

    return cure


def _nothing() -> None:
    pass


def _leads(made: Cluster, number: int) -> bool:
    url = f"http://127.0.0.1:{made.ports.of(number + 1, 2379)}/v3/maintenance/status"
    with urllib.request.urlopen(urllib.request.Request(url, b"{}"), timeout=2) as answer:
        said = json.load(answer)
    return bool(said["leader"] == said["header"]["member_id"])


def _end(made: Cluster, number: int) -> None:
    process = made.etcd[number]
    assert process is not None
    process.kill()
    process.wait()


Fault = Callable[[Cluster], Callable[[], None]]
FAULTS: Mapping[str, Fault] = {
    "kill": kill,
    "switchover": switch_over,
    "freeze": freeze,
    "isolate": isolate,
    "crash": crash,
    "etcd-leader": etcd_leader,
    "etcd-away": etcd_away,
}
# After these another one is the primary.
FAILOVERS = ("kill", "switchover", "freeze", "isolate")


# ── what is seen ──────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Seen:
    """What came of one fault.

    Args:
        fault: its name.
        seconds: without service, by way.
        failed: requests, by way.
        whole: seconds until there were three servers again.
        moved: whether another one is the primary now.
    """

    fault: str
    seconds: Mapping[str, float]
    failed: Mapping[str, int]
    whole: float
    moved: bool


@dataclass(frozen=True)
class Scene:
    """A cluster, and daemons that serve from it."""

    made: Cluster
    daemons: Mapping[str, Daemon]
    ledger: Ledger

    def of(self, way: str, since: float) -> list[Entry]:
        """Return what was asked by way of one daemon and had ended since a moment."""
        turn = [daemon.base for daemon in self.daemons.values()].index(self.daemons[way].base)
        return [
            one
            for one in self.ledger.entries
            if one.number % len(self.daemons) == turn and since < one.ended < math.inf
        ]

    def gap(self, way: str, since: float) -> float:
        """Return the longest time since a moment in which a daemon has served nobody."""
        # The status alone needs no primary.
        ends = [one.ended for one in self.of(way, since) if _is_served(one)]
        return max((b - a for a, b in itertools.pairwise([since, *sorted(ends)])), default=0.0)

    async def suffer(self, fault: str) -> Seen:
        """Let a fault happen, see users served again, make it good, and wait until all is well."""
        before = await asyncio.to_thread(self.made.leader)
        began = time.monotonic()
        cure = await asyncio.to_thread(FAULTS[fault], self.made)
        happened = time.monotonic()
        if fault in FAILOVERS:
            await eventually(lambda: asyncio.to_thread(_has_moved, self.made, before.number), 120)
        for way in self.daemons:
            await eventually(lambda: self._serves(way, happened), _SERVED_SECONDS)  # noqa: B023
        await asyncio.sleep(_STAYS_SECONDS)
        cured = time.monotonic()
        await asyncio.to_thread(cure)
        await asyncio.to_thread(soon, self.made.is_whole, _WHOLE_SECONDS, 0.2)
        whole = time.monotonic() - cured
        for way in self.daemons:
            await eventually(lambda: self._serves(way, cured), _SERVED_SECONDS)  # noqa: B023
        return Seen(
            fault,
            {way: self.gap(way, began) for way in self.daemons},
            {way: sum(one.is_failure for one in self.of(way, began)) for way in self.daemons},
            whole,
            (await asyncio.to_thread(self.made.leader)) is not before,
        )

    def _serves(self, way: str, since: float) -> bool:
        return any(one.begun > since and _is_served(one) for one in self.of(way, since))

    async def findings(self) -> list[Finding]:
        """Hold everything against the ledger."""
        database = self.made.database
        owner = {"CUSTODY_OWNER_DATABASE_URL": self.made.url("custody_owner")}
        one = next(iter(self.daemons.values()))
        return await check(
            self.ledger,
            database=database.url("postgres"),
            environ=one.settings | owner,
            admins=[daemon.admin for daemon in self.daemons.values()],
        )


def _is_served(entry: Entry) -> bool:
    return not entry.is_failure and entry.act != "status"


def _has_moved(made: Cluster, before: int) -> bool:
    return any(made.leads(one) for one in made.members if one.number != before)


@asynccontextmanager
async def scene(changes: Mapping[str, str], ways: Sequence[str] = WAYS) -> AsyncIterator[Scene]:
    """Run all of it for the length of the block.

    Args:
        changes: to the page's configuration of Patroni.
        ways: to the primary, each with a daemon of its own.
    """
    issuer = Issuer()
    with ExitStack() as stack:
        made = stack.enter_context(patroni_cluster(changes))
        await make_database(made)
        stack.enter_context(haproxy_before(made))
        folder = stack.enter_context(open_folder())
        urls = {"hosts": made.url(), "haproxy": made.url_by_haproxy()}
        daemons = {}
        for way in ways:
            own = folder / way
            own.mkdir()
            settings = {"DATABASE_URL": urls[way], "LOG_LEVEL": "info"}
            beside = daemon_beside(made.database, issuer, own, **settings)
            daemons[way] = await asyncio.to_thread(stack.enter_context, beside)
        async with ledger_of([one.base for one in daemons.values()], issuer) as ledger:
            yield Scene(made, daemons, ledger)


async def make_database(made: Cluster) -> None:
    """Make roles and the migrated database of the service."""
    admin = await asyncpg.connect(made.database.url("postgres").replace("/custody", "/postgres"))
    words = made.passwords
    options = {"custody_owner": "CREATEROLE", "custody_app": "", "custody_rewrap": ""}
    for role, option in options.items():
        await admin.execute(f"CREATE ROLE {role} LOGIN {option} PASSWORD '{words[role]}'")
    await admin.execute("CREATE DATABASE custody OWNER custody_owner")
    await admin.close()
    # A standby may not have it yet, and would be asked first.
    await migrate(Dsn(made.database.url("custody_owner")))


# ── the command ───────────────────────────────────────────────────────────────


async def run(chosen: argparse.Namespace) -> tuple[list[Seen], list[Finding], int]:
    """Let all that was chosen happen under load; return what was seen, and what is wrong."""
    faults = itertools.islice(itertools.cycle(chosen.only), chosen.count)
    seen = []
    async with scene({}, chosen.ways) as played:
        async with going_on(played.ledger, USERS, pause=0.05):
            await asyncio.sleep(3)
            for fault in faults:
                seen.append(one := await played.suffer(fault))
                sys.stdout.write(_line(one) + "\n")
                sys.stdout.flush()
        found = await played.findings()
        asked = len(played.ledger.entries)
    return seen, found, asked


def _line(one: Seen) -> str:
    ways = "  ".join(
        f"{way} {one.seconds[way]:5.1f} s, {one.failed[way]:4} failed" for way in one.seconds
    )
    return f"{one.fault:<12} {ways}  whole after {one.whole:5.1f} s{'' if one.moved else ' (same)'}"


def summary(seen: Sequence[Seen], ways: Sequence[str]) -> str:
    """Return the table: median and worst seconds without service, by fault and way."""
    lines = [
        f"{'':<12}{'count':>6}" + "".join(f"{way + ' median':>16}{'worst':>8}" for way in ways)
    ]
    for fault in dict.fromkeys(one.fault for one in seen):
        rows = [one for one in seen if one.fault == fault]
        line = f"{fault:<12}{len(rows):>6}"
        for way in ways:
            seconds = [one.seconds[way] for one in rows]
            line += f"{statistics.median(seconds):>16.1f}{max(seconds):>8.1f}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run it.

    Returns:
        The exit code: 1 where anything was lost or is wrong.
    """
    text = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="make chaos-failover", description=text)
    parser.add_argument("--count", type=int, default=len(FAULTS), help="faults in all")
    parser.add_argument("--only", nargs="+", default=list(FAULTS), choices=FAULTS)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--json", type=Path, help="also write all of it to this file")
    configure(LogLevel.WARNING, LogFormat.TEXT, sys.stderr)
    chosen = parser.parse_args()
    seen, found, asked = asyncio.run(run(chosen))
    sys.stdout.write("\n" + summary(seen, chosen.ways))
    sys.stdout.write(f"\n{asked} requests; {len(found)} findings\n")
    sys.stdout.write("".join(f"{one.kind}: {one.about}\n" for one in found))
    rows = [dataclasses.asdict(one) for one in seen]
    write_json(chosen.json, {"rows": rows, "findings": [dataclasses.asdict(one) for one in found]})
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
