"""The load generator: one of our own in C, compiled when it is needed, and how it is read.

Not wrk: it can't send another user's token with each request but through Lua, which costs more
than the request, and it can't tell whether an answer is that user's. All figures of a table come
from one generator. Where there is no compiler a slow one in Python steps in; its name is printed.
"""

import shutil
import struct
import subprocess
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

OK = 200
_SOURCE = Path(__file__).with_name("load.c")
_COMPILE_SECONDS = 60
# What a run may take beyond its time: the generator itself waits 15 s for the last answers.
_GRACE_SECONDS = 45


class LoadError(Exception):
    """The generator could not do its work; the message says why."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request, and by what its answer is known to be the right one.

    Args:
        text: the whole of it, with its token.
        expected: what the body of an answer of status 200 must hold.
    """

    text: bytes = field(repr=False)
    expected: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Load:
    """What one run measured.

    Args:
        times: of all answers, nanoseconds, sorted.
        seconds: from the first request to the last answer.
        cpu: seconds of CPU that the generator used.
        statuses: how many answers of each status.
        broken: connections that ended, or said nothing in time, with a request in flight.
        wrong: answers of status 200 with another body than expected.
    """

    times: Sequence[int] = field(repr=False)
    seconds: float
    cpu: float
    statuses: Mapping[int, int]
    broken: int = 0
    wrong: int = 0

    @property
    def answered(self) -> int:
        """Answers of status 200 with the body that was expected."""
        return self.statuses.get(OK, 0) - self.wrong

    @property
    def rate(self) -> float:
        """Right answers a second."""
        return self.answered / self.seconds if self.seconds > 0 else 0.0

    def milliseconds(self, percent: int) -> float:
        """Return the time within which this many percent of all answers came; 100: all of them."""
        return percentile(self.times, percent) / 1e6

    @property
    def errors(self) -> dict[str, int]:
        """What was not answered as it should be: for each kind how often."""
        found = {str(status): n for status, n in sorted(self.statuses.items()) if status != OK}
        return found | {
            name: n for name, n in (("broken", self.broken), ("wrong", self.wrong)) if n
        }


def percentile(times: Sequence[int], percent: int) -> int:
    """Return the least time within which that many percent of the times lie; 0 when there are none.

    Args:
        times: sorted.
        percent: from 1 to 100.

    Source: the nearest-rank method; a time that was measured, never one in between.
    """
    if not times:
        return 0
    rank = -(-percent * len(times) // 100)  # rounded up
    return times[rank - 1]


class Generator(Protocol):
    """Something that sends requests."""

    @property
    def name(self) -> str:
        """What it is, for the table."""

    def run(self, port: int, requests: Sequence[Request], connections: int, seconds: float) -> Load:
        """Send requests in turn, one in flight per connection. Blocks.

        Args:
            port: on 127.0.0.1.
            requests: which ones, again and again.
            connections: how many at once, kept alive.
            seconds: until the last request is sent; its answer is waited for.

        Raises:
            LoadError: the port can't be reached, or does not speak HTTP/1.1.
        """


class CompiledGenerator:
    """The generator in C: an epoll loop that takes a few percent of a core.

    Args:
        folder: of ours alone: it gets the binary, and the requests with their tokens.
        flags: more of them for the compiler.

    Raises:
        LoadError: there is no compiler, or it can't compile this.
    """

    name = "tests/bench/load.c"

    def __init__(self, folder: Path, *flags: str) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            raise LoadError("there is no C compiler (cc)")
        self._binary = folder / "load"
        self._requests = folder / "requests"
        done = subprocess.run(
            [compiler, "-O2", *flags, "-o", str(self._binary), str(_SOURCE)],
            capture_output=True,
            text=True,
            timeout=_COMPILE_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise LoadError(f"{compiler} can't compile load.c: {done.stderr.strip()[-300:]}")

    def run(self, port: int, requests: Sequence[Request], connections: int, seconds: float) -> Load:
        """Send requests; see :class:`Generator`."""
        self._requests.unlink(missing_ok=True)
        self._requests.touch(0o600)
        self._requests.write_bytes(b"".join(map(_record, requests)))
        done = subprocess.run(
            [str(self._binary), str(port), str(connections), str(seconds), str(self._requests)],
            capture_output=True,
            timeout=seconds + _GRACE_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise LoadError(done.stderr.decode(errors="replace").strip() or "the generator died")
        return parse(done.stdout)


def _record(request: Request) -> bytes:
    sizes = struct.pack("=II", len(request.text), len(request.expected))
    return sizes + request.text + request.expected


def parse(output: bytes) -> Load:
    """Read what the compiled generator writes; load.c says how it looks."""
    values: dict[str, float] = {}
    statuses: dict[int, int] = {}
    times = array("Q")
    rest = output
    while rest:
        line, _, rest = rest.partition(b"\n")
        name, *words = line.decode().split()
        if name == "status":
            statuses[int(words[0])] = int(words[1])
        elif name == "times":
            times.frombytes(rest)
            if len(times) != int(words[0]):
                raise LoadError("the generator's output is cut off")
            return Load(
                times=sorted(times),
                seconds=values["seconds"],
                cpu=values["cpu"],
                statuses=statuses,
                broken=int(values["broken"]),
                wrong=int(values["wrong"]),
            )
        else:
            values[name] = float(words[0])
    raise LoadError("the generator's output is cut off")
