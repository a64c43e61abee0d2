"""The bounds of ``make chaos-callers``, and which of them an attack broke."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tests.bench.chaos.honest import Seen
from tests.bench.chaos.watch import PROBES, Open

MOST_RATIO = 3.0
PROBE_SECONDS = 1.0
BACK_SECONDS = 5.0
# The daemon's pools of connections to PostgreSQL grow as they are needed, and stay.
_SPARE_DESCRIPTORS = 24
# Of honest users who are just coming or going.
_SPARE_CONNECTIONS = 4


@dataclass(frozen=True)
class Row:
    """What was seen of one attack.

    Args:
        attack: its name.
        wanted: connections that it should make at least.
        sent: what the attackers did and what came back, by kind.
        before: what honest users saw before it.
        meanwhile: while it went on.
        after: from its end to where all was as before, or was given up.
        worst: seconds to the latest answer, by probe.
        probe_errors: what else came than a 200, by probe.
        open_before: what the daemon had open before.
        open_most: at the worst moment.
        open_after: in the end.
        back: seconds from the end of the attack to where all was as before; None: it never was.
        cpu: percent of one core during the attack: of the daemon, and of whoever else is busy here.
        logged: warnings and errors in the daemon's log, by event.
        ended: whether the daemon has ended.
    """

    attack: str
    wanted: int
    sent: Mapping[str, int]
    before: Seen
    meanwhile: Seen
    after: Seen
    worst: Mapping[str, float]
    probe_errors: Mapping[str, str]
    open_before: Open
    open_most: Open
    open_after: Open
    back: float | None
    cpu: Mapping[str, float]
    logged: Mapping[str, int] = field(default_factory=dict)
    ended: bool = False

    @property
    def ratio(self) -> float:
        """The p99 of honest users, by that of before."""
        return ratio(self.meanwhile, self.before)


def ratio(one: Seen, before: Seen) -> float:
    """Return a p99 by that of before; 0 where there is none to compare with."""
    return one.p99 / before.p99 if before.p99 else 0.0


def is_calm(now: Seen, before: Seen) -> bool:
    """Say whether honest users see what they saw before."""
    return now.requests > 0 and not now.errors and ratio(now, before) <= MOST_RATIO


def is_closed(now: Open, before: Open) -> bool:
    """Say whether a daemon has let go of what an attack made it open."""
    return (
        now.connections <= before.connections + _SPARE_CONNECTIONS
        and now.others <= before.others + _SPARE_DESCRIPTORS
    )


def failures(row: Row) -> list[str]:
    """Say which bounds did not hold, and what makes the row worthless; nothing: all is well."""
    return list(_failures(row))


def _failures(row: Row) -> Iterator[str]:
    if row.ended:
        yield "the daemon ended"
    if row.before.errors or not row.before.requests:
        yield "honest users saw errors before the attack: no figure counts"
    if row.sent.get("connections", 0) < row.wanted:
        yield "the attack did not take place"
    if not row.meanwhile.requests:
        yield "no honest user asked"
    if row.meanwhile.errors or row.after.errors:
        yield "honest users saw errors"
    if row.ratio > MOST_RATIO:
        yield f"p99 is {row.ratio:.1f} times the undisturbed one"
    for probe in PROBES:
        if row.probe_errors.get(probe):
            yield f"/{probe} failed: {row.probe_errors[probe]}"
        # One that was never answered took as long as it was waited for.
        elif row.worst.get(probe, BACK_SECONDS) > PROBE_SECONDS:
            yield f"/{probe} took {row.worst.get(probe, BACK_SECONDS):.1f} s"
    if row.back is None:
        yield f"not back to normal within {BACK_SECONDS:.0f} s"
