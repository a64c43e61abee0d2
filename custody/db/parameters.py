"""What the parameters of a database URL mean here: honoured, of no effect, or refused with a cure.

Their names and values are libpq's (PostgreSQL documentation, "Parameter Key Words" and "Environment
Variables").
"""

import difflib
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

ENCODE: Final = (
    "percent-encode special characters (@ is %40, / is %2F, # is %23, ? is %3F, % is %25)"
)
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")

SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
SESSION_ATTRIBUTES: Final = (
    *("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
)
TLS_VERSIONS: Final = ("TLSv1.2", "TLSv1.3")

# name → the values that are honoured; None: any.
HONOURED: Final[Mapping[str, tuple[str, ...] | None]] = {
    "host": None,
    "hostaddr": None,
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
IGNORED: Final[Mapping[str, tuple[str, ...] | None]] = {
    "channel_binding": ("disable", "prefer"),
    "client_encoding": ("auto", "utf8", "UTF8", "utf-8", "UTF-8"),
    "fallback_application_name": None,
    "gssencmode": ("disable", "prefer"),
    "gssdelegation": ("0",),
    "keepalives": None,
    "keepalives_idle": None,
    "keepalives_interval": None,
    "keepalives_count": None,
    "max_protocol_version": None,
    "min_protocol_version": ("3.0",),
    "pgbouncer": None,
    "sslcompression": ("0",),
    "sslsni": ("1",),
    "tcp_user_timeout": None,
}
_TLS_INSTEAD = "take it out, and set sslmode=verify-full, which makes sure of the server"
_NO_KERBEROS = "take it out: Kerberos is not supported"
_NO_OAUTH = "take it out, and give the role a password or a client certificate"
_TLS_VERSION = "write TLSv1.2 or TLSv1.3"
# name → what to do instead.
REFUSED: Final[Mapping[str, str]] = {
    "channel_binding": _TLS_INSTEAD,
    "client_encoding": "take it out: custody speaks UTF-8",
    "gssencmode": "take it out, and set sslmode=verify-full",
    "gssdelegation": _NO_KERBEROS,
    "gsslib": _NO_KERBEROS,
    "krbsrvname": _NO_KERBEROS,
    "min_protocol_version": "take it out: custody speaks version 3.0",
    "oauth_issuer": _NO_OAUTH,
    "oauth_client_id": _NO_OAUTH,
    "oauth_client_secret": _NO_OAUTH,
    "oauth_scope": _NO_OAUTH,
    "replication": "take it out: custody is no replica",
    "require_auth": _TLS_INSTEAD,
    "requirepeer": "take it out, and let nobody else write to the socket's folder",
    "scram_client_key": "write the password instead",
    "scram_server_key": "write the password instead",
    "service": "write what the service file says into the URL",
    "servicefile": "write what the service file says into the URL",
    "sslcertmode": "take it out: a certificate is sent where sslcert names one",
    "sslcompression": "take it out: TLS compression is unsafe",
    "sslcrldir": "name one file by sslcrl",
    "sslkeylogfile": "take it out: it writes keys into a file",
    "sslsni": "take it out: the host's name is always sent",
    "ssl_min_protocol_version": _TLS_VERSION,
    "ssl_max_protocol_version": _TLS_VERSION,
}
# A variable of libpq's → what it stands for where the URL does not say it. Others of libpq's change
# nothing here.
VARIABLES: Final[Mapping[str, str]] = {
    "PGHOST": "host",
    "PGHOSTADDR": "hostaddr",
    "PGPORT": "port",
    "PGDATABASE": "dbname",
    "PGUSER": "user",
    "PGPASSWORD": "password",
    "PGPASSFILE": "passfile",
    "PGCONNECT_TIMEOUT": "connect_timeout",
    "PGOPTIONS": "options",
    "PGAPPNAME": "application_name",
    "PGSSLMODE": "sslmode",
    "PGSSLNEGOTIATION": "sslnegotiation",
    "PGSSLCERT": "sslcert",
    "PGSSLKEY": "sslkey",
    "PGSSLROOTCERT": "sslrootcert",
    "PGSSLCRL": "sslcrl",
    "PGSSLCRLDIR": "sslcrldir",
    "PGSSLCERTMODE": "sslcertmode",
    "PGSSLMINPROTOCOLVERSION": "ssl_min_protocol_version",
    "PGSSLMAXPROTOCOLVERSION": "ssl_max_protocol_version",
    "PGTARGETSESSIONATTRS": "target_session_attrs",
    "PGLOADBALANCEHOSTS": "load_balance_hosts",
    "PGCHANNELBINDING": "channel_binding",
    "PGGSSENCMODE": "gssencmode",
    "PGREQUIREAUTH": "require_auth",
    "PGREQUIREPEER": "requirepeer",
    "PGSERVICE": "service",
}


class BadUrl(ValueError):
    """The URL can never work. The message names the cure, and nothing of the URL but parameters."""


def decode(text: str) -> str:
    """Undo the percent-encoding of a part of a URL.

    Raises:
        BadUrl: it is no text that PostgreSQL takes.
    """
    if _BAD_PERCENT.search(text):
        raise BadUrl(ENCODE)
    try:
        decoded = unquote_to_bytes(text).decode()
    except UnicodeError:
        raise BadUrl("what is percent-encoded must be UTF-8") from None
    if "\0" in decoded:
        raise BadUrl("%00 can't be a part of anything")
    return decoded


def read_query(query: str) -> dict[str, str]:
    """Read the parameters of a URL.

    Args:
        query: what follows the question mark.

    Raises:
        BadUrl: one of them can never work.
    """
    given: dict[str, str] = {}
    for place, pair in enumerate(query.split("&") if query else (), start=1):
        name, separator, value = pair.partition("=")
        if not separator:
            raise BadUrl(f"write name=value for each parameter; {ENCODE}")
        name, value = _as_libpq(decode(name), decode(value))
        # It is not shown: it may be a part of a password.
        if name not in HONOURED and name not in IGNORED and name not in REFUSED:
            raise BadUrl(f"parameter {place} is none that libpq knows; {_hint(name)}")
        if name in given:
            raise BadUrl(f"the parameter {name} is there twice: take one out")
        _check(f"the parameter {name}", name, value)
        given[name] = value
    return given


def read_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Read what libpq's variables say, as the parameters that they stand for.

    Args:
        environ: variables.

    Raises:
        BadUrl: one of them can never work.
    """
    given = {}
    for variable, name in VARIABLES.items():
        if value := environ.get(variable):
            _check(f"the variable {variable}", name, value)
            given[name] = value
    return given


def _as_libpq(name: str, value: str) -> tuple[str, str]:
    if (name, value) == ("ssl", "true"):  # libpq takes it from JDBC
        return "sslmode", "require"
    return ("dbname" if name == "database" else name), value


def _hint(name: str) -> str:
    near = difflib.get_close_matches(name, (*HONOURED, *IGNORED, *REFUSED), 1)
    if near:
        return f"is {near[0]} meant?"
    return "settings of the server go into options=-c%20name%3Dvalue"


def _check(what: str, name: str, value: str) -> None:
    allowed: tuple[str, ...] | None = ()
    for known in (HONOURED, IGNORED):
        if name in known:
            allowed = known[name]
            if allowed is None or value in allowed:
                return
    if name in REFUSED:
        raise BadUrl(f"{what} is not supported as it is: {REFUSED[name]}")
    raise BadUrl(f"{what} must be one of {', '.join(allowed or ())}")
