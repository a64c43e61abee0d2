"""A ledger: clients that keep what they asked, and what they were answered, or that nothing came.

Whatever happens to a daemon, its database or its KMS meanwhile, ``tests/checker.py`` holds what is
there afterwards against it. Each request is known in the audit by its User-Agent, and is sent once:
nothing here tries again.
"""

import asyncio
import base64
import hashlib
import json
import random
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
from cryptography.exceptions import InvalidTag

from tests.e2e.browser import encode, new_recovery_code, open_recovery, seal_recovery
from tests.leaks import remember
from tests.tokens import Issuer

# A daemon answers within ten seconds, whatever happens.
_PATIENCE_SECONDS = 15.0
# What is in the place of a key that the user's recovery code does not open.
UNOPENED = "unopened"

# Each act's method and route.
ROUTES: Mapping[str, tuple[str, str]] = {
    "status": ("GET", "/status"),
    "key": ("GET", "/key"),
    "init": ("POST", "/init"),
    "rotate": ("POST", "/rotate"),
    "begin_rotation": ("POST", "/rotation"),
    "end_rotation": ("DELETE", "/rotation"),
    "set_recovery": ("POST", "/recovery-wrap"),
    "clear_recovery": ("DELETE", "/recovery-wrap"),
    "enable_zk": ("POST", "/zero-knowledge"),
    "disable_zk": ("POST", "/zero-knowledge"),
}
# What makes a new key, and so a new generation.
RENEWALS = frozenset({"rotate", "begin_rotation"})
# These send what only who holds the key can.
_WITH_A_KEY = frozenset({"set_recovery", "disable_zk"})
# How often each is done beside the others.
MIXED: Mapping[str, int] = {
    "key": 10,
    "status": 1,
    "init": 1,
    "rotate": 2,
    "begin_rotation": 1,
    "end_rotation": 2,
    "set_recovery": 3,
    "clear_recovery": 1,
    "enable_zk": 2,
    "disable_zk": 2,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A request, and what became of it.

    Args:
        number: its own; its User-Agent says so.
        user: whose.
        act: one of :data:`ROUTES`.
        begun: when it was sent; monotonic, seconds.
        ended: when its answer was there, or it was given up; infinite while it is under way.
        status: of the answer; None: there was none, and nobody knows what became of it.
        code: of the problem; without an answer what happened instead.
        generation: that the answer names.
        key: a digest of the key in it, or :data:`UNOPENED`.
        previous: a digest of the key before it, where the answer has that.
        said: the fields of an answer that are no secret.
    """

    number: int
    user: str
    act: str
    begun: float
    ended: float = float("inf")
    status: int | None = None
    code: str = ""
    generation: int | None = None
    key: str = ""
    previous: str = ""
    said: tuple[tuple[str, bool], ...] = ()

    @property
    def is_unknown(self) -> bool:
        """Whether a change that was asked for may have been made or not."""
        return self.status is None or self.code == "OUTCOME_UNKNOWN"

    @property
    def is_failure(self) -> bool:
        """Whether a user was not served: no refusal that the state of a vault explains."""
        return self.status is None or self.status >= 500

    def says(self, name: str) -> bool | None:
        """Return a field of the answer, where it has that."""
        return dict(self.said).get(name)


class Ledger:
    """Clients of daemons that share a database.

    Args:
        bases: of the vault routes, one of each daemon or of what stands before them; used in turn.
        issuer: of tokens.
        session: without a connection that is kept: aiohttp sends again what is lost on one.
        claims: of their tokens, where they are not the usual ones.
    """

    def __init__(
        self,
        bases: Sequence[str],
        issuer: Issuer,
        session: aiohttp.ClientSession,
        claims: Mapping[str, object],
    ) -> None:
        self.run = secrets.token_hex(4)
        self.bases = list(bases)
        self._issuer = issuer
        self._session = session
        self._claims = claims
        self._entries: list[Entry] = []
        self._code = new_recovery_code()
        # Of each user the key and the tag that were seen last.
        self._held: dict[str, tuple[str, str]] = {}

    @property
    def entries(self) -> list[Entry]:
        """All of them, in the order that they were sent in."""
        return list(self._entries)

    @property
    def agent(self) -> str:
        """How the User-Agent of each request begins; its number follows."""
        return f"ledger/{self.run}/"

    @property
    def users(self) -> list[str]:
        """Who has asked for anything."""
        return sorted({entry.user for entry in self._entries})

    async def ask(self, user: str, act: str, base: str | None = None) -> Entry:
        """Send one request, once, and keep it with its answer.

        One that needs a key, of a user whose key was not seen yet, asks for the key instead.

        Args:
            user: whose token it has.
            act: one of :data:`ROUTES`.
            base: where to; None: the next one's turn.
        """
        if act in _WITH_A_KEY and user not in self._held:
            act = "key"
        number = len(self._entries) + 1
        entry = Entry(number, user, act, time.monotonic())
        # Kept before it is sent: one that is cancelled is one of which nothing is known.
        self._entries.append(entry)
        base = base or self.bases[number % len(self.bases)]
        try:
            status, headers, answer = await self._send(entry, base)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            entry = replace(entry, ended=time.monotonic(), code=type(error).__name__)
        else:
            entry = replace(entry, ended=time.monotonic(), status=status)
            entry = self._read(entry, headers, answer)
        self._entries[number - 1] = entry
        return entry

    async def _send(self, entry: Entry, base: str) -> tuple[int, Mapping[str, str], Any]:
        method, path = ROUTES[entry.act]
        body, tag = self._body(entry)
        headers = {
            "Authorization": remember(self._issuer.bearer(entry.user, **self._claims)),
            "User-Agent": f"{self.agent}{entry.number}",
        }
        if tag:
            headers["If-Match"] = tag
        async with self._session.request(
            method, base + path, headers=headers, json=body
        ) as response:
            return response.status, response.headers, json.loads(await response.read())

    def _body(self, entry: Entry) -> tuple[Any, str]:
        """Return what is sent, and the tag of the key that it is of."""
        if entry.act == "enable_zk":
            return {"enable": True}, ""
        if entry.act not in _WITH_A_KEY:
            return None, ""
        key, tag = self._held[entry.user]
        if entry.act == "disable_zk":
            return {"enable": False, "masterKey": key}, tag
        wrapped, iv = seal_recovery(self._code, base64.b64decode(key))
        return {"recoveryWrappedMk": wrapped, "recoveryIv": iv}, tag

    def _read(self, entry: Entry, headers: Mapping[str, str], answer: Any) -> Entry:
        if entry.status != 200:
            return replace(entry, code=str(answer.get("code", "")))
        said = tuple((name, value) for name, value in answer.items() if isinstance(value, bool))
        entry = replace(entry, said=said)
        if "ETag" not in headers:
            return entry
        key = self._open(answer)
        if key:
            self._held[entry.user] = key, headers["ETag"]
        return replace(
            entry,
            generation=int(headers["ETag"].strip('"')),
            key=digest(key) if key else UNOPENED,
            previous=digest(answer.get("previousMasterKey")),
        )

    def _open(self, answer: Mapping[str, Any]) -> str:
        """Return the key of an answer; nothing where the recovery code does not open it."""
        if not answer.get("requiresRecoveryCode"):
            return remember(str(answer["masterKey"]))
        try:
            return encode(open_recovery(self._code, answer))
        except InvalidTag:
            return ""

    def since(self, moment: float) -> Iterator[Entry]:
        """Return those that have ended after a moment, the latest first."""
        for entry in reversed(self._entries):
            if entry.begun < moment - _PATIENCE_SECONDS:
                return
            if moment < entry.ended < float("inf"):
                yield entry

    def errors(self, since: float = 0) -> Counter[str]:
        """Count who was not served since a moment, by code."""
        failed = (entry for entry in self.since(since) if entry.is_failure)
        return Counter(entry.code or str(entry.status) for entry in failed)

    def back(self, cured: float) -> float:
        """Return the seconds from a cure until the last request of all that failed had ended.

        Infinite where none was served after it.
        """
        ended = list(self.since(cured))
        last = max((one.ended for one in ended if one.is_failure), default=cured)
        served = any(one.ended > last for one in ended if not one.is_failure)
        return last - cured if served else float("inf")


def digest(key: str | None) -> str:
    """Return what stands for a key where it must not be shown; nothing for none."""
    return hashlib.sha256(remember(key).encode()).hexdigest()[:16] if key else ""


@asynccontextmanager
async def ledger_of(
    bases: Sequence[str], issuer: Issuer, **claims: object
) -> AsyncIterator[Ledger]:
    """Open a ledger for the length of the block; see :class:`Ledger`."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    patience = aiohttp.ClientTimeout(total=_PATIENCE_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=patience) as session:
        yield Ledger(bases, issuer, session, claims)


@asynccontextmanager
async def going_on(
    ledger: Ledger,
    users: Sequence[str],
    *,
    acts: Mapping[str, int] = MIXED,
    devices: int = 2,
    pause: float = 0.05,
    seed: int = 1,
) -> AsyncIterator[None]:
    """Have users ask for the length of the block; each of them has been answered at its end.

    Args:
        ledger: where it is kept.
        users: who.
        acts: what, and how often beside the others.
        devices: of each user, at once.
        pause: seconds between an answer and the next request of a device.
        seed: of the choice.
    """
    stop, choice = asyncio.Event(), random.Random(seed)  # noqa: S311 - to be repeated

    async def device(user: str) -> None:
        await ledger.ask(user, "init")
        while not stop.is_set():
            for act in choice.choices(list(acts), list(acts.values())):
                await ledger.ask(user, act)
            await asyncio.sleep(choice.uniform(0.5, 1.5) * pause)

    async with asyncio.TaskGroup() as tasks:
        for user in _each(users, devices):
            tasks.create_task(device(user))
        try:
            yield
        finally:
            stop.set()


def _each(users: Sequence[str], devices: int) -> Iterator[str]:
    for _ in range(devices):
        yield from users
