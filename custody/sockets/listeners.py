"""The sockets that the daemon listens on: opened here, or handed over by the service manager."""

import contextlib
import os
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from custody.loopback import is_loopback
from custody.settings import ConfigurationError, Settings
from custody.sockets.addresses import Listener, open_address

# sd_listen_fds(3): the first descriptor that is handed over.
_FIRST_HANDED_OVER = 3
# What is listened on, and the setting of its address.
_NAMES = {"admin": "admin_listen", "vault": "listen"}

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Listeners:
    """All that the daemon listens on.

    Args:
        vault: for users; a host name with several addresses has several.
        admin: for operators.
    """

    vault: tuple[Listener, ...]
    admin: tuple[Listener, ...]

    def close(self) -> None:
        """Close them; those of the service manager stay open."""
        for listener in (*self.vault, *self.admin):
            listener.close()


def open_listeners(
    settings: Settings, handed_over: Mapping[str, tuple[Listener, ...]]
) -> Listeners:
    """Open the addresses of the settings, or take what the service manager has opened.

    Args:
        settings: an address that is set wins over sockets that are handed over.
        handed_over: by name: ``vault`` and ``admin``. Another name, where it is the only one, is
            the vault's.

    Raises:
        ConfigurationError: an address can never be listened on, or a name says nothing.
        ListenError: an address is taken.
    """
    given = dict(handed_over)
    opened: dict[str, tuple[Listener, ...]] = {}
    with contextlib.ExitStack() as stack:
        for listeners in handed_over.values():
            for listener in listeners:
                stack.callback(listener.close)
        if len(given) == 1 and "admin" not in given:
            given = {"vault": next(iter(given.values()))}
        if unknown := sorted(given.keys() - _NAMES.keys()):
            # Closed, it would still be open in the service manager, and clients wait there.
            raise ConfigurationError(
                f"a socket named {', '.join(unknown)} was handed over beside others; write "
                "FileDescriptorName=vault or FileDescriptorName=admin in its socket unit"
            )
        for name, field in _NAMES.items():
            if name in given and field not in settings.model_fields_set:
                opened[name] = given.pop(name)
                continue
            opened[name] = open_address(getattr(settings, field), f"CUSTODY_{field.upper()}")
            for listener in opened[name]:
                stack.callback(listener.close)
        stack.pop_all()
    for name, unused in given.items():
        log.warning(
            "socket_unused",
            name=name,
            cure=f"unset CUSTODY_{_NAMES[name].upper()}, or stop that socket: clients wait there",
        )
        for listener in unused:
            listener.close()
    return Listeners(**opened)


def on_network(listeners: Sequence[Listener]) -> list[str]:
    """Return where those are bound that other hosts may reach.

    Args:
        listeners: of any kind; what is no unix socket and not bound to loopback counts.
    """
    return [
        f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        for listener in listeners
        if listener.family != socket.AF_UNIX
        for host, port in [map(str, listener.getsockname()[:2])]
        if not is_loopback(host)
    ]


def take_handed_over(environ: Mapping[str, str], process: int) -> dict[str, tuple[Listener, ...]]:
    """Return the sockets that the service manager has opened for this process, by name.

    Args:
        environ: ``LISTEN_PID``, ``LISTEN_FDS`` and ``LISTEN_FDNAMES`` as of sd_listen_fds(3).
        process: our process id: what was handed to another process is not ours.

    Raises:
        ConfigurationError: one of them is no stream socket that listens.
    """
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(process) or not count.isdecimal():
        return {}
    given = environ.get("LISTEN_FDNAMES", "").split(":")
    found: dict[str, tuple[Listener, ...]] = {}
    with contextlib.ExitStack() as stack:
        for number in range(int(count)):
            name = (given[number] if number < len(given) else "") or "unknown"
            listener = stack.enter_context(adopt(_FIRST_HANDED_OVER + number))
            # All ListenStream= of one unit have one name.
            found[name] = (*found.get(name, ()), listener)
        stack.pop_all()
    return found


def adopt(descriptor: int) -> Listener:
    """Return the listening socket of a descriptor that was handed over.

    Raises:
        ConfigurationError: it is no stream socket that listens.
    """
    with contextlib.suppress(OSError):
        os.set_inheritable(descriptor, False)
        listener = Listener(fileno=descriptor)
        listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if listening and listener.type is socket.SOCK_STREAM:
            return listener
        listener.close()
    raise ConfigurationError(
        f"descriptor {descriptor} that was handed over is no stream socket that listens; "
        "write ListenStream= in the socket unit, and Accept=no"
    )


def tls_context(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """Return the TLS context of the settings, or None where none is set.

    Raises:
        ConfigurationError: the files can't be used.
    """
    if cert is None or key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    # What the interpreter's default may be one day, and the host's configuration of OpenSSL.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # Without a password OpenSSL asks the terminal for that of an encrypted key, and waits.
        context.load_cert_chain(cert, key, password="")
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"CUSTODY_TLS_CERT, CUSTODY_TLS_KEY: {cert} and {key} can't be used: {_reason(error)}"
        ) from None
    return context


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        # OpenSSL's names of what goes wrong; the text around them is the interpreter's.
        known = {
            "KEY_VALUES_MISMATCH": "the key is that of another certificate",
            "BAD_DECRYPT": "the key is encrypted: store it without a password, mode 0600",
        }
        return known.get(error.reason or "", "they are no PEM files of a certificate and a key")
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__


def follow(context: ssl.SSLContext, other: ssl.SSLContext) -> None:
    """Have connections that are made from now on get the certificate of another context.

    A certificate and its key are loaded one after the other: where the second fails, a context in
    use would be left with two that don't belong together.

    Args:
        context: that of a listener.
        other: made by :func:`tls_context`.
    """

    def use(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = other

    # Called in every handshake, also where the client names no server.
    context.sni_callback = use
