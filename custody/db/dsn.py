"""A database URL, read strictly and once: what it says, or why it can never work.

The form is libpq's (PostgreSQL documentation, "Connection URIs" and "Parameter Key Words"). What
libpq knows is honoured, ignored because it changes nothing here, or refused with the cure.
"""

import difflib
import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

DEFAULT_PORT: Final = 5432
APPLICATION_NAME: Final = "custody"

_MAX_PORT = 65535
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")
_AUTHORITY = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*)(?::(?P<port>.*))?")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ENCODE = "percent-encode special characters (@ is %40, / is %2F, # is %23, ? is %3F, % is %25)"

SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
SESSION_ATTRIBUTES: Final = (
    *("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
)
TLS_VERSIONS: Final = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")

# name → the values that are honoured; None: any.
_HONOURED: Final[dict[str, tuple[str, ...] | None]] = {
    "host": None,
    "port": None,
    "dbname": None,
    "user": None,
    "password": None,
    "passfile": None,
    "connect_timeout": None,
    "application_name": None,
    "options": None,
    "sslmode": SSL_MODES,
    "sslcert": None,
    "sslkey": None,
    "sslpassword": None,
    "sslrootcert": None,
    "sslcrl": None,
    "sslnegotiation": ("postgres", "direct"),
    "ssl_min_protocol_version": TLS_VERSIONS,
    "ssl_max_protocol_version": TLS_VERSIONS,
    "target_session_attrs": SESSION_ATTRIBUTES,
    "load_balance_hosts": ("disable", "random"),
}
# name → the values that may stand there, for they change nothing here; None: any.
IGNORED: Final[dict[str, tuple[str, ...] | None]] = {
    "channel_binding": ("disable", "prefer"),
    "client_encoding": ("auto", "utf8", "UTF8", "utf-8", "UTF-8"),
    "fallback_application_name": None,
    "gssencmode": ("disable", "prefer"),
    "gssdelegation": ("0",),
    "keepalives": None,
    "keepalives_idle": None,
    "keepalives_interval": None,
    "keepalives_count": None,
    "pgbouncer": None,
    "sslcompression": ("0",),
    "sslsni": ("1",),
    "tcp_user_timeout": None,
}
_TLS_INSTEAD = "take it out, and set sslmode=verify-full, which makes sure of the server"
# name → what to do instead.
_REFUSED: Final = {
    "channel_binding": _TLS_INSTEAD,
    "client_encoding": "take it out: custody speaks UTF-8",
    "gssencmode": "take it out, and set sslmode=verify-full",
    "gssdelegation": "take it out: Kerberos is not supported",
    "gsslib": "take it out: Kerberos is not supported",
    "krbsrvname": "take it out: Kerberos is not supported",
    "hostaddr": "write the address as the host, or use a name that resolves",
    "replication": "take it out: custody is no replica",
    "require_auth": _TLS_INSTEAD,
    "requirepeer": "take it out, and let nobody else write to the socket's folder",
    "require_peer": "take it out, and let nobody else write to the socket's folder",
    "service": "write what the service file says into the URL",
    "servicefile": "write what the service file says into the URL",
    "sslcertmode": "take it out: a certificate is sent where sslcert names one",
    "sslcompression": "take it out: TLS compression is unsafe",
    "sslcrldir": "name one file by sslcrl",
    "sslkeylogfile": "take it out: it writes keys into a file",
    "sslsni": "take it out: the host's name is always sent",
    "ssl_min_protocol_version": "write TLSv1.2 or TLSv1.3",
}


class BadUrl(ValueError):
    """The URL can never work. The message names the cure, and nothing of the URL but parameters."""


@dataclass(frozen=True, slots=True)
class Dsn:
    """A database URL; it holds a password, so its repr shows nothing."""

    url: str

    def __repr__(self) -> str:
        return "Dsn(…)"


@dataclass(frozen=True, slots=True)
class Host:
    """Where a server may be.

    Args:
        name: a host name or an address, or, beginning with a slash, the folder of a socket.
        port: 1 to 65535.
    """

    name: str
    port: int

    @property
    def is_socket(self) -> bool:
        """Whether it is reached through the file system."""
        return self.name.startswith("/")

    def __str__(self) -> str:
        if self.is_socket:
            return f"{self.name}/.s.PGSQL.{self.port}"
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


@dataclass(frozen=True, slots=True)
class Tls:
    """How a connection is protected; the fields are libpq's parameters.

    Args:
        mode: one of SSL_MODES.
        direct: TLS at once, without asking the server first (PostgreSQL 17).
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
        connect_timeout: seconds for each host; None: ours.
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


def parse(url: str) -> Target:
    """Read a database URL.

    Args:
        url: ``postgresql://user:password@host:port/database?parameters``.

    Raises:
        BadUrl: it can never work.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in {"postgresql", "postgres"}:
        raise BadUrl("write postgresql://role:password@host:5432/database")
    if "#" in rest or _BAD_PERCENT.search(rest):
        raise BadUrl(_ENCODE)
    place, _, query = rest.partition("?")
    authority, _, database = place.partition("/")
    credentials, _, hosts = authority.rpartition("@")
    # libpq ends a password at the first @, others at the last: one in between may be a part of it.
    if any("@" in part for part in (credentials, database, query)):
        raise BadUrl(_ENCODE)
    if any(ord(character) <= ord(" ") for character in rest):
        raise BadUrl(f"there is white space in it; {_ENCODE}")
    given = _parameters(query)
    user, _, password = credentials.partition(":")
    return Target(
        hosts=_hosts(given.get("host"), given.get("port"), hosts),
        user=given.get("user") or unquote(user) or None,
        password=given.get("password") or unquote(password) or None,
        database=given.get("dbname") or unquote(database) or None,
        tls=_tls(given),
        passfile=given.get("passfile"),
        connect_timeout=_timeout(given.get("connect_timeout")),
        session=given.get("target_session_attrs", "any"),
        shuffled=given.get("load_balance_hosts") == "random",
        settings=_settings(given),
        ignored=tuple(name for name in given if name in IGNORED),
    )


def _parameters(query: str) -> dict[str, str]:
    given: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        name, separator, value = pair.partition("=")
        name, value = unquote(name), unquote(value)
        if not separator:
            raise BadUrl(f"write name=value for each parameter; {_ENCODE}")
        name = "dbname" if name == "database" else name
        if name in given:
            raise BadUrl(f"the parameter {name} is there twice: take one out")
        _check(name, value)
        given[name] = value
    return given


def _check(name: str, value: str) -> None:
    for known in (_HONOURED, IGNORED):
        if name in known:
            allowed = known[name]
            if allowed is None or value in allowed:
                return
            if name in _REFUSED:
                break
            raise BadUrl(f"{name} must be one of {', '.join(allowed)}")
    if name in _REFUSED:
        raise BadUrl(f"the parameter {name} is not supported as it is there: {_REFUSED[name]}")
    near = difflib.get_close_matches(name, (*_HONOURED, *IGNORED, *_REFUSED), 1)
    # It is not shown: it may be a part of a password.
    hint = (
        f"is {near[0]} meant?"
        if near
        else "settings of the server go into options=-c%20name%3Dvalue"
    )
    raise BadUrl(f"it has a parameter that libpq does not know; {hint}")


def _hosts(names: str | None, ports: str | None, authority: str) -> tuple[Host, ...]:
    if names is None:
        given = [_split(part) for part in authority.split(",")]
    else:
        if authority:
            raise BadUrl("hosts are named twice: before the database, and by host=")
        given = [(part, None) for part in names.split(",")]
    # As libpq has it: one port is for all of them.
    listed = ports.split(",") if ports else []
    if len(listed) not in {0, 1, len(given)}:
        raise BadUrl("port= has another number of ports than there are hosts")
    found = []
    for place, (name, port) in enumerate(given):
        default = listed[0 if len(listed) == 1 else place] if listed else str(DEFAULT_PORT)
        found.append(Host(_name(name), _port(port or default)))
    return tuple(found)


def _split(part: str) -> tuple[str, str | None]:
    matched = _AUTHORITY.fullmatch(part)
    if matched is None:
        raise BadUrl(
            f"write host:port, [IPv6 address]:port or %2Ffolder%2Fof%2Fa%2Fsocket; {_ENCODE}"
        )
    host, port = matched["host"], matched["port"]
    return unquote(host.removeprefix("[").removesuffix("]")), port and unquote(port)


def _name(text: str) -> str:
    if not text:
        return "localhost"
    if not text.startswith("/") and not _HOST.fullmatch(text):
        raise BadUrl(f"a host is a name, an address or the folder of a socket; {_ENCODE}")
    return text


def _port(text: str) -> int:
    if text.isascii() and text.isdigit() and 1 <= int(text) <= _MAX_PORT:
        return int(text)
    raise BadUrl(f"a port is a number from 1 to {_MAX_PORT}; {_ENCODE}")


def _tls(given: dict[str, str]) -> Tls:
    root = given.get("sslrootcert")
    mode = given.get("sslmode", "verify-full" if root == "system" else "prefer")
    if root == "system" and mode != "verify-full":
        raise BadUrl("sslrootcert=system needs sslmode=verify-full")
    direct = given.get("sslnegotiation") == "direct"
    if direct and mode in {"disable", "allow", "prefer"}:
        raise BadUrl("sslnegotiation=direct needs sslmode=require, verify-ca or verify-full")
    return Tls(
        mode=mode,
        direct=direct,
        root_cert=root,
        crl=given.get("sslcrl"),
        cert=given.get("sslcert"),
        key=given.get("sslkey"),
        password=given.get("sslpassword"),
        least=given.get("ssl_min_protocol_version"),
        most=given.get("ssl_max_protocol_version"),
    )


def _timeout(text: str | None) -> float | None:
    if text is None or text == "0":  # libpq's word for no limit: ours stays
        return None
    if text.isascii() and text.isdigit():
        return float(text)
    raise BadUrl("connect_timeout is a whole number of seconds")


def _settings(given: dict[str, str]) -> tuple[tuple[str, str], ...]:
    settings = {"application_name": given.get("application_name", APPLICATION_NAME)}
    if "options" in given:
        settings["options"] = given["options"]
    return tuple(settings.items())
