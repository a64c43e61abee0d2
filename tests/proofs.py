"""Which of many cases ``make test`` has; ``make prove`` has them all."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import pytest

T = TypeVar("T")


def some(cases: Sequence[T], *quick: T, ids: Callable[[T], str] = str) -> list[object]:
    """Return the cases of a test as parameters; those that are not quick are proofs.

    Args:
        cases: all of them, in order.
        quick: those that ``make test`` has; each is one of the cases.
        ids: gives a case its name.
    """
    strange = [one for one in quick if one not in cases]
    assert not strange, strange
    return [
        pytest.param(one, id=ids(one), marks=() if one in quick else pytest.mark.prove)
        for one in cases
    ]
