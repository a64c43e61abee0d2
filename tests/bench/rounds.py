"""Measures targets in turn, some rounds of each, and boils the rounds down to one row a target.

Rates of one machine differ from minute to minute. So a target and its ceilings are measured within
seconds of each other, each ratio is of two figures of one round, and the median of the rounds
counts.
"""

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from tests.bench.load import Load
from tests.bench.processes import Meter, resident_mib

_WARM_UP_SECONDS = 1.0

# Sends load over so many connections, for so many seconds.
Run: TypeAlias = Callable[[int, float], Load]


@dataclass(frozen=True)
class Target:
    """Something to be measured.

    Args:
        name: for the table.
        run: sends load.
        pid: of the process that answers, where it is not PostgreSQL itself.
        ceilings: names of the targets that it is compared with, by column.
    """

    name: str
    run: Run
    pid: int | None = None
    ceilings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Round:
    """What one round measured of one target.

    Args:
        load: what the generator saw.
        cpu: percent of one core: of the process that answers as ``server``, of the generator as
            ``load``, of what was watched beside them by name, of all else as ``rest``.
        resident: MiB of memory of the process that answered, at the end; 0: PostgreSQL itself.
    """

    load: Load
    cpu: Mapping[str, float]
    resident: float


@dataclass(frozen=True)
class Row:
    """One target at one number of connections: medians of all rounds.

    Args:
        name: the target's.
        connections: how many at once.
        rate: right answers a second.
        spread: percent from the slowest round to the fastest, of the median.
        p50: milliseconds.
        p99: milliseconds.
        longest: milliseconds, the longest of all rounds.
        answered: right answers of all rounds.
        errors: all other answers of all rounds, by kind.
        cpu: percent of one core, by who used it.
        resident: MiB.
        ratios: to the ceilings, by column.
    """

    name: str
    connections: int
    rate: float
    spread: float
    p50: float
    p99: float
    longest: float
    answered: int
    errors: Mapping[str, int]
    cpu: Mapping[str, float]
    resident: float
    ratios: Mapping[str, float]


def measure(
    targets: Sequence[Target],
    connections: Sequence[int],
    *,
    rounds: int,
    seconds: float,
    beside: Mapping[str, int],
) -> list[Row]:
    """Measure all targets in turn. Blocks.

    Args:
        targets: ceilings among them.
        connections: how many at once, one number after the other.
        rounds: how often.
        seconds: each single measurement.
        beside: pids of the servers behind, by name.
    """
    found: dict[tuple[str, int], list[Round]] = {}
    for target in targets:
        target.run(max(connections), min(seconds, _WARM_UP_SECONDS))
    for _ in range(rounds):
        for count in connections:
            for target in targets:
                one = measure_once(target, count, seconds, beside)
                found.setdefault((target.name, count), []).append(one)
    by_name = {target.name: target for target in targets}
    return [
        row_of(by_name[name], count, rounds_of, _ceilings(by_name[name], count, found))
        for name, count, rounds_of in _sorted(found, by_name)
    ]


def measure_once(
    target: Target, connections: int, seconds: float, beside: Mapping[str, int]
) -> Round:
    """Measure a target once. Blocks."""
    own = {} if target.pid is None else {"server": target.pid}
    with Meter({**own, **beside}).running() as meter:
        load = target.run(connections, seconds)
    cpu = {"server": 0.0, **meter.cpu}
    all_of_it = cpu.pop("machine")
    cpu["load"] = 100 * load.cpu / load.seconds if load.seconds else 0.0
    cpu["rest"] = max(0.0, all_of_it - sum(cpu.values()))
    resident = resident_mib(target.pid) if target.pid is not None else 0.0
    return Round(load, cpu, resident)


def row_of(
    target: Target,
    connections: int,
    rounds: Sequence[Round],
    ceilings: Mapping[str, Sequence[Round]],
) -> Row:
    """Boil the rounds of a target down to a row.

    Args:
        target: which.
        connections: how many at once.
        rounds: of the target.
        ceilings: by column the rounds of its ceilings, in the same order.
    """
    rates = [one.load.rate for one in rounds]
    rate = statistics.median(rates)
    errors: Counter[str] = Counter()
    for one in rounds:
        errors.update(one.load.errors)
    return Row(
        name=target.name,
        connections=connections,
        rate=rate,
        spread=100 * (max(rates) - min(rates)) / rate if rate else 0.0,
        p50=statistics.median(one.load.milliseconds(50) for one in rounds),
        p99=statistics.median(one.load.milliseconds(99) for one in rounds),
        longest=max(one.load.milliseconds(100) for one in rounds),
        answered=sum(one.load.answered for one in rounds),
        errors=dict(errors),
        cpu={name: statistics.median(one.cpu[name] for one in rounds) for name in rounds[0].cpu},
        resident=statistics.median(one.resident for one in rounds),
        ratios={
            column: statistics.median(
                mine.load.rate / theirs.load.rate if theirs.load.rate else 0.0
                for mine, theirs in zip(rounds, others, strict=True)
            )
            for column, others in ceilings.items()
        },
    )


Found = Mapping[tuple[str, int], Sequence[Round]]


def _sorted(
    found: Found, order: Mapping[str, Target]
) -> Iterator[tuple[str, int, Sequence[Round]]]:
    for name in order:
        for (other, connections), rounds in found.items():
            if other == name:
                yield name, connections, rounds


def _ceilings(target: Target, connections: int, found: Found) -> dict[str, Sequence[Round]]:
    return {
        column: found[name, connections]
        for column, name in target.ceilings.items()
        if (name, connections) in found
    }
