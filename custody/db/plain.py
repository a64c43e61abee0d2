"""What of a database URL lets others on the way read along, and what to do about it."""

from typing import Final

from custody.db.dsn import Host, Target
from custody.loopback import is_loopback

# sslmode with which nothing crosses the network in clear, whatever the server says.
_ENCRYPTED: Final = {"require", "verify-ca", "verify-full"}
_VERIFIED: Final = "verify-full"
_CURE = "set sslmode=verify-full, and sslrootcert= to the file of its CA"


def in_clear(target: Target) -> str | None:
    """Say which host of a URL may be spoken to in clear over a network; None: none may be.

    Args:
        target: what the URL and libpq's variables say.
    """
    host = _on_a_network(target)
    if host is None or target.tls.mode in _ENCRYPTED:
        return None
    return (
        f"what goes to {host} may cross the network in clear (sslmode={target.tls.mode}), the "
        f"password too; {_CURE}"
    )


def unverified(target: Target) -> str | None:
    """Say which host of a URL may be another than it says, encrypted as it is; None: none may be.

    Args:
        target: as for :func:`in_clear`.
    """
    host = _on_a_network(target)
    if host is None or target.tls.mode == _VERIFIED or target.tls.mode not in _ENCRYPTED:
        return None
    return (
        f"sslmode={target.tls.mode} does not make sure that {host} is who answers: whoever is on "
        f"the way may; {_CURE}"
    )


def is_local(target: Target) -> bool:
    """Say whether all hosts of a URL are this one.

    Args:
        target: as for :func:`in_clear`.
    """
    return _on_a_network(target) is None


def _on_a_network(target: Target) -> Host | None:
    return next((host for host in target.hosts if not _is_here(host)), None)


def _is_here(host: Host) -> bool:
    return host.is_socket or is_loopback(host.address or host.name)
