"""The hosts of a database URL: names, addresses, sockets, ports."""

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from custody.db.parameters import ENCODE, BadUrl, decode

DEFAULT_PORT: Final = 5432
# Where a server on this machine is looked for when no host is named.
_HERE: Final = "/run/postgresql,localhost"

_MAX_PORT = 65535
_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")
_AUTHORITY = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*)(?::(?P<port>.*))?")


@dataclass(frozen=True, slots=True)
class Host:
    """Where a server may be.

    Args:
        name: a host name or an address, or, beginning with a slash, the folder of a socket.
        port: 1 to 65535.
        address: where the name is, so that nobody is asked; None: who answers for names is.
    """

    name: str
    port: int
    address: str | None = None

    @property
    def is_socket(self) -> bool:
        """Whether it is reached through the file system."""
        return self.name.startswith("/")

    def __str__(self) -> str:
        if self.is_socket:
            return f"{self.name}/.s.PGSQL.{self.port}"
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


def read_hosts(
    authority: str, parameters: Mapping[str, str], variables: Mapping[str, str]
) -> tuple[Host, ...]:
    """Read which hosts are meant.

    Args:
        authority: what stands before the database, behind the role.
        parameters: host, hostaddr and port, from behind the question mark.
        variables: the same, where the URL does not say them.

    Raises:
        BadUrl: they can never work.
    """
    named = parameters.get("host", "")
    if authority and named:
        raise BadUrl("hosts are named twice: before the database, and by host=; take one out")
    addresses = parameters.get("hostaddr", "")
    if not (authority or named or addresses):
        # A variable does not move what the URL says.
        named, addresses = variables.get("host", ""), variables.get("hostaddr", "")
    places: list[tuple[str, str | None]]
    if authority:
        places = [_split(part) for part in authority.split(",")]
    else:
        places = [(part, None) for part in (named or addresses or _HERE).split(",")]
    ports = parameters.get("port") or variables.get("port", "")
    return tuple(
        Host(_name(name or address), _port(port or default or str(DEFAULT_PORT)), address)
        for (name, port), address, default in zip(
            places,
            _for_each(addresses, places, "hostaddr"),
            _for_each(ports, places, "port"),
            strict=True,
        )
    )


def _for_each(text: str, places: Sequence[object], name: str) -> list[str | None]:
    """Return one for each host, or None; as libpq has it, one port is for all of them."""
    listed: list[str | None] = [part or None for part in text.split(",")]
    if len(listed) == 1 and (name == "port" or not text):
        return listed * len(places)
    if len(listed) != len(places):
        raise BadUrl(f"{name}= has another number of them than there are hosts")
    if name == "hostaddr":
        for address in listed:
            _check_address(address or "")
    return listed


def _split(part: str) -> tuple[str, str | None]:
    matched = _AUTHORITY.fullmatch(part)
    if matched is None:
        raise BadUrl(
            f"write host:port, [IPv6 address]:port or %2Ffolder%2Fof%2Fa%2Fsocket; {ENCODE}"
        )
    host, port = matched["host"], matched["port"]
    return decode(host.removeprefix("[").removesuffix("]")), port and decode(port)


def _name(text: str | None) -> str:
    if not text:
        return "localhost"
    if ":" in text and not text.startswith("/"):
        _check_address(text)
    elif not text.startswith("/") and not _NAME.fullmatch(text):
        raise BadUrl(f"a host is a name, an address or the folder of a socket; {ENCODE}")
    return text


def _check_address(text: str) -> None:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise BadUrl(f"an address of a host is no IPv4 or IPv6 address; {ENCODE}") from None


def _port(text: str) -> int:
    # The length, for int() counts on whoever gives it a million digits.
    short = len(text) <= len(str(_MAX_PORT))
    if short and text.isascii() and text.isdigit() and 1 <= int(text) <= _MAX_PORT:
        return int(text)
    raise BadUrl(f"a port is a number from 1 to {_MAX_PORT}; {ENCODE}")
