"""Where the machine plays: a database, a daemon in this process, two KEKs."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import aiohttp

from custody.audit.events import event_id
from custody.audit.reading import Reader
from custody.audit.sealer import AuditSealer
from custody.audit.verify import Verification as AuditVerification
from custody.datakeys.envelope import UserKeyring
from custody.datakeys.ring import Ring
from custody.db.erase import Erased, erase_user
from custody.db.erasure_record import Erasure
from custody.development.postgres import EmbeddedPostgres
from custody.rewrap.options import Options
from custody.rewrap.worker import RewrapRun
from custody.vault.audited import compare
from custody.verify.verification import Verification
from kek_backends.keyring import Keyring
from kek_backends.loader import load_keyring
from tests.client import Answer, Client
from tests.db.connecting import engine_of, owner
from tests.e2e.browser import encode
from tests.e2e.test_concurrency import BROKEN_ROWS
from tests.e2e.vault_model import Act, AuditRow, State
from tests.leaks import remember
from tests.servers import Daemon, Database, daemon_here, new_database
from tests.tokens import Issuer

KEKS = {name: remember(encode(f"the machine's KEK {name}".ljust(32).encode())) for name in "AB"}
_END_ALL = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE datname = current_database() AND usename = 'custody_app'"
)
_TURNS_SECONDS = 0.0005


class Stage:
    """A daemon with a database of its own, and users who have never been there.

    Args:
        server: where the database is made.
        folder: for the issuer's keys.
        login: seconds since 1970 at which all users logged in.
    """

    def __init__(self, server: EmbeddedPostgres, folder: Path, login: float) -> None:
        self._server, self._folder, self._login = server, folder, login
        self._issuer = Issuer()
        self._all, self._daemon_alone = AsyncExitStack(), AsyncExitStack()
        self.kek, self.mode = "A", "direct"
        self._database: Database | None = None
        self._daemon: Daemon | None = None
        self._clients: dict[str, Client] = {}

    @property
    def database(self) -> Database:
        """The database."""
        assert self._database is not None
        return self._database

    async def open(self) -> None:
        """Make the database, and start the daemon."""
        made = await self._all.enter_async_context(new_database(self._server))
        self._database = made
        superuser = await self._all.enter_async_context(made.connect())
        self._database = Database(made.server, made.name, superuser)
        await self.start()

    async def close(self) -> None:
        """Stop all."""
        await self._daemon_alone.aclose()
        await self._all.aclose()

    async def start(self, kek: str = "A", mode: str = "direct") -> None:
        """Start the daemon anew, with this KEK as the active one; the other one is still read."""
        await self._daemon_alone.aclose()
        self.kek, self.mode = kek, mode
        self._clients.clear()
        enter = self._daemon_alone.enter_async_context
        keks = {f"raw_KEK_{name}": key for name, key in KEKS.items()}
        here = daemon_here(
            self.database,
            self._issuer,
            self._folder,
            RESET="on",
            KEK=self._uri(kek, mode),
            OLD_KEKS=self._uri("B" if kek == "A" else "A", "direct"),
            AUDIT_SEAL_INTERVAL="1",
            **keks,
        )
        self._daemon = await enter(here)
        self._session = await enter(aiohttp.ClientSession())

    @staticmethod
    def _uri(kek: str, mode: str) -> str:
        return f"env:KEK_{kek}?id=kek-{kek.lower()}&mode={mode}".removesuffix("&mode=direct")

    async def send(self, act: Act) -> Answer:
        """Send a request."""
        daemon = self._daemon
        assert daemon is not None
        if act.user not in self._clients:
            login = self._login
            self._clients[act.user] = Client(daemon, self._session, act.user, auth_time=login)
        client = self._clients[act.user]
        sent: tuple[str | None, ...]
        match act.route:
            case "status" | "key" | "init":
                sent = ()
            case "set_recovery":
                sent = (*act.recovery, act.if_match)
            case "disable_zk":
                sent = (act.key, act.if_match)
            case _:
                sent = (act.if_match,)
        answer: Answer = await getattr(client, act.route)(*sent)
        return answer

    async def trail(self, user: str) -> list[dict[str, Any]]:
        """Return all audit rows that the user's own route shows, the oldest first."""
        shown: list[dict[str, Any]] = []
        before = ""
        while True:
            answer = await self._clients[user].call("GET", f"/audit?limit=200{before}")
            assert answer.status == 200, answer.body
            shown += answer.json["events"]
            if answer.json["next"] is None:
                return shown[::-1]
            before = f"&before={answer.json['next']}"

    async def rows(self, user: str) -> Counter[AuditRow]:
        """Return the user's audit rows."""
        return Counter(await self.database.audit(user))

    async def vault(self, user: str) -> State:
        """Return the user's vault as its row has it, without a floor."""
        row = await self.database.vault(user)
        if not row:
            return State()
        recovery = row["recovery_wrapped_mk"], row["recovery_iv"]
        return State(
            row["generation"],
            row["previous_generation"],
            row["zero_knowledge"],
            None if None in recovery else recovery,
        )

    async def erase(self, user: str) -> Erased:
        """Do as ``custody users erase`` does."""
        return await erase_user(owner(self.database), Erasure(event_id(), user))

    async def break_off(self, act: Act, how: str, turns: int) -> Answer | None:
        """Send a request, and have something happen while it is under way.

        Args:
            act: the request.
            how: ``database``: all of the daemon's connections end; ``client``: it hangs up;
                ``stop``: the daemon is stopped.
            turns: how much later.
        """
        request = asyncio.create_task(self.send(act))
        await asyncio.sleep(turns * _TURNS_SECONDS)
        if how == "database":
            await self.database.value(_END_ALL)
        elif how == "client":
            request.cancel()
        elif how == "stop":
            # It waits for its clients: this one is answered, or its connection ends.
            await asyncio.gather(self._daemon_alone.aclose(), request, return_exceptions=True)
        answer = None
        with suppress(aiohttp.ClientError, asyncio.CancelledError):
            answer = await request
        # Stopped, it has let go of all that was under way: nothing is committed from here on.
        await self.start(self.kek, self.mode)
        return answer

    async def rewrap(
        self, beside: Callable[[], Awaitable[None]], *, deep: bool, batch: int
    ) -> None:
        """Run a re-wrap to its end, with something beside it."""
        async with engine_of(self.database.url("custody_rewrap"), 4) as engine:
            keyring = self._keyring()
            ring = Ring(engine, keyring, ttl=3600, max_age=86_400)
            worker = RewrapRun(
                engine, UserKeyring(keyring, ring), ring, Options(deep=deep, batch=batch)
            )
            run, _ = await asyncio.gather(worker.run(), beside())
            left = await worker.left(run)
        assert (run.state, run.failed, bool(left)) == ("done", 0, False), (run, left)

    def _keyring(self) -> Keyring:
        environ = {f"KEK_{name}": key for name, key in KEKS.items()}
        active = self._uri(self.kek, self.mode)
        old = self._uri("B" if self.kek == "A" else "A", "direct")
        return load_keyring(active, (old,), environ=environ, development=False)

    async def verify(self, users: Sequence[str]) -> None:
        """Do as ``custody verify`` does, and hold the rows against what no CHECK may let in."""
        assert await self.database.value(BROKEN_ROWS) == 0
        async with (
            engine_of(self.database.url("custody_app")) as app,
            engine_of(self.database.url("custody_owner"), 4) as engine,
        ):
            keyring = self._keyring()
            ring = Ring(engine, keyring, ttl=3600, max_age=86_400)
            await ring.load()
            alarms = AsyncMock()
            sealer = AuditSealer(app, ring, 0, alarms)
            while await sealer.seal():
                pass
            found = await Verification(
                engine, UserKeyring(keyring, ring), ring, asyncio.Event(), legacy=False
            ).run(None, 0)
            audit = await AuditVerification(Reader(engine), ring, compare, at_rest=True).run()
        assert (found.findings, found.waiting, found.good) == ([], [], len(users)), found
        assert audit.is_good, audit.findings + audit.unseen
