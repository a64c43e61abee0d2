"""pgbench with the statements that the daemon sends: what PostgreSQL can do at most here.

When the daemon's statements change (``custody/vault/grouped.py``), change
``READ`` and ``RECORD``: each step is a name in ``sql/queries`` with one SQL expression for each of
its parameters, or SQL as it is. pgbench sends each as a prepared statement, as asyncpg does.
"""

import math
import os
import re
import resource
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from custody.db.queries import query
from tests.bench.load import OK, Load, LoadError
from tests.bench.users import FIRST
from tests.servers import Database

_USER = ":user"
_GRACE_SECONDS = 60
# Its time begins before its clients connect, each with a SCRAM exchange; its rate begins after it.
_CONNECT_SECONDS = 0.01
_PARAMETER = re.compile(r"\$(\d+)")
# Of a line of pgbench's log, counted from 0: microseconds, or a word where it failed.
_TIME = 2
_RATE = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Named:
    """A statement of ``sql/queries``.

    Args:
        name: of the file.
        parameters: an SQL expression for $1, $2…
    """

    name: str
    parameters: tuple[str, ...]

    def text(self) -> str:
        """Return it as pgbench takes it."""
        lines = query(self.name).splitlines()
        sql = " ".join(line.strip() for line in lines if not line.strip().startswith("--"))
        return _PARAMETER.sub(lambda found: self.parameters[int(found[1]) - 1], sql)


Step = Named | str

_USERS = f"ARRAY[{_USER}]::text[]"
_DEADLINE = "extract(epoch FROM clock_timestamp())::float8 + 9.5"
_EVENT = (
    f"json_build_array(json_build_object('id', uuidv7(), 'user_id', {_USER}::text,"
    " 'action', 'fetch', 'ip_address', '192.0.2.1', 'user_agent', 'custody-bench',"
    " 'status', 200))"
)

READ: tuple[Step, ...] = (Named("read_vaults", (_USERS,)),)
RECORD: tuple[Step, ...] = (Named("record_events", (_DEADLINE, _EVENT)),)


def script(steps: Sequence[Step], users: int) -> str:
    """Return a pgbench script that does these steps for a user picked at random."""
    lines = [f"\\set user random({FIRST}, {FIRST + users - 1})"]
    lines += [f"{step if isinstance(step, str) else step.text()};" for step in steps]
    return "\n".join([*lines, ""])


@dataclass(frozen=True)
class Pgbench:
    """Runs scripts as the role custody_app.

    Args:
        database: with the users.
        users: how many.
    """

    database: Database
    users: int

    def run(self, steps: Sequence[Step], clients: int, seconds: float) -> Load:
        """Run a script, again and again. Blocks.

        Args:
            steps: of the script.
            clients: how many at once, each over a connection of its own.
            seconds: how long, about: pgbench takes whole ones.

        Raises:
            LoadError: it failed.
        """
        with tempfile.TemporaryDirectory(prefix="custody-pgbench-") as name:
            folder = Path(name)
            (folder / "script").write_text(script(steps, self.users), "utf-8")
            before = _children_cpu()
            text = self._call(folder, clients, math.ceil(seconds + clients * _CONNECT_SECONDS))
            cpu = _children_cpu() - before
            return parse(_log_lines(folder), text, cpu)

    def _call(self, folder: Path, clients: int, seconds: int) -> str:
        server = self.database.server
        options = {
            "--host": "127.0.0.1",
            "--port": server.port,
            "--username": "custody_app",
            "--protocol": "prepared",
            "--client": clients,
            "--jobs": min(clients, os.cpu_count() or 1),
            "--time": seconds,
            "--log-prefix": folder / "log",
            "--file": folder / "script",
        }
        words = [f"{name}={value}" for name, value in options.items()]
        done = subprocess.run(
            [str(server.bin / "pgbench"), "--no-vacuum", "--log", *words, self.database.name],
            capture_output=True,
            text=True,
            timeout=seconds + _GRACE_SECONDS,
            check=False,
            env={"PGPASSFILE": str(server.folder / "pgpass"), "PATH": os.environ["PATH"]},
        )
        if done.returncode != 0:
            raise LoadError(f"pgbench: {done.stderr.strip()[-500:]}")
        return done.stdout


def parse(lines: Iterator[str], summary: str, cpu: float) -> Load:
    """Read what pgbench leaves.

    Args:
        lines: of its log: one a transaction.
        summary: what it prints: the rate without the time to connect.
        cpu: seconds that it used.
    """
    words = [line.split()[_TIME] for line in lines]
    times = sorted(1000 * int(word) for word in words if word.isdigit())
    found = _RATE.search(summary)
    if found is None and times:
        raise LoadError("pgbench printed no rate")
    return Load(
        times=times,
        # It prints none where no transaction came to its end in time.
        seconds=0.0 if found is None else len(times) / float(found[1]),
        cpu=cpu,
        statuses={OK: len(times)},
        broken=len(words) - len(times),
    )


def _log_lines(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("log.*")):  # one for each of its threads
        with path.open(encoding="utf-8") as stream:
            yield from stream


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
