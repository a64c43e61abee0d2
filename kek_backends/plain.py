"""Which addresses are asked in clear over a network."""

import ipaddress
from typing import Final
from urllib.parse import urlsplit

_PROTECTED: Final = {"https", "unix"}


def plain_address(url: str) -> str | None:
    """Return where a URL is asked in clear over a network, as ``http://host:port``; else None.

    Loopback is no network. A name is loopback only if it is ``localhost``: what another resolves
    to may change.

    Args:
        url: of a server. Nothing of it but scheme, host and port is returned.
    """
    parts = urlsplit(url)
    if parts.scheme in _PROTECTED or _is_loopback(parts.hostname or ""):
        return None
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    # Python looks at the address within only from 3.13 on.
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
