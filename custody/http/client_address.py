"""Where a request came from, as far as that can be believed."""

import functools
import ipaddress
import re
from collections.abc import Sequence
from typing import TypeAlias

from aiohttp import web

USER_AGENT_LENGTH = 512
UNIX = "unix"

# An address with a port behind it, as some proxies write it: an IPv6 address then has brackets.
_WITH_PORT = re.compile(
    r"\[([0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]{1,40})\](?::[0-9]{1,5})?|([0-9.]{7,15}):[0-9]{1,5}"
)

# RFC 7239 section 4. No value that is used has a backslash in it.
_WORD = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_VALUE = rf'(?:{_WORD}|"[^"\\]*")'
_PAIR = re.compile(rf"({_WORD})=({_VALUE})")
_ONE = rf"[ \t]*{_PAIR.pattern}(?:;{_PAIR.pattern})*[ \t]*"
_ELEMENT = re.compile(r'(?:[^",]|"[^"]*")+')
_FORWARDED = re.compile(rf"{_ONE}(?:,{_ONE})*")

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class TrustedProxies:
    """The hops whose X-Forwarded-For is believed.

    Args:
        names: addresses, CIDR networks, or ``unix`` for whoever connects by a unix socket.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._unix = UNIX in names
        self._networks: tuple[Network, ...] = tuple(
            ipaddress.ip_network(name) for name in names if name != UNIX
        )

    def client_address(self, request: web.BaseRequest) -> str | None:
        """Return the client's address.

        It is the peer's, or, behind trusted proxies, the first hop from the right of
        X-Forwarded-For that is not one of them; of Forwarded, where there is no X-Forwarded-For. A
        hop that is no address ends the search at the last trusted one: what stands left of it was
        written by no one we trust.

        Source: RFC 7239 sections 4 to 6.
        """
        peer = request.remote
        if peer is None:  # gone: nobody knows who it was
            return None
        if not self.trust(peer):
            return _plain(peer)
        address = parse_address(peer)
        for hop in reversed(_hops(request)):
            next_address = parse_hop(hop)
            if next_address is None:
                break
            address = next_address
            if not self._trusts(address):
                break
        return str(address) if address else None

    def trust(self, peer: str) -> bool:
        """Return whether a peer is one of them.

        Args:
            peer: its address; empty where it came by a unix socket.
        """
        return self._trusts(parse_address(peer)) if peer else self._unix

    def _trusts(self, address: Address | None) -> bool:
        if not self._networks or address is None:
            return False
        return any(address in network for network in self._networks)


def _hops(request: web.BaseRequest) -> list[str]:
    """Return the hops that a request names, the nearest one last; what is no hop stays as text."""
    lines = request.headers.getall("X-Forwarded-For", ())
    if lines or not (lines := request.headers.getall("Forwarded", ())):
        return [hop.strip(" \t") for hop in ",".join(lines).split(",")]
    header = ",".join(lines)
    if not _FORWARDED.fullmatch(header):
        return [""]  # where one hop ends and the next one begins can't be known
    return [_forwarded_for(element) for element in _ELEMENT.findall(header)]


def _forwarded_for(element: str) -> str:
    """Return whom one proxy names as its client; an empty text where it names none, or two."""
    found: list[str] = [value for name, value in _PAIR.findall(element) if name.lower() == "for"]
    return found[0] if len(found) == 1 else ""


@functools.lru_cache(1024)
def parse_address(text: str) -> Address | None:
    """Return a plain IP address, or None; an IPv4 address mapped into IPv6 becomes IPv4."""
    if "%" in text:  # a zone id is any text
        return None
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def parse_hop(text: str) -> Address | None:
    """Return the address of a hop, without its port and quotes; None where it is none.

    A port is the hop's own: of the client behind it, it says nothing.

    Args:
        text: ``203.0.113.9``, ``203.0.113.9:51234``, ``2001:db8::1``, ``[2001:db8::1]``,
            ``[2001:db8::1]:443``; any of them also in double quotes.
    """
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1]
    match = _WITH_PORT.fullmatch(text)
    return parse_address(text if match is None else match[1] or match[2])


@functools.lru_cache(1024)
def _plain(peer: str) -> str | None:
    """Return a peer's address as it is written in the audit, or None where it is none."""
    address = parse_address(peer)
    return str(address) if address else None


def user_agent(request: web.BaseRequest) -> str | None:
    """Return the user agent as the database can store it: valid UTF-8, at most 512 characters."""
    value = request.headers.get("User-Agent")
    if not value:
        return None
    if value.isascii() and "\0" not in value:
        return value[:USER_AGENT_LENGTH]
    return value.encode("utf-8", "replace").decode("utf-8").replace("\0", "")[:USER_AGENT_LENGTH]
