"""Bounds the connections of a listener, in all and per address, so that nobody takes all of them.

Where there is no room for a new one, one is closed on which nothing is under way: of those that
never brought a good token, of the address that has the most, the oldest. One that has just been
made has a second to say what it wants. Where there are no others, one is closed of the address that
has the most, tokens or not: else who holds all places by good tokens would keep everybody out.
"""

import ipaddress
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import chain

import structlog

from custody.bounded import Bounded
from custody.sockets.places import Place, Places

MAX_CONNECTIONS = 8192
# Kept back of the limit of open files (RLIMIT_NOFILE) for the admin listener, the database, KMS and
# issuer. Of a low limit it is half.
RESERVED_DESCRIPTORS = 256
MAX_OF_ADMIN = 64
# One address may have a quarter of all.
_PART_OF_AN_ADDRESS = 4
GRACE_SECONDS = 1.0
# Who has not taken a response of less than a kilobyte for so long never will.
UNREAD_SECONDS = 20.0
# Nor will who does not let a connection end.
CLOSING_SECONDS = 5.0
LOOK_SECONDS = 2.0
_NETWORK_BITS = 64

log = structlog.get_logger()


def descriptors_for_connections() -> int:
    """Return how many connections this process can have beside all else that it needs."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return min(MAX_CONNECTIONS, max(limit - RESERVED_DESCRIPTORS, limit // 2))


def connections_of_vault(
    is_proxy: Callable[[str], bool], on_closed: Callable[[str], None]
) -> "Connections":
    """Return the room of the vault's listener; the arguments are those of Connections."""
    bound = descriptors_for_connections()
    return Connections(bound, max(1, bound // _PART_OF_AN_ADDRESS), is_proxy, on_closed)


def connections_of_admin(on_closed: Callable[[str], None]) -> "Connections":
    """Return the room of the admin listener, whose clients are few, and often one address."""
    return Connections(MAX_OF_ADMIN, MAX_OF_ADMIN, lambda _peer: False, on_closed)


class Connections:
    """All connections of a listener.

    Args:
        bound: how many there may be.
        of_an_address: how many of one IPv4 address, or one IPv6 network of 64 bits.
        is_proxy: whether an address is a trusted proxy's, which speaks for many users: no bound but
            that of all is for its connections, and none of them is closed for another one.
        on_closed: called for each connection that is closed here, with the reason: ``room``,
            ``unread``.
        clock: monotonic seconds.

    Attributes:
        bound: how many there may be.
    """

    def __init__(
        self,
        bound: int,
        of_an_address: int,
        is_proxy: Callable[[str], bool],
        on_closed: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.bound = bound
        self._of_an_address = of_an_address
        self._is_proxy = is_proxy
        self._on_closed = on_closed
        self._clock = clock
        self._proxies = Places()
        self._known = Places()
        self._strangers = Places()
        self._lines: Bounded[str] = Bounded(clock)

    def take(self, peer: str) -> Place | None:
        """Return a place for a connection, or None where there is no room for it.

        Args:
            peer: its address; empty for a unix socket.
        """
        address = network_of(peer)
        is_proxy = self._is_proxy(peer)
        if not is_proxy and self._number_of(address) >= self._of_an_address:
            has_room = self._make_room_of(address)
        else:
            has_room = self.number < self.bound or self._make_room()
        if not has_room:
            return None
        group = self._proxies if is_proxy else self._strangers
        place = Place(address, group, self._clock())
        group.add(place)
        return place

    def know(self, place: Place) -> None:
        """Note that it has brought a good token. It may be gone already: then nothing is kept."""
        if place.group is self._strangers and place in self._strangers:
            self._strangers.remove(place)
            place.group = self._known
            self._known.add(place)

    def leave(self, place: Place) -> None:
        """Give a place back; once is enough, more does no harm."""
        if place in place.group:
            place.group.remove(place)
        place.forget()

    def close_unread(self) -> None:
        """Close the connections whose responses nobody reads: theirs wait in this process.

        All of a response goes to the kernel at once, unless its buffer is full; then this process
        keeps the rest, and the connection could not even be closed. What TLS has encrypted is not
        seen: then the connection idles out, and is seen as one that does not end.
        """
        now = self._clock()
        for place in [*self._proxies, *self._known, *self._strangers]:
            limit = CLOSING_SECONDS if place.closing() else UNREAD_SECONDS
            if not (place.unsent() or place.closing()):
                place.unread_since = None
            elif place.unread_since is None:
                place.unread_since = now
            elif now - place.unread_since >= limit:
                self._close(place, "unread")

    @property
    def number(self) -> int:
        """How many there are."""
        return len(self._proxies) + len(self._known) + len(self._strangers)

    def _number_of(self, address: str) -> int:
        return self._known.number_of(address) + self._strangers.number_of(address)

    def _make_room_of(self, address: str) -> bool:
        """Close a connection of an address; return whether there was one."""
        strangers, known = self._strangers, self._known
        if self._is_settled(next(strangers.of(address), None)):
            return self._close_one(strangers.of(address))
        groups = _larger_first(
            (strangers.number_of(address), strangers.of(address)),
            (known.number_of(address), known.of(address)),
        )
        return self._close_one(groups)

    def _make_room(self) -> bool:
        """Close a connection of anybody; return whether there was one."""
        strangers, known = self._strangers, self._known
        if self._is_settled(next(strangers.of_the_most(), None)):
            return self._close_one(strangers.of_the_most())
        if self._is_settled(strangers.oldest):
            return self._close_one(strangers)
        groups = _larger_first(
            (strangers.most, strangers.of_the_most()), (known.most, known.of_the_most())
        )
        return self._close_one(groups)

    def _is_settled(self, place: Place | None) -> bool:
        return place is not None and place.since <= self._clock() - GRACE_SECONDS

    def _close_one(self, places: Iterable[Place]) -> bool:
        self._log()
        place = next((place for place in places if not place.busy), None)
        if place is not None:
            self._close(place, "room")
        return place is not None

    def _close(self, place: Place, reason: str) -> None:
        place.abort()
        self.leave(place)
        self._on_closed(reason)

    def _log(self) -> None:
        if times := self._lines.count("full"):
            log.warning(
                "connections_full",
                times=times,
                connections=self.number,
                bound=self.bound,
                of_an_address=self._of_an_address,
                cure="see who they are (ss -tn); name a proxy in front in CUSTODY_TRUSTED_PROXIES; "
                "raise the limit of open files (LimitNOFILE=)",
            )


def _larger_first(
    strangers: tuple[int, Iterator[Place]], known: tuple[int, Iterator[Place]]
) -> Iterator[Place]:
    """Return the places of both, those first of which somebody has more."""
    groups = (strangers, known) if strangers[0] >= known[0] else (known, strangers)
    return chain.from_iterable(places for _, places in groups)


@lru_cache(4096)
def network_of(peer: str) -> str:
    """Return whose connections count together: an IPv4 address, or an IPv6 network of 64 bits.

    Whoever has one IPv6 address mostly has all of its network (RFC 6177).
    """
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, _NETWORK_BITS), strict=False))
