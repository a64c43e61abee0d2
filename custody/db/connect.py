"""Opens a connection to one of the servers that a URL names, or says why none can be had."""

import asyncio
import getpass
import ipaddress
import math
import os
import random
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from custody.db.diagnosis import KNOWN, NoTls, reason, refusal
from custody.db.dsn import BadUrl, Dsn, Host, Target, parse
from custody.db.errors import Refused, Unreachable
from custody.db.passfile import find_password
from custody.db.plain import in_clear
from custody.db.timelines import Timeline, Timelines
from custody.db.tls import contexts

Connection: TypeAlias = "asyncpg.Connection[Any]"

CONNECT_TIMEOUT_SECONDS = 3.0


# The type has a parameter only where types are checked.
if TYPE_CHECKING:
    _Base: TypeAlias = asyncpg.Connection[Any]
else:
    _Base = asyncpg.Connection


class Session(_Base):
    """A connection that knows what its URL wants of the server."""

    # Of its URL, which wants a primary; else None.
    timelines: Timelines | None = None
    timeline: Timeline | None = None
    # Of a transaction on it the server has said that no synchronous standby has confirmed it.
    is_unreplicated = False

    @property
    def is_demoted(self) -> bool:
        """Whether the server is the primary no more, though the URL wants one.

        PostgreSQL says that it takes no writes, from 14 on, with the answer to the first statement
        after it came to be. To one that does not know itself we have seen a successor.
        """
        if self.timelines is None or self.is_closed():
            return False
        if self.timelines.is_past(self.timeline):
            return True
        said = self.get_settings()
        names = ("default_transaction_read_only", "in_hot_standby")
        return any(getattr(said, name, "off") == "on" for name in names)


def _note(session: Any, message: Any) -> None:
    """Take note of a warning; it is heard before the answer that it comes with.

    The function's name is the same in every language of the server and in all its versions; the
    code, 01000, is that of any warning.
    """
    if message.server_source_function == "SyncRepWaitForLSN":
        session.is_unreplicated = True


@dataclass(frozen=True, slots=True)
class Manner:
    """How a connection is used.

    Args:
        statement_timeout: seconds that a statement may take; None: without limit.
        cached_statements: prepared statements that are kept.
        within: seconds that all hosts together have, each a share of what is left: who waits for
            the connection gives up soon after. None: each has its time in full.
    """

    statement_timeout: float | None
    cached_statements: int
    within: float | None = None


@dataclass(frozen=True, slots=True)
class _Login:
    """What is the same for all hosts."""

    target: Target
    manner: Manner
    user: str
    database: str
    timelines: Timelines


async def connect(
    dsn: Dsn, manner: Manner, *, variable: str, timelines: Timelines | None = None
) -> Connection:
    """Connect to the first host that takes us and is what the URL wants.

    Each address of each host has a time of its own, so that one which never answers keeps no other
    from being tried.

    Args:
        dsn: of a role.
        manner: how the connection is used.
        variable: which setting the URL is, for messages.
        timelines: of its servers, as far as they were seen.

    Raises:
        Refused: it can't work as it is: the URL, the role, the password, a certificate; or it
            would be in clear over a network.
        Unreachable: no server can be reached now.
    """
    try:
        target = parse(dsn.url, os.environ)
        if not dsn.plain and (problem := in_clear(target)):
            raise BadUrl(f"{problem}, or allow it: CUSTODY_ALLOW_PLAIN=database")
        user = target.user or _user_of_process()
        login = _Login(target, manner, user, target.database or user, timelines or Timelines())
        return await _first_that_takes_us(login)
    except BadUrl as error:
        raise Refused(f"{variable}: {error}") from None
    except Unreachable as error:
        raise Unreachable(f"{variable}: {error}") from None


def _user_of_process() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a process of a user without a name
        raise BadUrl("name the role: postgresql://role:password@host:5432/database") from None


async def _first_that_takes_us(login: _Login) -> Connection:
    target = login.target
    hosts = list(target.hosts)
    if target.shuffled:
        random.shuffle(hosts)
    sessions = ("standby", "any") if target.session == "prefer-standby" else (target.session,)
    tries = [(session, host) for session in sessions for host in hosts]
    time = _Time(target.connect_timeout or CONNECT_TIMEOUT_SECONDS, login.manner.within)
    reasons: list[str] = []
    for place, (session, host) in enumerate(tries):
        others = len(tries) - place - 1
        try:
            async with asyncio.timeout(time.share(1 + others)):
                addresses = await _addresses(host, shuffled=target.shuffled)
        except OSError as error:
            reasons.append(f"{host}: {reason(error)}")
            continue
        for number, address in enumerate(addresses):
            seconds = time.share(len(addresses) - number + others)
            try:
                return await _connect_to(login, session, host, address, seconds)
            except KNOWN as error:
                if said := refusal(error):
                    raise BadUrl(f"{host}: {said}") from None
                reasons.append(f"{host}: {reason(error)}")
    raise Unreachable(f"no connection to the database at {'; '.join(dict.fromkeys(reasons))}")


class _Time:
    """The time that one place has.

    Args:
        most: seconds for any.
        within: seconds for all together; None: each has its time in full.
    """

    def __init__(self, most: float, within: float | None) -> None:
        self._most = most
        self._clock = asyncio.get_running_loop().time
        self._until = self._clock() + (within or math.inf)

    def share(self, among: int) -> float:
        """Return the seconds of the next one of so many."""
        return min(self._most, (self._until - self._clock()) / among)


async def _addresses(host: Host, *, shuffled: bool) -> list[str]:
    if host.is_socket:
        return [host.name]
    known = host.address or host.name
    try:
        ipaddress.ip_address(known)
    except ValueError:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host.name, host.port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
        if shuffled:
            random.shuffle(addresses)
        return addresses
    return [known]


async def _connect_to(
    login: _Login, session: str, host: Host, address: str, seconds: float
) -> Connection:
    target, clock = login.target, asyncio.get_running_loop().time
    until = clock() + seconds
    # An empty one where there is none, so that asyncpg does not look into HOME by itself.
    password = target.password or find_password(target.passfile, host, login.user, login.database)
    ways = (None,) if host.is_socket else contexts(target.tls, host.name)
    for context in ways:
        try:
            made = await asyncpg.connect(
                host=address,
                port=host.port,
                user=login.user,
                password=password or "",
                database=login.database,
                ssl=context or False,
                direct_tls=target.tls.direct if context else False,
                target_session_attrs=SessionAttribute(session),
                timeout=until - clock(),
                command_timeout=login.manner.statement_timeout,
                statement_cache_size=login.manner.cached_statements,
                server_settings=dict(target.settings),
                connection_class=Session,
            )
        except (asyncpg.InvalidAuthorizationSpecificationError, ssl.SSLError):
            # It may take the other way: libpq tries it, too, for allow and prefer.
            if context is ways[-1]:
                raise
        except ConnectionError as error:
            # asyncpg has no type for it.
            if type(error) is not ConnectionError or "rejected SSL upgrade" not in str(error):
                raise
            if context is ways[-1]:
                raise NoTls from None
        else:
            made.add_log_listener(_note)
            if target.wants_writes:
                made.timelines = login.timelines
                made.timeline = await login.timelines.admit(made, until)
            return made
    raise AssertionError("there is at least one way")
