"""What a connection that could not be made says: that it never can be, or that it may pass."""

import os
import re
import socket
import ssl

import asyncpg

from custody.db.timelines import NotTaken

_ERRNO = re.compile(r"\[Errno (\d+)\]")
# The servers that are there answer so when they take no such login; waiting would not help.
_REFUSALS = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.UndefinedObjectError,
    asyncpg.InvalidParameterValueError,
    asyncpg.CantChangeRuntimeParamError,
)
# The other side ended the connection in the middle of the handshake.
_CUT_OFF = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)


class NoTls(Exception):
    """The server does not take TLS."""


# What a server, a network or the client library may do.
KNOWN = (
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    NoTls,
    NotTaken,
)


def refusal(error: Exception) -> str | None:
    """Return why the server that is there never takes us as the URL is, and the cure; else None."""
    match error:
        case asyncpg.PostgresError() if isinstance(error, _REFUSALS):
            # Not its detail: only what the server says of the login.
            return f"{_message(error)}; correct the URL"
        case ssl.SSLCertVerificationError():
            return (
                f"its certificate is not accepted: {error.verify_message}; "
                "correct the host's name, or sslrootcert"
            )
        case ssl.SSLError() if not isinstance(error, _CUT_OFF):
            return (
                f"TLS is not agreed on: {(error.reason or 'no reason').replace('_', ' ').lower()}; "
                "correct ssl_min_protocol_version, sslcert, or the server's settings of TLS"
            )
        case NoTls():
            return (
                "the server speaks no TLS: set ssl=on there, or, where nobody is on the way, "
                "another sslmode"
            )
        case asyncpg.InterfaceError():
            # The client library does not know what the server asks, or could not verify it.
            return (
                "it asks for a login that custody has not, or is not the server of this password: "
                "let pg_hba.conf there say scram-sha-256 or cert"
            )
        case _:
            return None


def reason(error: Exception) -> str:
    """Say what happened, and may pass, without what a library would quote."""
    match error:
        case TimeoutError():
            return "no answer in time"
        case asyncpg.TargetServerAttributeNotMatched():
            return "it is not what target_session_attrs wants"
        case NotTaken():
            return str(error)
        case asyncpg.PostgresError():
            return _message(error)
        case OSError():
            return _of_the_network(error)
        case _:
            return type(error).__name__


def _of_the_network(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return error.strerror or "unknown host"
    if isinstance(error, ssl.SSLError):
        return "it ended the connection while TLS was agreed on"
    # Where there was no single reason, the loop's text has the numbers of all.
    numbers = {error.errno} | {int(one) for one in _ERRNO.findall(str(error))}
    names = {os.strerror(number) for number in numbers if number}
    return ", ".join(sorted(names)) or type(error).__name__


def _message(error: asyncpg.PostgresError) -> str:
    return str(error.message).partition("\n")[0]
