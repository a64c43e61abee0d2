"""Opens the addresses of the settings, or says why one can't be listened on."""

import contextlib
import errno
import grp
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from custody.settings import UNIX, ConfigurationError

_BACKLOG = 1024
# unix(7): sun_path has 108 bytes, the last of them zero.
_PATH_BYTES = 107
_PRIVILEGED_PORTS = 1024
# A host whose kernel has no IPv6 may still name ::1 as localhost.
_NOT_ON_THIS_HOST = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)

_FOREIGN = (
    "this host has no such address: set one that it has, or have the service manager open it "
    "(ListenStream= with FreeBind=yes)"
)
_CURES_OF_PORTS = {
    **dict.fromkeys(_NOT_ON_THIS_HOST, _FOREIGN),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM),
        "ports below 1024 need a privilege: set one from 1024 on, or have the service manager "
        "open it (ListenStream=)",
    ),
}
_CURES_OF_PATHS = {
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS),
        "let this user make files in that folder, or name another",
    ),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR), "make that folder first"),
    errno.ENAMETOOLONG: f"a socket's path has {_PATH_BYTES} bytes at most: name a shorter one",
    errno.EEXIST: "remove it, or name another path",
    errno.EINVAL: "name a group of this host",
}


class ListenError(Exception):
    """An address can't be listened on now. The message names the cure."""


class Listener(socket.socket):
    """A socket that listens.

    One that this process has made at a path takes the path away when it is closed.
    """

    _path: Path | None = None
    _made: tuple[int, int] = (0, 0)

    def owns(self, path: Path) -> None:
        """Remember the path that was made for it."""
        self._path, self._made = path, _identity(path)

    def close(self) -> None:
        """Close it, and remove its path, unless another has been made there meanwhile."""
        path, self._path = self._path, None
        super().close()
        if path is not None:
            with contextlib.suppress(OSError):
                if _identity(path) == self._made:
                    path.unlink()


def _identity(path: Path) -> tuple[int, int]:
    """Return what distinguishes a file from a later one at its path: inodes are used again."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


@dataclass(frozen=True, slots=True)
class _Socket:
    """A socket in the file system.

    Args:
        path: where.
        mode: its mode; None: what the umask leaves.
        group: its group's id; None: the process's.
    """

    path: Path
    mode: int | None = None
    group: int | None = None


def open_address(address: str, variable: str) -> tuple[Listener, ...]:
    """Listen on an address; a host name with several has several listeners.

    Args:
        address: ``host:port``, or ``unix:/path`` with ``?mode=0660&group=NAME``.
        variable: the setting, for messages.

    Raises:
        ConfigurationError: it can never be listened on.
        ListenError: not now: something else listens there.
    """
    with _named(address, variable):
        if address.startswith(UNIX):
            return (_open_unix(_socket_of(address)),)
        return _open_tcp(address)


def refuse_impossible(address: str, variable: str) -> None:
    """Refuse what :func:`open_address` would refuse for good, and listen on nothing.

    Args:
        address: as there.
        variable: as there.

    Raises:
        ConfigurationError: it can never be listened on.
    """
    with contextlib.suppress(ListenError), _named(address, variable):
        if address.startswith(UNIX):
            _refuse_path(_socket_of(address).path)
            return
        host, _, port = address.rpartition(":")
        # Any port will show whether the address is this host's; those of root need a try.
        tried = port if 0 < int(port) < _PRIVILEGED_PORTS else "0"
        for listener in _open_tcp(f"{host}:{tried}", listens=False):
            listener.close()


@contextlib.contextmanager
def _named(address: str, variable: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        start = f"{variable}: can't listen on {address}: {error.strerror or error}"
        if cure := _cure(error, address, variable):
            raise ConfigurationError(f"{start}; {cure}") from None
        raise ListenError(
            f"{start}; stop what listens there, or set {variable} to another address"
        ) from None


def _cure(error: OSError, address: str, variable: str) -> str | None:
    """Return what to do about an error that does not pass; None: it may."""
    if isinstance(error, socket.gaierror):
        resolves_later = error.errno == socket.EAI_AGAIN
        return None if resolves_later else f"set {variable} to an address of this host"
    cures = _CURES_OF_PATHS if address.startswith(UNIX) else _CURES_OF_PORTS
    return cures.get(error.errno or 0)


def _open_tcp(address: str, *, listens: bool = True) -> tuple[Listener, ...]:
    host, _, port = address.rpartition(":")
    found = socket.getaddrinfo(
        host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    opened: list[Listener] = []
    missing: OSError | None = None
    with contextlib.ExitStack() as stack:
        for family, _, _, _, place in dict.fromkeys(found):
            try:
                opened.append(stack.enter_context(_bind(family, place, listens=listens)))
            except OSError as error:
                if error.errno not in _NOT_ON_THIS_HOST:
                    raise
                missing = error
        if missing is not None and not opened:
            raise missing
        stack.pop_all()
    return tuple(opened)


def _open_unix(wanted: _Socket) -> Listener:
    _refuse_path(wanted.path)
    _remove_stale(wanted.path)
    # Nobody may connect before it has the mode that was asked for.
    before = os.umask(0o777) if wanted.mode is not None else None
    try:
        listener = _bind(socket.AF_UNIX, str(wanted.path), listens=True)
    finally:
        if before is not None:
            os.umask(before)
    try:
        listener.owns(wanted.path)
        if wanted.group is not None:
            os.chown(wanted.path, -1, wanted.group)
        if wanted.mode is not None:
            wanted.path.chmod(wanted.mode)
    except BaseException:
        listener.close()
        raise
    return listener


def _bind(family: int, place: tuple[Any, ...] | str, *, listens: bool) -> Listener:
    listener = Listener(family, socket.SOCK_STREAM)
    try:
        if family != socket.AF_UNIX:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(place)
        if listens:
            listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _socket_of(address: str) -> _Socket:
    path, _, options = address.removeprefix(UNIX).partition("?")
    values = dict(parse_qsl(options))
    mode = int(values["mode"], 8) if "mode" in values else None
    return _Socket(Path(path), mode, _group_of(values.get("group")))


def _group_of(name: str | None) -> int | None:
    if name is None:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise OSError(errno.EINVAL, f"there is no group {name}") from None


def _refuse_path(path: Path) -> None:
    """Refuse a path at which no socket can ever be made."""
    if len(os.fsencode(path)) > _PATH_BYTES:
        raise OSError(errno.ENAMETOOLONG, "the path is too long")
    if not path.parent.is_dir():
        raise OSError(errno.ENOENT, f"there is no folder {path.parent}")
    if path.exists() and not path.is_socket():
        raise OSError(errno.EEXIST, "there is something that is no socket")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def _remove_stale(path: Path) -> None:
    """Remove the socket of a daemon that was killed; one that somebody listens on stays."""
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
