"""Opens a connection to one of the servers that a URL names, or says why none can be had."""

import contextlib
import os
import random
import re
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from custody.db.dsn import BadUrl, Dsn, Host, Target, Tls, parse
from custody.db.errors import Refused, Unreachable

Connection: TypeAlias = "asyncpg.Connection[Any]"

CONNECT_TIMEOUT_SECONDS = 3.0
_LEAST_SECONDS = 1.0

_ERRNO = re.compile(r"\[Errno (\d+)\]")
_VERIFIED = ("verify-ca", "verify-full")
# The servers that are there answer so when they take no such login; waiting would not help.
_REFUSALS = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.UndefinedObjectError,
    asyncpg.InvalidParameterValueError,
    asyncpg.CantChangeRuntimeParamError,
)


# What another host, or the same one in a while, may do better.
_PASSING = (
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)


@dataclass(frozen=True, slots=True)
class Manner:
    """How a connection is used.

    Args:
        statement_timeout: seconds that a statement may take; None: without limit.
        cached_statements: prepared statements that are kept.
    """

    statement_timeout: float | None
    cached_statements: int


async def connect(dsn: Dsn, manner: Manner, *, variable: str) -> Connection:
    """Connect to the first host that takes us and is what the URL wants.

    Each host has a time of its own, so that one which never answers keeps no other from being
    tried.

    Args:
        dsn: of a role.
        manner: how the connection is used.
        variable: which setting the URL is, for messages.

    Raises:
        Refused: it can't work as it is: the URL, the role, the password, a certificate.
        Unreachable: no server can be reached now.
    """
    try:
        target = parse(dsn.url)
        tls = _contexts(target.tls)
    except BadUrl as error:
        raise Refused(f"{variable}: {error}") from None
    hosts = list(target.hosts)
    if target.shuffled:
        random.shuffle(hosts)
    reasons: list[str] = []
    for session in _sessions(target.session):
        for host in hosts:
            try:
                return await _connect_to(host, target, session, tls, manner)
            except _REFUSALS as error:
                # Not its detail: only what the server says of the login.
                raise Refused(f"{variable}: {host}: {error.message}; correct the URL") from None
            except ssl.SSLCertVerificationError as error:
                raise Refused(
                    f"{variable}: {host}: its certificate is not accepted: {error.verify_message}; "
                    "correct the host's name, or sslrootcert"
                ) from None
            except _NoTls:
                raise Refused(
                    f"{variable}: {host}: the server speaks no TLS: set ssl=on there, or, where "
                    "nobody is on the way, another sslmode"
                ) from None
            except _PASSING as error:
                reasons.append(f"{host}: {_reason(error)}")
    raise Unreachable(
        f"{variable}: no connection to the database at {'; '.join(dict.fromkeys(reasons))}"
    )


def _sessions(wanted: str) -> tuple[str, ...]:
    return ("standby", "any") if wanted == "prefer-standby" else (wanted,)


class _NoTls(Exception):
    """The server does not take TLS."""


async def _connect_to(
    host: Host,
    target: Target,
    session: str,
    tls: "tuple[ssl.SSLContext | None, ...]",
    manner: Manner,
) -> Connection:
    seconds = target.connect_timeout or max(
        CONNECT_TIMEOUT_SECONDS / len(target.hosts), _LEAST_SECONDS
    )
    ways = (None,) if host.is_socket else tls
    for place, context in enumerate(ways):
        last = place == len(ways) - 1
        try:
            return await asyncpg.connect(
                host=host.name,
                port=host.port,
                user=target.user,
                password=_password(target),
                passfile=target.passfile,
                database=target.database,
                ssl=context or False,
                direct_tls=target.tls.direct if context else None,
                target_session_attrs=SessionAttribute(session),
                timeout=seconds,
                command_timeout=manner.statement_timeout,
                statement_cache_size=manner.cached_statements,
                server_settings=dict(target.settings),
            )
        except asyncpg.InvalidAuthorizationSpecificationError:
            # pg_hba.conf may take the other way: libpq tries it, too, for allow and prefer.
            if last:
                raise
        except ConnectionError as error:
            # asyncpg has no type for it.
            no_tls = type(error) is ConnectionError and "rejected SSL upgrade" in str(error)
            if no_tls and last:
                raise _NoTls from None
            if not no_tls:
                raise
    raise AssertionError("there is at least one way")


def _contexts(tls: Tls) -> "tuple[ssl.SSLContext | None, ...]":
    """Return the ways to try, in order: with TLS, or (None) without."""
    match tls.mode:
        case "disable":
            return (None,)
        case "allow":
            return None, _context(tls)
        case "prefer":
            return _context(tls), None
        case _:
            return (_context(tls),)


def _context(tls: Tls) -> ssl.SSLContext:
    if tls.root_cert == "system":
        context = ssl.create_default_context()
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = tls.mode == "verify-full"
        root = tls.root_cert or _of_home("root.crt")
        if tls.mode in _VERIFIED and root is None:
            raise BadUrl(
                f"sslmode={tls.mode} needs the certificate of the CA: add sslrootcert=/path/to/it, "
                "or sslrootcert=system for those of the operating system"
            )
        if tls.mode in {"require", *_VERIFIED} and root is not None:
            _load(lambda: context.load_verify_locations(cafile=root), "sslrootcert", root)
        else:
            context.verify_mode = ssl.CERT_NONE
    if tls.crl is not None:
        crl = tls.crl
        _load(lambda: context.load_verify_locations(cafile=crl), "sslcrl", crl)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    cert = tls.cert or _of_home("postgresql.crt")
    if cert is not None:
        key = tls.key or _of_home("postgresql.key")
        password = tls.password or ""
        _load(lambda: context.load_cert_chain(cert, key, lambda: password), "sslcert", cert)
    for name, version in (("minimum_version", tls.least), ("maximum_version", tls.most)):
        if version is not None:
            setattr(context, name, ssl.TLSVersion[version.replace(".", "_")])
    return context


def _load(load: Any, parameter: str, path: str) -> None:
    try:
        load()
    except OSError as error:
        # An SSLError is one: of a file that is there and is not what it should be.
        reason = "not such a PEM file" if isinstance(error, ssl.SSLError) else error.strerror
        raise BadUrl(f"{parameter} names {path}: {reason}") from None


def _of_home(name: str) -> str | None:
    """Return a file of libpq's folder in HOME, if it is there and can be read."""
    with contextlib.suppress(OSError, RuntimeError):
        path = Path.home() / ".postgresql" / name
        if os.access(path, os.R_OK):
            return str(path)
    return None


def _password(target: Target) -> str | None:
    """Return the password; None: that of a password file, which asyncpg looks up."""
    given = target.password or os.environ.get("PGPASSWORD")
    if given or target.passfile or os.environ.get("PGPASSFILE"):
        return given
    with contextlib.suppress(OSError, RuntimeError):
        if os.access(Path.home() / ".pgpass", os.R_OK):
            return None
    # An empty one, so that asyncpg does not look into a folder that can't be entered.
    return ""


def _reason(error: Exception) -> str:
    """Say what happened, without what a library would quote."""
    match error:
        case TimeoutError():
            return "no answer in time"
        case asyncpg.TargetServerAttributeNotMatched():
            return "it is not what target_session_attrs wants"
        case asyncpg.PostgresError():
            return str(error.message)
        case socket.gaierror():
            return error.strerror or "unknown host"
        case OSError():
            # asyncio joins what it met at each address of a name to one text.
            numbers = {error.errno} | {int(one) for one in _ERRNO.findall(str(error))}
            names = {os.strerror(number) for number in numbers if number}
            return ", ".join(sorted(names)) or type(error).__name__
        case _:
            return type(error).__name__
