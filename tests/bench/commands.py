"""``make bench-commands``: how long the commands of the command line take, from exec to exit.

Beside them, as floors, a Python that does nothing, and one that imports the client of the database.
With ``--beside FOLDER`` the commands of another checkout are run in turns with ours, each on a
database that it has migrated itself. A command that the other one does not have has no figure.
"""

import argparse
import asyncio
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from custody.development.issuer import DevelopmentIssuer
from custody.development.postgres import EmbeddedPostgres
from custody.ops.logging import configure
from custody.settings import LogFormat, LogLevel
from tests.bench.processes import machine
from tests.bench.table import flat, write_json
from tests.servers import ROOT, new_database, settings_for
from tests.tokens import Issuer

_COMMAND_SECONDS = 60
_FLOORS = {
    "python": "pass",
    "python, the database's client": "import sqlalchemy.ext.asyncio, asyncpg",
}
_CUSTODY = ("-m", "custody")
_USAGE = 2

# By the name of a command what each checkout took: seconds, and those of its CPU.
Round: TypeAlias = Mapping[str, Sequence[dict[str, float] | None]]


@dataclass(frozen=True)
class Checkout:
    """Some custody, and what its commands are run with.

    Args:
        root: the folder that has its packages.
        environ: all variables, with a database that its own migrations have made.
        data: a folder of ``custody dev``.
    """

    root: Path
    environ: Mapping[str, str]
    data: Path

    def commands(self) -> dict[str, tuple[Sequence[str], Mapping[str, str]]]:
        """Return by name what is measured: arguments of Python, and variables beside ours."""
        typed = {"COMP_WORDS": "custody kek ", "COMP_CWORD": "2"}
        words = {
            "custody --version": ("--version",),
            "custody --help": ("--help",),
            "custody completion": ("completion", "bash"),
            "custody token": ("token", "--sub", "alice", "--data", str(self.data)),
            "custody kek generate": ("kek", "generate"),
            "custody config": ("config",),
            "custody openapi": ("openapi",),
            "custody kek list": ("kek", "list"),
            "custody rewrap status": ("rewrap", "status"),
            "custody doctor": ("doctor",),
        }
        return {
            **{name: (("-c", code), {}) for name, code in _FLOORS.items()},
            "Tab in a shell": (_CUSTODY, {"_CUSTODY_COMPLETE": "bash_complete", **typed}),
            **{name: ((*_CUSTODY, *some), {}) for name, some in words.items()},
        }

    def run(self, arguments: Sequence[str], more: Mapping[str, str]) -> dict[str, float] | None:
        """Run one, and return its seconds and those of its CPU; None where there is no such one."""
        used, began = _cpu(), time.perf_counter()
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.root,
            env={**self.environ, **more},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_COMMAND_SECONDS,
        )
        found = {"seconds": time.perf_counter() - began, "cpu": _cpu() - used}
        if done.returncode not in {0, _USAGE}:
            # Not what it printed: a command may print a key.
            raise SystemExit(f"{self.root}: {' '.join(arguments)} ended with {done.returncode}")
        return None if done.returncode == _USAGE else found


def _cpu() -> float:
    """Return the seconds of CPU of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@asynccontextmanager
async def _checkout(root: Path, server: EmbeddedPostgres, folder: Path) -> AsyncIterator[Checkout]:
    async with new_database(server, "template1") as database:
        environ = {"PATH": os.environ["PATH"]} | settings_for(
            database,
            Issuer(),
            folder,
            LOG_LEVEL="info",
            REWRAP_DATABASE_URL=database.url("custody_rewrap"),
        )
        migrating = {"CUSTODY_OWNER_DATABASE_URL": database.url("custody_owner")}
        found = Checkout(root, environ, folder)
        if await asyncio.to_thread(found.run, (*_CUSTODY, "migrate"), migrating) is None:
            raise SystemExit(f"{root}: there is no custody that migrates a database")
        yield found


async def bench(chosen: argparse.Namespace, folder: Path) -> None:
    """Measure, and print; the folder is empty, and the database's own user may enter it."""
    roots = (ROOT, *chosen.beside)
    async with AsyncExitStack() as stack:
        server = stack.enter_context(EmbeddedPostgres(folder / "pg"))
        await asyncio.to_thread(server.grant_logins)
        DevelopmentIssuer.create(folder)
        checkouts = [
            await stack.enter_async_context(_checkout(root, server, folder)) for root in roots
        ]
        # What is compiled once, and read from disk, in a round that does not count.
        rounds = [
            await asyncio.to_thread(_run_all, checkouts, chosen.only)
            for _ in range(1 + chosen.rounds)
        ][1:]
    about = machine() | {"python": sys.version.partition(" ")[0], "rounds": chosen.rounds}
    for name, value in about.items():
        sys.stdout.write(f"{name}: {flat(value)}\n")
    sys.stdout.write(_table(rounds, len(checkouts)))
    write_json(chosen.json, {"about": about, "rounds": rounds})


def _run_all(checkouts: Sequence[Checkout], only: Sequence[str]) -> Round:
    """Run every command of every checkout once, each beside the same of the others. Blocks."""
    return {
        name: [one.run(*one.commands()[name]) for one in checkouts]
        for name in checkouts[0].commands()
        if not only or name in only
    }


def _table(rounds: Sequence[Round], count: int) -> str:
    """Return medians, and in brackets the least: on a busy machine what lies nearest the truth."""
    heads = ["ours", "beside"][:count]
    lines = ["", f"{'ms (least)':<30}" + "".join(f"{h:>18}{f'{h}, CPU':>18}" for h in heads)]
    for name in rounds[0]:
        cells = []
        for number in range(count):
            found = [one for each in rounds if (one := each[name][number]) is not None]
            cells += [_cell([one[kind] for one in found]) for kind in ("seconds", "cpu")]
        lines.append(f"{name:<30}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join([*lines, ""])


def _cell(seconds: Sequence[float]) -> str:
    if not seconds:
        return "-"
    return f"{1000 * statistics.median(seconds):.0f} ({1000 * min(seconds):.0f})"


def main() -> None:
    """Run it."""
    text = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="make bench-commands", description=text)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--only", nargs="+", default=(), metavar="NAME", help="of the table: 'custody kek list'"
    )
    parser.add_argument(
        "--beside", type=Path, nargs=1, default=(), metavar="FOLDER", help="another checkout"
    )
    parser.add_argument("--json", type=Path, help="also write all of it to this file")
    chosen = parser.parse_args()
    configure(LogLevel.WARNING, LogFormat.TEXT, sys.stderr)
    with tempfile.TemporaryDirectory(prefix="custody-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        asyncio.run(bench(chosen, folder))


if __name__ == "__main__":
    main()
