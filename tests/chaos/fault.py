"""What a fault is, and what is seen of one."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from tests.chaos.scene import Scene

# Injects a fault, waits, cures it, and returns how often it did.
Happens: TypeAlias = Callable[[Scene, float], Awaitable[int]]


@dataclass(frozen=True)
class Fault:
    """Something that fails.

    Args:
        name: in the table.
        happens: does it, for so many seconds, and cures it.
        where: which scene it needs: ``plain``; with a ``kms``; on a small ``disk``; with a
            ``clock`` that can be turned.
        claims: of users' tokens, where they are not the usual ones.
    """

    name: str
    happens: Happens
    where: str = "plain"
    claims: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What was seen of a fault.

    Args:
        fault: its name.
        faults: how often it was injected.
        requests: of users, all in all.
        errors: of those that were not served, by code, or by what came instead of an answer.
        lost: findings of keys and changes that were acknowledged.
        wrong: all other findings.
        back: seconds from a cure until the last request that failed; the worst.
        skipped: why it could not be tried here.
    """

    fault: str
    faults: int = 0
    requests: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)
    lost: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    back: float = 0.0
    skipped: str = ""

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost, and nothing wrong."""
        return not self.lost and not self.wrong and self.back < float("inf")
