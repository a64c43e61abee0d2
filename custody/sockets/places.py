"""The places that connections take, by whose they are."""

from collections.abc import Callable, Iterator


class Place:
    """What one connection takes of the room for all.

    Args:
        address: of whoever connected, or its network.
        group: the places like it.
        since: when it connected, in monotonic seconds.

    Attributes:
        abort: ends the connection at once.
        unsent: returns how many bytes for its client wait in this process.
        closing: returns whether it ends as soon as its client has taken what is left.
        unread_since: since when something waits for its client, in monotonic seconds.
        busy: whether a request with a good token is under way. Such a connection is not closed for
            another one.
    """

    __slots__ = ("abort", "address", "busy", "closing", "group", "since", "unread_since", "unsent")

    def __init__(self, address: str, group: "Places", since: float) -> None:
        self.address = address
        self.group = group
        self.since = since
        self.unread_since: float | None = None
        self.busy = False
        self.abort: Callable[[], object] = _nothing
        self.unsent: Callable[[], int] = _nothing
        self.closing: Callable[[], bool] = bool

    def made(
        self,
        *,
        abort: Callable[[], object],
        unsent: Callable[[], int],
        closing: Callable[[], bool],
    ) -> None:
        """Take what the connection can do; its handshake is over."""
        self.abort, self.unsent, self.closing = abort, unsent, closing

    def forget(self) -> None:
        """Forget the connection, which holds its place: so nothing holds itself."""
        self.abort, self.unsent, self.closing = _nothing, _nothing, bool


def _nothing() -> int:
    return 0


class Places:
    """Places of one kind, by age and by address, and the addresses by how many they have.

    Every look is at a few of them only, however many there are.
    """

    def __init__(self) -> None:
        self._all: dict[Place, None] = {}
        self._of: dict[str, dict[Place, None]] = {}
        self._addresses: dict[int, dict[str, None]] = {}
        self._most = 0

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Place]:
        return iter(self._all)

    def __contains__(self, place: Place) -> bool:
        return place in self._all

    def add(self, place: Place) -> None:
        """Add a place that is not there."""
        self._all[place] = None
        places = self._of.setdefault(place.address, {})
        places[place] = None
        self._count(place.address, len(places) - 1, len(places))

    def remove(self, place: Place) -> None:
        """Remove a place that is there."""
        del self._all[place]
        places = self._of[place.address]
        del places[place]
        self._count(place.address, len(places) + 1, len(places))
        if not places:
            del self._of[place.address]

    def number_of(self, address: str) -> int:
        """Return how many an address has."""
        return len(self._of.get(address, ()))

    @property
    def most(self) -> int:
        """How many the address has that has the most."""
        return self._most

    @property
    def oldest(self) -> Place | None:
        """The one that was added first."""
        return next(iter(self._all), None)

    def of(self, address: str) -> Iterator[Place]:
        """Return those of an address, the oldest first."""
        return iter(self._of.get(address, ()))

    def of_the_most(self) -> Iterator[Place]:
        """Return all: those of the address that has the most first, the oldest of each first."""
        for number in sorted(self._addresses, reverse=True):
            for address in self._addresses[number]:
                yield from self._of[address]

    def _count(self, address: str, before: int, now: int) -> None:
        if before:
            addresses = self._addresses[before]
            del addresses[address]
            if not addresses:
                del self._addresses[before]
        if now:
            self._addresses.setdefault(now, {})[address] = None
        # One was added or removed: the most can't have changed by more.
        if now > self._most:
            self._most = now
        elif self._most and self._most not in self._addresses:
            self._most -= 1
