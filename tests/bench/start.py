"""``make bench-start``: how soon a started daemon answers, and what idle connections cost it.

A start is timed from the exec of ``custody serve`` to the first answer of status 200 of GET /key
and of /readyz; both are tried every few milliseconds. Memory is the resident memory of the daemon,
before and after some thousand connections that have had one answer each and then say nothing; what
the kernel keeps for their sockets is not in it.
"""

import argparse
import asyncio
import os
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from custody.ops.logging import configure
from custody.settings import LogFormat, LogLevel
from tests.bench.load import Request
from tests.bench.processes import resident_mib
from tests.bench.stage import Stage, pid_of, port_of, stage
from tests.bench.table import flat, write_json
from tests.bench.users import PATH, Users, requests_of, tokens_for
from tests.ports import free_port
from tests.servers import ROOT, Daemon, Database, settings_for

_PAUSE_SECONDS = 0.005
_START_SECONDS = 60
_STOP_SECONDS = 40
_TRY_SECONDS = 5.0
_AT_ONCE = 50
# The daemon's own files, and ours.
_SPARE_FILES = 500
_READYZ = Request(b"GET /readyz HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")


def start_once(on: Stage, database: Database, key: Request) -> dict[str, float]:
    """Start a daemon, wait for its first answers, and stop it. Blocks.

    Returns:
        Seconds to the first answer of each kind, and MiB of memory then.
    """
    ports = {"GET /key": free_port(), "/readyz": free_port()}
    environ = settings_for(
        database,
        on.issuer,
        on.folder,
        LISTEN=f"127.0.0.1:{ports['GET /key']}",
        ADMIN_LISTEN=f"127.0.0.1:{ports['/readyz']}",
        LOG_LEVEL="info",
    )
    requests = {"GET /key": key, "/readyz": _READYZ}
    found: dict[str, float] = {}
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "custody", "serve"],
        env={"PATH": os.environ["PATH"], **environ},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )
    try:
        while len(found) < len(ports):
            assert process.poll() is None, "the daemon ended"
            assert time.perf_counter() < began + _START_SECONDS, "the daemon does not get ready"
            for name in ports.keys() - found.keys():
                if _answers(ports[name], requests[name]):
                    found[name] = time.perf_counter() - began
            time.sleep(_PAUSE_SECONDS)
        return {**found, "MiB": resident_mib(process.pid)}
    finally:
        process.terminate()
        process.wait(_STOP_SECONDS)


def _answers(port: int, request: Request) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_TRY_SECONDS) as one:
            one.sendall(request.text)
            answer = one.recv(65536)
    except OSError:
        return False
    return answer.startswith(b"HTTP/1.1 200") and request.expected in answer


def idle(on: Stage, daemon: Daemon, requests: Sequence[Request], count: int) -> dict[str, float]:
    """Hold idle connections, and see what the daemon's memory does. Blocks."""
    port, pid = port_of(daemon), pid_of(daemon)
    # What any load leaves behind is not of the connections: caches, and memory that is not given
    # back.
    on.generator.run(port, requests, 64, 2.0)
    before = resident_mib(pid)
    with _held(port, requests, count) as sockets:
        during = resident_mib(pid)
        closed = sum(_is_closed(one) for one in sockets)
    if closed:
        raise SystemExit(f"{closed} of {count} connections did not last: no figure counts")
    return {
        "connections": count,
        "MiB before": round(before, 1),
        "MiB with them": round(during, 1),
        "MiB per 1,000": round(1000 * (during - before) / count, 2),
    }


@contextmanager
def _held(port: int, requests: Sequence[Request], count: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        sockets: list[socket.socket] = []
        while len(sockets) < count:
            some = [
                stack.enter_context(socket.create_connection(("127.0.0.1", port), _TRY_SECONDS))
                for _ in range(min(_AT_ONCE, count - len(sockets)))
            ]
            for number, one in enumerate(some, len(sockets)):
                one.sendall(requests[number % len(requests)].text)
            for one in some:
                if not one.recv(65536).startswith(b"HTTP/1.1 200"):
                    raise SystemExit("not everything was answered as it should be")
            sockets += some
        yield sockets


def _is_closed(one: socket.socket) -> bool:
    one.setblocking(False)
    try:
        return one.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


async def bench(chosen: argparse.Namespace) -> None:
    """Measure, and print."""
    _allow_files(chosen.idle + _SPARE_FILES)
    users = Users(chosen.users)
    async with stage() as on:
        about = await on.describe() | {"users": chosen.users}
        tokens = tokens_for(on.issuer, [user for user, _ in users])
        keys = requests_of(tokens, "GET", f"{PATH}/key", key=True)
        status = requests_of(tokens, "GET", f"{PATH}/status")
        async with on.users(users) as database:
            starts = [
                await asyncio.to_thread(start_once, on, database, keys[0])
                for _ in range(chosen.starts)
            ]
            # Of a proxy: one address alone has no room for so many.
            with on.daemon(database, TRUSTED_PROXIES="127.0.0.1") as daemon:
                held = await asyncio.to_thread(idle, on, daemon, status, chosen.idle)
    for name, value in about.items():
        sys.stdout.write(f"{name}: {flat(value)}\n")
    sys.stdout.write(f"\nfrom exec to the first 200, median of {chosen.starts} (least to most):\n")
    for name in ("GET /key", "/readyz"):
        times = [1000 * one[name] for one in starts]
        least, middle, most = min(times), statistics.median(times), max(times)
        sys.stdout.write(f"  {name:<10}{middle:>7.0f} ms  ({least:.0f} to {most:.0f})\n")
    resident = statistics.median(one["MiB"] for one in starts)
    sys.stdout.write(f"memory then: {resident:.0f} MiB\nidle connections: {flat(held)}\n")
    write_json(chosen.json, {"about": about, "starts": starts, "idle": held})


def _allow_files(count: int) -> None:
    """Let us, and the daemon that we start, open this many files."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < count:
        raise SystemExit(f"--idle: {count} open files are more than this host allows ({most})")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(count, now), most))


def main() -> None:
    """Run it."""
    text = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="make bench-start", description=text)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--idle", type=int, default=5000, help="connections")
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--json", type=Path, help="also write all of it to this file")
    configure(LogLevel.WARNING, LogFormat.TEXT, sys.stderr)
    asyncio.run(bench(parser.parse_args()))


if __name__ == "__main__":
    main()
