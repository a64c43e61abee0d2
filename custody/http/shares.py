"""What each user, and all of them, may have under way at once, so that others have theirs."""

from custody.http import problems

# Of verified tokens: a request without one takes no place.
MAX_IN_FLIGHT = 1000
_RETRY_AFTER_SECONDS = 1


class Shares:
    """Counts the requests under way of each user whose token was verified.

    No context manager: it would take longer than the counting.

    Args:
        of_a_user: requests of one user at once.
    """

    def __init__(self, of_a_user: int) -> None:
        self._of_a_user = of_a_user
        self._under_way: dict[str, int] = {}
        self._in_flight = 0

    def take(self, user_id: str) -> None:
        """Take a place, which is to be given back.

        Raises:
            Problem: 429, this user has too many; or 503, all together have.
        """
        under_way = self._under_way.get(user_id, 0)
        if under_way >= self._of_a_user:
            raise problems.rate_limited(_RETRY_AFTER_SECONDS)
        if self._in_flight >= MAX_IN_FLIGHT:
            raise problems.unavailable("OVERLOADED", "Too many requests are being answered.")
        self._under_way[user_id] = under_way + 1
        self._in_flight += 1

    def give_back(self, user_id: str) -> None:
        """Give back a place that was taken."""
        self._in_flight -= 1
        left = self._under_way[user_id] - 1
        if left:
            self._under_way[user_id] = left
        else:
            del self._under_way[user_id]
