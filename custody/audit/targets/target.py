"""What every target of a follower is."""

from collections.abc import Sequence
from typing import Protocol

from custody.audit.export import Line, Place

# A target that takes nothing for so long counts as down.
TAKE_SECONDS = 10.0


class TargetDown(Exception):
    """A target takes nothing now, or has lost what it took: the message says which, and why."""


class TargetUnfit(TargetDown):
    """A target can't be used as it is set: the message names the cure."""


class Target(Protocol):
    """Takes lines, in their order."""

    async def open(self) -> Place | None:
        """Connect, or connect anew; return how far it is by what it holds, or None.

        Raises:
            TargetDown: not now.
        """

    async def send(self, lines: Sequence[Line]) -> None:
        """Hand lines over; once this returns, the target has them.

        Raises:
            TargetDown: it may not have them, or only some.
        """

    def check(self) -> None:
        """Look whether it still has what it took, as far as that can be seen from here.

        Raises:
            TargetDown: it may not.
        """

    def close(self) -> None:
        """Let go of it; it may be opened again."""
