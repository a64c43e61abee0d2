"""A database URL, read strictly and once: what it says, or why it can never work.

The form is libpq's (PostgreSQL documentation, "Connection URIs").
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from custody.db.hosts import Host, read_hosts
from custody.db.parameters import (
    ENCODE,
    IGNORED,
    TLS_VERSIONS,
    BadUrl,
    decode,
    read_query,
    read_variables,
)

__all__ = ["BadUrl", "Dsn", "Host", "Target", "Tls", "parse"]

APPLICATION_NAME: Final = "custody"

_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Dsn:
    """A database URL; it holds a password, so its repr shows nothing.

    Args:
        url: as :func:`parse` takes it.
        plain: whether what goes to it may cross a network in clear.
    """

    url: str
    plain: bool = False

    def __repr__(self) -> str:
        return "Dsn(…)"


@dataclass(frozen=True, slots=True)
class Tls:
    """How a connection is protected; the fields are libpq's parameters.

    Args:
        mode: one of SSL_MODES.
        direct: TLS at once, without asking the server first (PostgreSQL 17).
        root_cert: file of the CAs that are trusted, or ``system`` for the operating system's.
        crl: file of certificates that were revoked.
        cert: file of our own certificate.
        key: file of its key.
        password: of the key.
        least: the oldest version of TLS that is taken.
        most: the newest.
    """

    mode: str = "prefer"
    direct: bool = False
    root_cert: str | None = None
    crl: str | None = None
    cert: str | None = None
    key: str | None = None
    password: str | None = field(default=None, repr=False)
    least: str | None = None
    most: str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL says.

    Args:
        hosts: in the order in which they are tried.
        user: None: the operating system's.
        password: None: that of a password file, if there is one.
        database: None: the user's name.
        tls: how connections are protected.
        passfile: another password file than libpq's.
        connect_timeout: seconds for each address; None: ours.
        session: what the server must be, one of SESSION_ATTRIBUTES.
        shuffled: hosts are tried in any order.
        settings: parameters for the server.
        ignored: names of parameters that change nothing here.
    """

    hosts: tuple[Host, ...]
    user: str | None
    password: str | None = field(repr=False)
    database: str | None
    tls: Tls
    passfile: str | None = None
    connect_timeout: float | None = None
    session: str = "any"
    shuffled: bool = False
    settings: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def wants_writes(self) -> bool:
        """Whether only a server that takes writes will do."""
        return self.session in {"read-write", "primary"}


def parse(url: str, environ: Mapping[str, str] = _NOTHING) -> Target:
    """Read a database URL.

    Args:
        url: ``postgresql://user:password@host:port/database?parameters``.
        environ: variables; those of libpq's say what the URL does not.

    Raises:
        BadUrl: it can never work.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in {"postgresql", "postgres"}:
        raise BadUrl("write postgresql://role:password@host:5432/database")
    if "#" in rest:
        raise BadUrl(ENCODE)
    place, _, query = rest.partition("?")
    authority, _, database = place.partition("/")
    credentials, _, hosts = authority.rpartition("@")
    # libpq ends a password at the first @, others at the last: one in between may be a part of it.
    if any("@" in part for part in (credentials, database, query)):
        raise BadUrl(ENCODE)
    if any(character <= " " for character in rest):
        raise BadUrl(f"there is white space in it; {ENCODE}")
    user, _, password = credentials.partition(":")
    said = {"user": decode(user), "password": decode(password), "dbname": decode(database)}
    parameters = read_query(query)
    variables = read_variables(environ)
    given = variables | {name: value for name, value in said.items() if value} | parameters
    return Target(
        hosts=read_hosts(hosts, parameters, variables),
        user=given.get("user") or None,
        password=given.get("password") or None,
        database=given.get("dbname") or None,
        tls=_tls(given),
        passfile=given.get("passfile") or None,
        connect_timeout=_timeout(given.get("connect_timeout")),
        session=given.get("target_session_attrs", "any"),
        shuffled=given.get("load_balance_hosts") == "random",
        settings=_settings(given),
        ignored=tuple(name for name in parameters if name in IGNORED),
    )


def _tls(given: Mapping[str, str]) -> Tls:
    root = given.get("sslrootcert")
    mode = given.get("sslmode", "verify-full" if root == "system" else "prefer")
    if root == "system" and mode != "verify-full":
        raise BadUrl("sslrootcert=system needs sslmode=verify-full")
    direct = given.get("sslnegotiation") == "direct"
    if direct and mode in {"disable", "allow", "prefer"}:
        raise BadUrl("sslnegotiation=direct needs sslmode=require, verify-ca or verify-full")
    least, most = given.get("ssl_min_protocol_version"), given.get("ssl_max_protocol_version")
    if least and most and TLS_VERSIONS.index(least) > TLS_VERSIONS.index(most):
        raise BadUrl("ssl_min_protocol_version is above ssl_max_protocol_version")
    return Tls(
        mode=mode,
        direct=direct,
        root_cert=root or None,
        crl=given.get("sslcrl") or None,
        cert=given.get("sslcert") or None,
        key=given.get("sslkey") or None,
        password=given.get("sslpassword"),
        least=least,
        most=most,
    )


def _timeout(text: str | None) -> float | None:
    if text is None:
        return None
    if re.fullmatch(r"-?[0-9]{1,9}", text):
        # libpq waits for ever at 0 and below; ours stays.
        return float(text) if int(text) > 0 else None
    raise BadUrl("connect_timeout is a whole number of seconds")


def _settings(given: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    settings = {"application_name": given.get("application_name") or APPLICATION_NAME}
    if given.get("options"):
        settings["options"] = given["options"]
    return tuple(settings.items())
