"""The brake: of users who were not seen lately only so many a minute get at their vaults.

Whoever has stolen the issuer's key can be any user. The brake does not stop him, it makes him slow:
what he gets at once is the vaults of the users of the last day, and of all others ``limit`` a
minute, while an alarm rings. Users of the last day go on working meanwhile.

It is asked where a key or a recovery wrap is handed out, and where a vault is changed: who destroys
ten thousand vaults does no less harm than who reads them. A vault that is only now made holds
nothing yet: it neither counts nor waits.
"""

import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from custody.vault.errors import UnwrapLimitReached

WINDOW_SECONDS = 60.0
# A day, so that the rush of each morning is not one of new users: then the limit can be low.
SEEN_SECONDS = 86_400.0
# Some 200 bytes each; those who were not seen for the longest time are forgotten first. Nobody can
# push others out faster than the limit lets users in.
MAX_SEEN = 250_000

_RELEASED: AbstractContextManager[None] = nullcontext()


class Brake:
    """Lets users pass: those who were seen within a day, and ``limit`` others a minute.

    Of this process; its memory ends with it. The limit may be changed at any time, and the memory
    stays; while the limit is 0 nothing is remembered.

    Args:
        limit: users in any 60 seconds; 0 is no limit.
        newcomer: called for each user who passed and had not been seen.
        refused: called for each refusal with the limit in force.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        limit: int,
        *,
        newcomer: Callable[[], None],
        refused: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit = limit
        self._newcomer = newcomer
        self._refused = refused
        self._clock = clock
        # When each user last passed, the longest ago first.
        self._seen: OrderedDict[str, float] = OrderedDict()
        # When newcomers passed, within the window.
        self._passed: deque[float] = deque()
        # Requests of newcomers under way: each user holds one place until it is known how they end.
        self._under_way: Counter[str] = Counter()

    def passing(self, user_id: str) -> AbstractContextManager[None]:
        """Bracket what gives a user something of the own vault; entering may raise.

        A user counts, and is seen from then on, once the block has ended well: what failed has
        given nothing away.

        Raises:
            UnwrapLimitReached: the user was not seen lately, and enough such users have passed.
        """
        return self._passing(user_id) if self.limit else _RELEASED

    @contextmanager
    def _passing(self, user_id: str) -> Iterator[None]:
        if self._was_seen(user_id):
            yield
        else:
            self._take_place(user_id)
            try:
                yield
                self._count(user_id)
            finally:
                self._give_back(user_id)
        self._remember(user_id)

    def _was_seen(self, user_id: str) -> bool:
        seen_at = self._seen.get(user_id)
        return seen_at is not None and self._clock() - seen_at < SEEN_SECONDS

    def _take_place(self, user_id: str) -> None:
        since = self._clock() - WINDOW_SECONDS
        while self._passed and self._passed[0] <= since:
            self._passed.popleft()
        taken = len(self._passed) + len(self._under_way)
        if taken >= self.limit and user_id not in self._under_way:
            self._refused(self.limit)
            raise UnwrapLimitReached
        self._under_way[user_id] += 1

    def _count(self, user_id: str) -> None:
        # Of several requests of one newcomer at once the first one that ends well counts.
        if self._under_way.pop(user_id, 0):
            self._passed.append(self._clock())
            self._newcomer()

    def _give_back(self, user_id: str) -> None:
        if user_id in self._under_way:
            self._under_way[user_id] -= 1
            if not self._under_way[user_id]:
                del self._under_way[user_id]

    def _remember(self, user_id: str) -> None:
        self._seen[user_id] = self._clock()
        self._seen.move_to_end(user_id)
        if len(self._seen) > MAX_SEEN:
            self._seen.popitem(last=False)
