"""Passwords in libpq's file (PostgreSQL documentation, "The Password File")."""

import re
import stat
from pathlib import Path

from custody.db.dsn import Host
from custody.db.parameters import BadUrl
from custody.db.tls import file_of_home

_FIELD = r"((?:\\.|[^\\:])*)"
_LINE = re.compile(":".join([_FIELD] * 5))


def find_password(passfile: str | None, host: Host, user: str, database: str) -> str | None:
    """Return the password of the first line that fits, or None.

    Args:
        passfile: the file; None: ``.pgpass`` in HOME, if it is there and nobody else's.
        host: where the login is.
        user: the role.
        database: its name.

    Raises:
        BadUrl: the file that is named can't be used.
    """
    text = _read_named(Path(passfile)) if passfile is not None else _read_of_home()
    # As libpq has it for the usual folder; as asyncpg has it for any.
    names = {host.name, "localhost"} if host.is_socket else {host.name}
    for line in text.splitlines():
        matched = None if line.startswith("#") else _LINE.match(line)
        if matched is None:
            continue
        name, port, *rest, password = (re.sub(r"\\(.)", r"\1", one) for one in matched.groups())
        wanted = zip((port, *rest), (str(host.port), database, user), strict=True)
        if name in {"*", *names} and all(has in {"*", want} for has, want in wanted):
            return password
    return None


def _read_named(path: Path) -> str:
    try:
        if _is_open_to_others(path):
            raise BadUrl(f"passfile names {path}, which others may read; run: chmod 600 {path}")
        return path.read_text("utf-8")
    except OSError as error:
        raise BadUrl(f"passfile names {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadUrl(f"passfile names {path}: not UTF-8 text") from None


def _read_of_home() -> str:
    found = file_of_home(".pgpass")
    if found is None or _is_open_to_others(Path(found)):
        return ""
    return Path(found).read_text("utf-8", "replace")


def _is_open_to_others(path: Path) -> bool:
    return bool(path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))
