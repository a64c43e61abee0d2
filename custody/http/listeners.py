"""Opens the addresses that the settings name."""

import ssl
from pathlib import Path

from aiohttp import web

from custody.settings import ConfigurationError

_BACKLOG = 1024


class ListenError(Exception):
    """An address can't be listened on. The message names the cure."""


async def listen(
    runner: web.BaseRunner, address: str, variable: str, tls: ssl.SSLContext | None = None
) -> str:
    """Open a listener.

    Args:
        runner: a runner that was set up.
        address: ``host:port``, ``[address]:port`` or ``unix:/path``; port 0 is a free one.
        variable: the setting's name, for the message.
        tls: context of the server's certificate, or None for plain HTTP.

    Returns:
        The address as clients write it.

    Raises:
        ListenError: it is taken, or not ours.
    """
    site: web.BaseSite
    if address.startswith("unix:"):
        site = web.UnixSite(runner, address.removeprefix("unix:"), ssl_context=tls)
    else:
        host, _, port = address.rpartition(":")
        site = web.TCPSite(runner, host.strip("[]"), int(port), ssl_context=tls, backlog=_BACKLOG)
    known = len(runner.addresses)
    try:
        await site.start()
    except OSError as error:
        raise ListenError(
            f"{variable}: can't listen on {address}: {error.strerror or error}; stop what listens "
            f"there, or set {variable} to another address"
        ) from None
    bound = runner.addresses[known]
    if isinstance(bound, str):
        return f"unix:{bound}"
    host = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
    return f"{'https' if tls else 'http'}://{host}:{bound[1]}"


def tls_context(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """Return the TLS context of the settings, or None where none is set.

    Raises:
        ConfigurationError: the files can't be used.
    """
    if cert is None or key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"CUSTODY_TLS_CERT, CUSTODY_TLS_KEY: {cert} and {key} can't be used: "
            f"{error.strerror or type(error).__name__}"
        ) from None
    return context
