"""Which of many cases ``make test`` has, and which counts CI has; ``make prove`` has them all."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import pytest

T = TypeVar("T")

# The count of a claim, in full, where a test with a smaller one stands beside it: minutes of the
# same. ``make prove`` has it; .ci/run, which has an end, has not.
FULL = (pytest.mark.prove, pytest.mark.full)


def some(
    cases: Sequence[T], *quick: T, full: Sequence[T] = (), ids: Callable[[T], str] = str
) -> list[object]:
    """Return the cases of a test as parameters; those that are not quick are proofs.

    Args:
        cases: all of them, in order.
        quick: those that ``make test`` has; each is one of the cases.
        full: those that are at the full count; each is one of the cases.
        ids: gives a case its name.
    """
    strange = [one for one in (*quick, *full) if one not in cases]
    assert not strange, strange

    def marks(one: T) -> Sequence[pytest.MarkDecorator]:
        if one in quick:
            return ()
        return FULL if one in full else (pytest.mark.prove,)

    return [pytest.param(one, id=ids(one), marks=marks(one)) for one in cases]
