"""Files that settings name: who may read those with secrets, and change those that are believed."""

import os
import pwd
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from custody.ops.remark import Remark
from custody.settings import CREDENTIALS_DIRECTORY, PREFIX, Settings

_GROUP, _OTHERS = 0o070, 0o007
# Of what the daemon's group may read, or change, its host has so decided.
_WRITERS, _READERS = 0o002, 0o004
# Those of KEKs are the loader's, too: it refuses one that all may use.
_SECRET_FILES = {
    f"{prefix}_{name}"
    for prefix in ("BAO", "VAULT")
    for name in ("SECRET_ID_FILE", "TOKEN_FILE", "CLIENT_KEY")
}
# A password in a TOML file: in the URL of a database, or the token itself.
_SECRET = re.compile(r"://[^/\s'\"]*:[^/\s'\"]+@|password=|^\s*admin_token\s*=", re.MULTILINE)
_MAX_SIZE = 64 * 1024
# Who a user of another namespace is seen as: whose the file is, is not known.
_NOBODY = 65_534


def of_files(settings: Settings, environ: Mapping[str, str]) -> Iterator[Remark]:
    """Say which files are open to others.

    Args:
        settings: of the daemon.
        environ: the variables of the process.
    """
    for name, path in secret_files(settings, environ):
        yield from _of_secret(name, path, settings)
    for name, path in _believed_files(settings, environ):
        if _mode(path) & _WRITERS:
            yield _remark(f"{name} names {path}, which others may change", f"chmod o-w {path}")
    config = environ.get(f"{PREFIX}CONFIG")
    if config and _mode(Path(config)) & _READERS and _has_secret(Path(config)):
        problem = f"{PREFIX}CONFIG names {config}, which has a password, and which others may read"
        yield _remark(problem, f"chmod o= {config}")


def secret_files(settings: Settings, environ: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    """Return the files that hold secrets, with what names them.

    Args:
        settings: of the daemon.
        environ: the variables of the process.
    """
    of_keks = _names_of_keks(settings)
    for name, value in sorted(environ.items()):
        is_ours = name.startswith(PREFIX) and name.endswith("_FILE") and name != "CUSTODY_JWKS_FILE"
        if value and (is_ours or name in _SECRET_FILES or name in of_keks):
            yield name, Path(value)
    if settings.tls_key is not None:
        yield "CUSTODY_TLS_KEY", settings.tls_key
    if folder := environ.get(CREDENTIALS_DIRECTORY):
        for path in sorted(Path(folder).glob(f"{PREFIX.lower()}*")):
            yield f"the credential {path.name}", path


def _of_secret(name: str, path: Path, settings: Settings) -> Iterator[Remark]:
    try:
        seen, folder = path.stat(), path.parent.stat()
    except OSError:
        return  # whoever reads it says so
    who, unless = _GROUP | _OTHERS, 0
    if name in _names_of_keks(settings):
        who, unless = _GROUP, _OTHERS
    elif path == settings.tls_key or name.startswith("the credential"):
        # Some hosts give such keys to a group of their own; systemd gives access by an ACL.
        who = _OTHERS
    if seen.st_mode & who and not seen.st_mode & unless:
        cure = f"chmod {'600' if who & _GROUP else 'o='} {path}"
        yield _remark(f"{name} names {path}, which others may use", cure)
    user = os.geteuid()
    if user and seen.st_uid not in {0, user, _NOBODY}:
        problem = f"{name} names {path}, which belongs to another user ({_named(seen.st_uid)})"
        yield _remark(problem, f"chown {_named(user)} {path}")
    if folder.st_mode & stat.S_IWOTH and not folder.st_mode & stat.S_ISVTX:
        problem = f"{name} names {path}, which everybody may put another file in place of"
        yield _remark(problem, f"chmod o-w {path.parent}")


def _believed_files(settings: Settings, environ: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    """Return the files that hold no secret, and that whoever changes them may do harm by."""
    if config := environ.get(f"{PREFIX}CONFIG"):
        yield f"{PREFIX}CONFIG", Path(config)
    if settings.jwks_file is not None:
        yield "CUSTODY_JWKS_FILE", settings.jwks_file
    if settings.tls_cert is not None:
        yield "CUSTODY_TLS_CERT", settings.tls_cert


def _names_of_keks(settings: Settings) -> set[str]:
    uris = [settings.kek, *settings.old_keks]
    if settings.second_kek is not None:
        uris.append(settings.second_kek)
    return {f"{uri.partition(':')[2].partition('?')[0]}_FILE" for uri in uris}


def _has_secret(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return _SECRET.search(stream.read(_MAX_SIZE).decode("utf-8", "replace")) is not None
    except OSError:
        return False


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def _named(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def _remark(problem: str, command: str) -> Remark:
    return Remark("settings", f"{problem}; run: {command}")
