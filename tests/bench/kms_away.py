"""``make chaos-kms-away``: a KMS that is killed under load, in envelope mode, and comes back.

A real OpenBao. Users log in all the time; of each answer it is kept when it came in. What it must
show: no failed login while the data key is kept, nothing but 503 after its hard age, and everybody
served within five seconds of the cure.
"""

import argparse
import asyncio
import math
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import aiohttp

from custody.ops.logging import configure
from custody.settings import LogFormat, LogLevel
from tests.bao_server import Bao, bao_server
from tests.bench.stage import stage
from tests.client import Answer, Client, client_session
from tests.servers import Daemon, new_database

_PAUSE_SECONDS = 0.05
# From the moment that the age is over to the look that sees it.
_LOOK_SECONDS = 1.5
_LEFT = re.compile(r"(?m)^custody_data_key_seconds_left (\S+)$")


@dataclass
class Seen:
    """What users were answered.

    Args:
        began: when the KMS was killed, as ``time.monotonic()`` counts.
        answers: status and code, with the seconds since then.
    """

    began: float = field(default_factory=time.monotonic)
    answers: list[tuple[float, int, str]] = field(default_factory=list)

    def note(self, answer: Answer) -> None:
        """Keep an answer."""
        code = "" if answer.status == 200 else str(answer.code)
        self.answers.append((time.monotonic() - self.began, answer.status, code))

    def count(self, since: float, until: float) -> Counter[tuple[int, str]]:
        """Count the answers between two moments, by status and code."""
        return Counter((status, code) for at, status, code in self.answers if since <= at < until)

    def first(self, is_wanted: Callable[[int], bool], since: float = 0) -> float:
        """Return when the first answer of a kind came in."""
        return next(
            (at for at, status, _ in self.answers if at >= since and is_wanted(status)), math.inf
        )


class Cure(NamedTuple):
    """When the KMS is started, when it answers, and how soon after that all are to be served."""

    begun: float
    cured: float
    within: float


async def _log_in(client: Client, key: str, seen: Seen, stop: asyncio.Event) -> None:
    while not stop.is_set():
        answer = await client.key()
        if answer.status == 200:
            assert answer.json["masterKey"] == key, "another key was given out"
        seen.note(answer)
        await asyncio.sleep(_PAUSE_SECONDS)


async def _metric(session: aiohttp.ClientSession, daemon: Daemon) -> float:
    async with session.get(f"{daemon.admin}/metrics") as answer:
        found = _LEFT.search(await answer.text())
    return float(found[1]) if found else 0.0


async def _ready(session: aiohttp.ClientSession, daemon: Daemon) -> int:
    async with session.get(f"{daemon.admin}/readyz") as answer:
        return answer.status


async def bench(chosen: argparse.Namespace) -> list[str]:
    """Let it happen; return what is wrong with it."""
    async with stage() as on, new_database(on.server) as database:
        folder = on.folder / "bao"
        await asyncio.to_thread(folder.mkdir)
        with bao_server(folder) as bao:
            key = bao.make_key()
            settings = {
                "KEK": f"vault:transit/{key}?mode=envelope",
                "DATA_KEY_TTL": str(chosen.ttl),
                "DATA_KEY_MAX_AGE": str(chosen.age),
            }
            settings |= {f"raw_{name}": value for name, value in bao.environ(key).items()}
            with on.daemon(database, **settings) as daemon:
                return await _away(daemon, bao, chosen)


async def _away(daemon: Daemon, bao: Bao, chosen: argparse.Namespace) -> list[str]:
    async with client_session() as session:
        clients = [Client(daemon, session, f"user-{number}") for number in range(chosen.users)]
        keys = [(await client.init()).json["masterKey"] for client in clients]
        # Opened again at least once before.
        await asyncio.sleep(chosen.ttl)
        stop, seen = asyncio.Event(), Seen()
        users = [
            asyncio.create_task(_log_in(client, key, seen, stop))
            for client, key in zip(clients, keys, strict=True)
        ]
        left = await _metric(session, daemon)
        await asyncio.to_thread(bao.kill)
        sys.stdout.write(f"the KMS is killed; {left:.1f} s are left\n")
        await asyncio.sleep(left / 2)
        ready = await _ready(session, daemon)
        await asyncio.sleep(chosen.away - left / 2)
        begun = time.monotonic() - seen.began
        await asyncio.to_thread(bao.start)  # returns when it answers
        cured = time.monotonic() - seen.began
        await asyncio.sleep(2 * chosen.back)
        stop.set()
        await asyncio.gather(*users)
        half = len(daemon.events("data_key_half_gone"))
    return _judge(seen, left, Cure(begun, cured, chosen.back), ready, half)


def _judge(seen: Seen, left: float, cure: Cure, ready: int, half: int) -> list[str]:
    begun, cured, within = cure
    before = seen.count(0, left - 0.5)
    after = seen.count(left + _LOOK_SECONDS, begun)
    back = max(seen.first(lambda status: status == 200, begun) - cured, 0.0)
    later = seen.count(cured + within, cured + 100)
    stopped = seen.first(lambda status: status != 200)
    sys.stdout.write(
        f"to the hard age: {dict(before)}; /readyz half-way: {ready}, {half} alarm at half of it\n"
        f"the first refusal came {stopped:.1f} s after the kill\n"
        f"then, to its start {begun:.0f} s after the kill: {dict(after)}\n"
        f"the first key came {back:.1f} s after the cure; {within:.0f} s after it: {dict(later)}\n"
    )
    wrong = []
    if set(before) != {(200, "")}:
        wrong.append("a login failed before the hard age")
    if set(after) != {(503, "KEK_UNAVAILABLE")}:
        wrong.append("after the hard age something else than 503 KEK_UNAVAILABLE was answered")
    if back > within or set(later) != {(200, "")}:
        wrong.append(f"it was not back within {within:.0f} s")
    if ready != 200 or half != 1:
        wrong.append("half-way it was not ready, or the alarm was not given once")
    return wrong


def main() -> None:
    """Run it."""
    text = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="make chaos-kms-away", description=text)
    parser.add_argument("--ttl", type=int, default=30, help="CUSTODY_DATA_KEY_TTL")
    parser.add_argument("--age", type=int, default=180, help="CUSTODY_DATA_KEY_MAX_AGE")
    parser.add_argument("--away", type=float, default=600, help="seconds without the KMS")
    parser.add_argument("--back", type=float, default=5, help="seconds to be back within")
    parser.add_argument("--users", type=int, default=16)
    configure(LogLevel.WARNING, LogFormat.TEXT, sys.stderr)
    if wrong := asyncio.run(bench(parser.parse_args())):
        raise SystemExit("; ".join(wrong))


if __name__ == "__main__":
    main()
