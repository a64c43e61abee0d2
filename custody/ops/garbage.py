"""How often this process looks for garbage: a look stops everybody."""

import gc

# One look at each 10,000 new objects finds few that are in use: 64 requests, or two batches of a
# re-wrap, have thousands at any moment, and looks at each 3,000 would take a tenth of all time.
# Every third one looks through the objects of the three before it, too; fewer would last longer.
_GARBAGE = 10_000
_GARBAGE_AGES = 3


def look_seldom() -> None:
    """Look for garbage now, and from now on seldom, and never again at what is there.

    What a start has made lives to the end: looking through it again and again for garbage, which
    each failure leaves a little of, would block everybody for a tenth of a second.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE, _GARBAGE_AGES)
