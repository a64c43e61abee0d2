"""Several processes on one listener, reported to the service manager as one service.

Each process is a whole daemon, on sockets that it is given. One that ends is started again, and one
that sends no watchdog ping is killed first.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from custody.ops.metrics import METRICS_FOLDER, forget_process
from custody.ops.notify import Notifier
from custody.sockets.listeners import Listeners

# Within which a process sends a watchdog ping; at its start it may take longer.
_LIFE_SECONDS = 30.0
_START_SECONDS = 90.0
_LOOK_SECONDS = 1.0
# A process that ends is started again after 1, 2, 4 … seconds.
_FIRST_PAUSE_SECONDS, _LAST_PAUSE_SECONDS = 1.0, 30.0
# Draining, and the end of a re-wrap batch, take less.
_STOP_SECONDS = 40.0
_MESSAGE_SIZE = 4096
_CONFIGURATION = 78

log = structlog.get_logger()


class _GaveUp(Exception):
    """A process can't start, and there is no sense in trying again."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass(slots=True, eq=False)
class _Daemon:
    """One process, as far as it has reported."""

    process: asyncio.subprocess.Process
    alive_until: float
    ready: bool = False
    reloading: bool = False
    # SIGHUP ends a process that has not come so far as to say anything.
    heard: bool = False
    hang_up_later: bool = False
    status: str = "starting"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; a process that has just ended gets none."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)


class Supervisor:
    """Starts processes and keeps them running, until SIGTERM or SIGINT.

    Args:
        count: of processes.
        environ: the variables of each.
        listeners: what all of them take connections from; closed when it stops.
        notifier: to the service manager.
    """

    def __init__(
        self, count: int, environ: Mapping[str, str], listeners: Listeners, notifier: Notifier
    ) -> None:
        self._count = count
        self._environ = dict(environ)
        self._listeners = listeners
        self._notifier = notifier
        self._daemons: dict[int, _Daemon] = {}
        self._stop = asyncio.Event()
        self._one_was_ready = asyncio.Event()
        self._reported_ready = self._reported_reloading = False
        self._last_status = ""

    async def run(self) -> int:
        """Run.

        Returns:
            The exit code: 0, or that of a process that can't start as it is configured.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        with tempfile.TemporaryDirectory(
            prefix="custody-metrics-",
            dir=self._environ.get("RUNTIME_DIRECTORY"),
            ignore_cleanup_errors=True,
        ) as metrics:
            self._environ[METRICS_FOLDER] = metrics
            tasks = [
                asyncio.create_task(work)
                for work in (
                    self._stop.wait(),
                    self._report(),
                    *(self._keep(number) for number in range(self._count)),
                )
            ]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            except _GaveUp as gave_up:
                return gave_up.code
            else:
                return 0
            finally:
                self._notifier.stopping()
                # Else new connections would wait here for processes that take none any more.
                self._listeners.close()
                for daemon in self._daemons.values():
                    daemon.signal(signal.SIGTERM)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, number: int) -> None:
        """Keep one process running, for ever.

        Raises:
            _GaveUp: there is no sense in trying again.
        """
        # The first one alone shows whether the configuration can be used.
        if number:
            await self._one_was_ready.wait()
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                async with self._started(number) as daemon:
                    code = await self._end_of(daemon)
            except OSError as error:
                log.error(  # noqa: TRY400
                    "process_not_started", reason=error.strerror, again_in=_LAST_PAUSE_SECONDS
                )
                await asyncio.sleep(_LAST_PAUSE_SECONDS)
                continue
            hopeless = code == _CONFIGURATION and not any(w.ready for w in self._daemons.values())
            if hopeless or not self._one_was_ready.is_set():
                if code <= 0:  # ended by a signal: it has said nothing
                    log.error("process_ended", process=daemon.process.pid, code=code)
                raise _GaveUp(max(code, 1))
            pause = _FIRST_PAUSE_SECONDS if daemon.ready else min(2 * pause, _LAST_PAUSE_SECONDS)
            log.error("process_ended", process=daemon.process.pid, code=code, again_in=pause)
            await asyncio.sleep(pause)

    @asynccontextmanager
    async def _started(self, number: int) -> AsyncIterator[_Daemon]:
        """Start a process for the length of the block; at its end none is left."""
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with ours:
            with theirs:
                process = await self._execute(number, theirs.fileno())
            daemon = _Daemon(process, alive_until=loop.time() + _START_SECONDS)
            self._daemons[number] = daemon
            ours.setblocking(False)
            loop.add_reader(ours.fileno(), self._hear, daemon, ours)
            log.info("process_started", process=process.pid, number=number)
            try:
                yield daemon
            finally:
                await _end(process)
                loop.remove_reader(ours.fileno())
                del self._daemons[number]
                forget_process(process.pid, self._environ[METRICS_FOLDER])

    async def _execute(self, number: int, channel: int) -> asyncio.subprocess.Process:
        descriptors = {
            "vault": [listener.fileno() for listener in self._listeners.vault],
            "admin": [listener.fileno() for listener in self._listeners.admin],
            "notify": [channel],
        }
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "custody", "serve-process"),
            *(f"--number={number}", f"--parent={os.getpid()}"),
            *(f"--{name}={one}" for name, several in descriptors.items() for one in several),
            pass_fds=[one for several in descriptors.values() for one in several],
            env=self._environ | {"WATCHDOG_USEC": str(int(_LIFE_SECONDS * 1_000_000))},
            # A terminal's Ctrl-C is for this process, which ends the others in good order.
            start_new_session=True,
        )

    async def _end_of(self, daemon: _Daemon) -> int:
        """Wait for the end of a process, and kill it where it sends no watchdog ping."""
        loop = asyncio.get_running_loop()
        ended = asyncio.create_task(daemon.process.wait())
        while not ended.done():
            await asyncio.wait({ended}, timeout=_LOOK_SECONDS)
            if not ended.done() and loop.time() > daemon.alive_until:
                log.error("process_frozen", process=daemon.process.pid, cure="it is killed")
                daemon.signal(signal.SIGKILL)
        return ended.result()

    def _hear(self, daemon: _Daemon, channel: socket.socket) -> None:
        with contextlib.suppress(OSError):
            message = channel.recv(_MESSAGE_SIZE).decode(errors="replace")
            daemon.heard = True
            if daemon.hang_up_later:
                daemon.hang_up_later = False
                daemon.signal(signal.SIGHUP)
            for line in message.splitlines():
                name, _, value = line.partition("=")
                # From when it is ready on, as for a service manager: it may never come to ping.
                if name in {"WATCHDOG", "READY"}:
                    daemon.alive_until = asyncio.get_running_loop().time() + _LIFE_SECONDS
                if name == "STATUS":
                    daemon.status = value
                elif name == "READY":
                    daemon.ready, daemon.reloading = True, False
                    self._one_was_ready.set()
                elif name == "RELOADING":
                    daemon.reloading = True

    async def _report(self) -> None:
        """Report all of them to the service manager as one, for ever."""
        while True:
            daemons = [self._daemons[number] for number in sorted(self._daemons)]
            ready = [daemon for daemon in daemons if daemon.ready]
            status = next((daemon.status for daemon in (*ready, *daemons)), "starting")
            said = f"{len(ready)} of {self._count} processes | {status}"
            if not self._reported_ready and not ready:
                self._notifier.extend_start(_LIFE_SECONDS)
            elif not self._reported_ready or (
                self._reported_reloading and not any(daemon.reloading for daemon in daemons)
            ):
                self._reported_ready = self._notifier.ready(said)
                self._reported_reloading = self._reported_reloading and not self._reported_ready
            if said != self._last_status:
                self._last_status = said
                self._notifier.status(said)
            # Not only while one is ready: with the database down none that is replaced is.
            if daemons:
                self._notifier.alive()
            await asyncio.sleep(_LOOK_SECONDS)

    def _hang_up(self) -> None:
        """Have all of them reload."""
        if self._reported_ready:
            self._notifier.reloading()
            self._reported_reloading = True
        for daemon in self._daemons.values():
            # What is not ready reloads without a word, before it says that it is.
            daemon.reloading = daemon.ready
            daemon.hang_up_later = not daemon.heard
            if daemon.heard:
                daemon.signal(signal.SIGHUP)


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a process that was asked to end, or that nobody waits for any more."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    waiting = asyncio.create_task(process.wait())
    await asyncio.wait({waiting}, timeout=_STOP_SECONDS)
    if not waiting.done():
        log.error("process_killed", process=process.pid, reason="it did not end in time")
        process.kill()
    await waiting
