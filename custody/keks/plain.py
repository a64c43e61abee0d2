"""KEKs whose KMS is asked in clear over a network."""

from collections.abc import Iterable

from custody.settings import ConfigurationError, Plain, Settings
from kek_backends.base import KekBackend


def in_clear(backend: KekBackend) -> str | None:
    """Say where a KEK's KMS is asked in clear over a network; None: nowhere."""
    address = backend.plain_address
    if address is None:
        return None
    return (
        f"KEK {backend.uri.text}: {address} is asked in clear: whoever is on the way reads keys, "
        "and the login; use https"
    )


def refuse_plain(backends: Iterable[KekBackend], settings: Settings) -> None:
    """Refuse KEKs whose KMS is asked in clear over a network, unless that is allowed.

    Args:
        backends: all that are to be used.
        settings: of the process.

    Raises:
        ConfigurationError: naming the URI, the address and the cure.
    """
    if settings.allows_plain(Plain.KMS):
        return
    for backend in backends:
        if problem := in_clear(backend):
            raise ConfigurationError(f"{problem}, or allow it: CUSTODY_ALLOW_PLAIN={Plain.KMS}")
