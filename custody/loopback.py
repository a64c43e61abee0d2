"""Whether an address is this host's own, which no network sees."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Say whether a host is loopback. A name is only if it is ``localhost``: others may move.

    Args:
        host: a name, or an address without brackets.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower() == "localhost"
    # Python looks at the address within only from 3.13 on.
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
