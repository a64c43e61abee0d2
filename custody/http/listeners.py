"""The sockets that the daemon listens on: opened here, or handed over by the service manager."""

import contextlib
import errno
import os
import socket
import ssl
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from custody.settings import ConfigurationError, Settings

_BACKLOG = 1024
# sd_listen_fds(3): the first descriptor that is handed over.
_FIRST_HANDED_OVER = 3
# What is listened on, and the setting of its address.
_NAMES = {"admin": "admin_listen", "vault": "listen"}
# A host whose kernel has no IPv6 may still name ::1 as localhost.
_NOT_ON_THIS_HOST = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)

log = structlog.get_logger()


class ListenError(Exception):
    """An address can't be listened on. The message names the cure."""


class Listener(socket.socket):
    """A socket that listens."""


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
        """Close them; what the service manager holds of them stays open."""
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
        ListenError: an address is taken, or not ours; or a name says nothing.
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
            raise ListenError(
                f"a socket named {', '.join(unknown)} was handed over beside others; write "
                "FileDescriptorName=vault or FileDescriptorName=admin in its socket unit"
            )
        for name, field in _NAMES.items():
            if name in given and field not in settings.model_fields_set:
                opened[name] = given.pop(name)
                continue
            opened[name] = _open(getattr(settings, field), f"CUSTODY_{field.upper()}")
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


def take_handed_over(environ: Mapping[str, str], process: int) -> dict[str, tuple[Listener, ...]]:
    """Return the sockets that the service manager has opened for this process, by name.

    Args:
        environ: ``LISTEN_PID``, ``LISTEN_FDS`` and ``LISTEN_FDNAMES`` as of sd_listen_fds(3).
        process: our process id: what was handed to another process is not ours.

    Raises:
        ListenError: one of them is no stream socket that listens.
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
        ListenError: it is no stream socket that listens.
    """
    with contextlib.suppress(OSError):
        os.set_inheritable(descriptor, False)
        listener = Listener(fileno=descriptor)
        listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if listening and listener.type is socket.SOCK_STREAM:
            return listener
        listener.close()
    raise ListenError(
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
    try:
        # Without a password OpenSSL asks the terminal for that of an encrypted key, and waits.
        context.load_cert_chain(cert, key, password="")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise ConfigurationError(
            f"CUSTODY_TLS_CERT, CUSTODY_TLS_KEY: {cert} and {key} can't be used: "
            f"{reason or type(error).__name__}"
        ) from None
    return context


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


def _open(address: str, variable: str) -> tuple[Listener, ...]:
    try:
        if address.startswith("unix:"):
            return (_open_unix(address.removeprefix("unix:")),)
        return _open_tcp(address)
    except OSError as error:
        raise ListenError(
            f"{variable}: can't listen on {address}: {error.strerror or error}; stop what listens "
            f"there, or set {variable} to another address"
        ) from None


def _open_tcp(address: str) -> tuple[Listener, ...]:
    host, _, port = address.rpartition(":")
    found = socket.getaddrinfo(
        host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    opened: list[Listener] = []
    missing: OSError | None = None
    with contextlib.ExitStack() as stack:
        for family, _, _, _, place in dict.fromkeys(found):
            try:
                opened.append(stack.enter_context(_bind(family, place)))
            except OSError as error:
                if error.errno not in _NOT_ON_THIS_HOST:
                    raise
                missing = error
        if missing is not None and not opened:
            raise missing
        stack.pop_all()
    return tuple(opened)


def _open_unix(path: str) -> Listener:
    _remove_stale(path)
    return _bind(socket.AF_UNIX, path)


def _bind(family: int, place: object) -> Listener:
    listener = Listener(family, socket.SOCK_STREAM)
    try:
        if family != socket.AF_UNIX:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(place)  # type: ignore[arg-type]
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_stale(path: str) -> None:
    """Remove the socket of a daemon that was killed; one that somebody listens on stays."""
    try:
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
