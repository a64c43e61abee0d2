"""What must be renewed by a day: how to take it, the nearer that day comes."""

from kek_backends.findings import Verdict

# As the alert CustodyKekDue has them.
_AHEAD = ((1, Verdict.FINDING), (7, Verdict.WARNING), (30, Verdict.NOTE))


def verdict_of(days_left: float) -> Verdict:
    """Return how to take that so many days are left; below zero it is overdue."""
    return next((verdict for days, verdict in _AHEAD if days_left < days), Verdict.OK)


def in_words(days_left: float) -> str:
    """Say how many whole days are left, or how many it is overdue."""
    days = int(abs(days_left))
    number = f"{days} day{'' if days == 1 else 's'}"
    return f"{number} left" if days_left >= 0 else f"{number} overdue"
