"""Bounds the connections of a listener, in all and per address, so that nobody takes all of them.

Where there is no room for a new one, one is closed on which nothing is under way: of those that
never brought a good token first, of the address that has the most, the oldest. One that has just
been made has a second to say what it wants, unless all others have, too.
"""

import ipaddress
import math
import resource
import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import chain
from typing import TypeAlias

import structlog

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
LOOK_SECONDS = 5.0
_LINE_SECONDS = 60.0
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


class Place:
    """What one connection takes of the room for all.

    Args:
        address: of whoever connected, or its network.
        group: the places like it, by address.
        since: when it connected, in monotonic seconds.

    Attributes:
        abort: ends the connection at once.
        unsent: returns how many bytes for its client wait in this process.
        busy: whether a request with a good token is under way. Such a connection is not closed for
            another one.
    """

    __slots__ = ("abort", "address", "busy", "group", "since", "unread_since", "unsent")

    def __init__(self, address: str, group: "_Group", since: float) -> None:
        self.address = address
        self.group = group
        self.since = since
        self.abort: Callable[[], object] = _nothing
        self.unsent: Callable[[], int] = _nothing
        self.unread_since: float | None = None
        self.busy = False


def _nothing() -> int:
    return 0


_Group: TypeAlias = dict[str, dict[Place, None]]


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
    """

    def __init__(
        self,
        bound: int,
        of_an_address: int,
        is_proxy: Callable[[str], bool],
        on_closed: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bound = bound
        self._of_an_address = of_an_address
        self._is_proxy = is_proxy
        self._on_closed = on_closed
        self._clock = clock
        self._proxies: _Group = {}
        self._known: _Group = {}
        self._strangers: _Group = {}
        self._number = 0
        self._logged_at = float("-inf")

    def take(self, peer: str) -> Place | None:
        """Return a place for a connection, or None where there is no room for it.

        Args:
            peer: its address; empty for a unix socket.
        """
        address = network_of(peer)
        is_proxy = self._is_proxy(peer)
        if not is_proxy and self._number_of(address) >= self._of_an_address:
            has_room = self._make_room([address])
        else:
            has_room = self._number < self._bound or self._make_room()
        if not has_room:
            return None
        place = Place(address, self._proxies if is_proxy else self._strangers, self._clock())
        self._enter(place)
        return place

    def begin(self, place: Place) -> None:
        """Note that a request with a good token is under way.

        Its connection may be gone already: then there is nothing to be kept.
        """
        place.busy = True
        if place.group is self._strangers and self._remove(place):
            place.group = self._known
            self._enter(place)

    def leave(self, place: Place) -> None:
        """Give a place back; once is enough, more does no harm."""
        self._remove(place)
        # The connection, which they are of, holds the place: without them nothing holds itself.
        place.abort = place.unsent = _nothing

    def close_unread(self) -> None:
        """Close the connections whose responses nobody reads: theirs wait in this process.

        All of a response goes to the kernel at once, unless its buffer is full; then this process
        keeps the rest, and the connection could not even be closed.
        """
        now = self._clock()
        for place in list(self._all()):
            if not place.unsent():
                place.unread_since = None
            elif place.unread_since is None:
                place.unread_since = now
            elif now - place.unread_since >= UNREAD_SECONDS:
                self._close(place, "unread")

    def _all(self) -> Iterable[Place]:
        groups = (self._proxies, self._known, self._strangers)
        return chain.from_iterable(chain.from_iterable(group.values() for group in groups))

    def _number_of(self, address: str) -> int:
        return len(self._known.get(address, ())) + len(self._strangers.get(address, ()))

    def _enter(self, place: Place) -> None:
        place.group.setdefault(place.address, {})[place] = None
        self._number += 1

    def _remove(self, place: Place) -> bool:
        """Remove a place; return whether it was there."""
        places = place.group.get(place.address, {})
        if place not in places:
            return False
        del places[place]
        self._number -= 1
        if not places:
            del place.group[place.address]
        return True

    def _make_room(self, addresses: list[str] | None = None) -> bool:
        """Close a connection, of one of these addresses or of any; return whether there was one."""
        self._log_once()
        settled = self._clock() - GRACE_SECONDS
        for group, before in (
            (self._strangers, settled),
            (self._strangers, math.inf),
            (self._known, math.inf),
        ):
            place = _least_missed(group, group if addresses is None else addresses, before)
            if place is not None:
                self._close(place, "room")
                return True
        return False

    def _close(self, place: Place, reason: str) -> None:
        place.abort()
        self.leave(place)
        self._on_closed(reason)

    def _log_once(self) -> None:
        """Log that there is no room, once a minute at most: callers choose how often that is."""
        now = self._clock()
        if now - self._logged_at >= _LINE_SECONDS:
            self._logged_at = now
            log.warning(
                "connections_full",
                connections=self._number,
                bound=self._bound,
                of_an_address=self._of_an_address,
                cure="see who they are (ss -tn); name a proxy in front in CUSTODY_TRUSTED_PROXIES; "
                "raise the limit of open files (LimitNOFILE=)",
            )


def _least_missed(group: _Group, addresses: Iterable[str], before: float) -> Place | None:
    """Return a place that is not busy: of the address that has the most places, its oldest.

    Args:
        group: of which to take one.
        addresses: of which to take one.
        before: when it was taken at the latest, in monotonic seconds.
    """
    for address in sorted(addresses, key=lambda address: -len(group.get(address, ()))):
        for place in group.get(address, ()):
            if not place.busy and place.since <= before:
                return place
    return None


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
