"""The right name that a wrong one is nearest to."""

import difflib
from collections.abc import Iterable

_PREFIX = "custody_"
# Of the share of characters in common: below it, a hint would mislead more often than it helps.
_LEAST = 0.6


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint for whoever has written a name that is none.

    Case and the prefix of settings count for nothing: they would make all names alike. A name of
    which only the suffix ``_FILE`` is wrong means what it is without that.

    Args:
        name: the wrong one.
        known: the right ones.
    """
    right = {_plain(one): one for one in known}
    if (name := _plain(name)).removesuffix("_file") in right:
        return f"did you mean {right[name.removesuffix('_file')]}?"
    near = difflib.get_close_matches(name, right, n=1, cutoff=_LEAST)
    return f"did you mean {right[near[0]]}?" if near else "custody config shows all there are"


def _plain(name: str) -> str:
    return name.lower().removeprefix(_PREFIX)
