"""Holds what is there after a fault against a ledger: what was acknowledged stands, and no more.

``judge`` needs nothing but entries and rows, and so can be shown what is wrong; ``check`` asks
daemons and a database for them, and looks at what else must hold.
"""

import asyncio
import json
import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from itertools import accumulate, chain
from typing import Any

import aiohttp
import asyncpg

from tests.db.command import custody
from tests.eventually import eventually
from tests.ledger import RENEWALS, Entry, Ledger

# What the state of a vault, or too many requests at once, explains.
_REFUSALS = frozenset(
    {
        (400, "RECOVERY_WRAP_MISSING"),
        (404, "VAULT_NOT_INITIALISED"),
        (409, "MASTER_KEY_MISMATCH"),
        (409, "ROTATION_PENDING"),
        (409, "ZK_ACTIVE"),
        (409, "ZK_ROTATE_FORBIDDEN"),
        (412, "STALE_GENERATION"),
        (429, "RATE_LIMITED"),
    }
)
# Refused before it was an action of a user: no row.
_NO_ACTIONS = frozenset({401, 429})
# Committed with an answer that was lost on the way to the daemon, and then said to be unknown.
_UNKNOWN_ROWS = frozenset({"OUTCOME_UNKNOWN", "AUDIT_UNAVAILABLE"})
_ACTIONS: Mapping[str, frozenset[str]] = {
    "key": frozenset({"fetch", "failed_fetch"}),
    "init": frozenset({"init"}),
    "rotate": frozenset({"rotate"}),
    "begin_rotation": frozenset({"rotation_begin"}),
    "end_rotation": frozenset({"rotation_end"}),
    "set_recovery": frozenset({"recovery_set"}),
    "clear_recovery": frozenset({"recovery_clear"}),
    "enable_zk": frozenset({"zk_enable"}),
    "disable_zk": frozenset({"zk_disable"}),
    "status": frozenset(),
}
BROKEN_ROWS = (
    "SELECT user_id FROM auth.encryption_vaults WHERE NOT ("
    " (wrapped_mk IS NOT NULL OR recovery_wrapped_mk IS NOT NULL)"
    " AND (wrapped_mk IS NULL) = (wrap_iv IS NULL)"
    " AND (previous_wrapped_mk IS NULL) = (previous_wrap_iv IS NULL)"
    " AND (previous_wrapped_mk IS NULL) = (previous_generation IS NULL)"
    " AND (previous_wrapped_mk IS NULL OR wrapped_mk IS NOT NULL)"
    " AND coalesce(previous_generation < generation, true)"
    " AND (recovery_wrapped_mk IS NULL) = (recovery_iv IS NULL)"
    " AND zero_knowledge = (wrapped_mk IS NULL)"
    " AND (NOT zero_knowledge OR recovery_wrapped_mk IS NOT NULL))"
)
_CHECKS = (
    "SELECT conname FROM pg_constraint WHERE contype = 'c' AND NOT convalidated"
    " AND conrelid = 'auth.encryption_vaults'::regclass"
)
_ROWS = (
    "SELECT user_id, action, status, coalesce(user_agent, '') AS agent"
    " FROM auth.encryption_vault_audit WHERE user_id = ANY($1::text[]) ORDER BY number"
)
# A session that was left in a transaction, or one that waits for it.
_LEFT = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND usename LIKE 'custody%'"
    " AND (state LIKE 'idle in transaction%' OR wait_event_type = 'Lock')"
)
_IN_USE = re.compile(r'(?m)^custody_database_connections\{[^}]*state="in-use"[^}]*\} (\S+)$')

_SECONDS_TO_COME_BACK = 5.0


class Kind(StrEnum):
    """What is wrong."""

    LOST = "lost"  # a key, or another change, that was acknowledged
    CHANGED = "changed"  # one generation of a user has two keys
    FOREIGN = "foreign"  # a user saw a key of another one
    STALE = "stale"  # what was read is older than what had been acknowledged before
    UNASKED = "unasked"  # more new keys than anybody has asked for
    ANSWER = "answer"  # an answer that the contract does not have
    AUDIT = "audit"  # rows and answers do not agree
    ROW = "row"  # a CHECK does not hold
    SEAL = "seal"  # `custody verify --all` has a finding
    LEFT = "left"  # connections or transactions that did not come back


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, with nothing secret in it."""

    kind: Kind
    about: str


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the audit."""

    user: str
    action: str
    status: int
    agent: str


async def check(
    ledger: Ledger,
    *,
    database: str,
    environ: Mapping[str, str] | None,
    admins: Sequence[str] = (),
    refusals: frozenset[tuple[int, str]] = frozenset(),
) -> list[Finding]:
    """Look at everything once nobody asks any more, and all serve again.

    Each user is asked for key and status by way of each base of the ledger, so the rows of that
    count as well.

    Args:
        ledger: what was seen.
        database: URL of a role that sees all rows.
        environ: of ``custody verify``: the KEKs, and CUSTODY_OWNER_DATABASE_URL or
            CUSTODY_AUDIT_DATABASE_URL. None: seals are not looked at now.
        admins: bases of the daemons' admin listeners.
        refusals: status and code that are right here besides those of the state table.
    """
    connection = await _connect(database)
    try:
        looks = await asyncio.gather(
            *(
                ledger.ask(user, act, base)
                for user in ledger.users
                for base in ledger.bases
                for act in ("key", "status")
            )
        )
        found = [
            Finding(
                Kind.LOST, f"{one.user}: {one.act} is answered {one.status} {one.code} afterwards"
            )
            for one in looks
            if one.is_failure
        ]
        rows = await read_rows(connection, ledger.users)
        found += judge(ledger.entries, rows, ledger.agent, refusals)
        broken = await connection.fetch(f"{BROKEN_ROWS} UNION ALL {_CHECKS}")
        found += [Finding(Kind.ROW, f"{row[0]}: a CHECK does not hold") for row in broken]
        found += await _left(connection, admins)
    finally:
        await connection.close()
    return found if environ is None else found + await asyncio.to_thread(verify, environ)


async def _connect(database: str) -> "asyncpg.Connection[Any]":
    """Connect, once the server is there: it may have crashed in the last moment of a fault."""

    async def connected() -> list["asyncpg.Connection[Any]"]:
        try:
            return [await asyncpg.connect(database)]
        except (OSError, asyncpg.CannotConnectNowError):
            return []

    found: list[asyncpg.Connection[Any]] = await eventually(connected)
    return found[0]


async def read_rows(connection: "asyncpg.Connection[Any]", users: Sequence[str]) -> list[Row]:
    """Return the rows of the audit of users, in the order in which they were written.

    Args:
        connection: of a role that sees all rows.
        users: whose.
    """
    return [Row(*row) for row in await connection.fetch(_ROWS, users)]


async def _left(connection: "asyncpg.Connection[Any]", admins: Sequence[str]) -> list[Finding]:
    async def no_transaction() -> bool:
        return bool(await connection.fetchval(_LEFT) == 0)

    async def no_connection(admin: str) -> bool:
        async with aiohttp.ClientSession() as session, session.get(f"{admin}/metrics") as answer:
            counts = _IN_USE.findall(await answer.text())
        assert counts, "a daemon that has no pool"
        return sum(map(float, counts)) == 0

    looks: list[tuple[str, Callable[[], Awaitable[bool]]]] = [
        ("a transaction was left open", no_transaction),
        *(
            (f"{one}: a connection did not come back", partial(no_connection, one))
            for one in admins
        ),
    ]
    found = []
    for about, look in looks:
        try:
            await eventually(look, _SECONDS_TO_COME_BACK)
        except (AssertionError, aiohttp.ClientError) as error:
            found.append(Finding(Kind.LEFT, f"{about}: {type(error).__name__}"))
    return found


def verify(environ: Mapping[str, str]) -> list[Finding]:
    """Look at all rows and the whole audit by ``custody verify --all``; see :func:`check`."""
    done = custody(environ, "verify", "--all", "--json", seconds=120)
    if done.code == 0:
        return []
    try:
        said = json.loads(done.out)
    except ValueError:
        return [Finding(Kind.SEAL, f"custody verify ended with {done.code}: {done.err[-500:]}")]
    audit = said.get("audit") or {}
    messages = [one["message"] for one in chain(said["findings"], audit.get("findings", ()))]
    return [Finding(Kind.SEAL, one) for one in messages or [f"verify ended with {done.code}"]]


def judge(
    entries: Sequence[Entry],
    rows: Sequence[Row],
    agent: str,
    refusals: frozenset[tuple[int, str]] = frozenset(),
) -> list[Finding]:
    """Hold answers against each other, and rows against answers.

    Args:
        entries: with the looks at key and status that come last.
        rows: of the audit, all of these users, in the order in which they were written.
        agent: how the User-Agent of each entry begins.
        refusals: status and code that are right besides those of the state table.
    """
    found = [
        Finding(Kind.ANSWER, f"{one.act} of {one.user}: {one.status} {one.code}")
        for one in entries
        if one.status not in {None, 200, 503} and (one.status, one.code) not in _REFUSALS | refusals
    ]
    found += _foreign(entries)
    places = {row.agent: place for place, row in enumerate(rows) if row.status == 200}
    # A change and its row are one transaction, and those of one user wait for each other: the rows
    # say which were made, and in which order, of those too that were made after their client left.
    made = {
        one.number: place
        for one in entries
        if (place := places.get(f"{agent}{one.number}")) is not None
    }
    users: dict[str, list[Entry]] = defaultdict(list)
    for one in entries:
        users[one.user].append(one)
    for user, theirs in users.items():
        told = chain(_of_keys(theirs, made), _of_order(theirs), _of_changes(theirs, made))
        found += [Finding(kind, f"{user}: {about}") for kind, about in told]
    return found + list(_of_rows(entries, rows, agent))


def _foreign(entries: Sequence[Entry]) -> Iterator[Finding]:
    owners: dict[str, str] = {}
    for one in entries:
        for key in filter(None, (one.key, one.previous)):
            if (owner := owners.setdefault(key, one.user)) != one.user:
                yield Finding(Kind.FOREIGN, f"{one.user} saw a key of {owner}")


def _of_keys(entries: Sequence[Entry], made: Mapping[int, int]) -> Iterator[tuple[Kind, str]]:
    """One generation is one key; and there are no more generations than were asked for."""
    keys: dict[int, str] = {}
    for one in entries:
        if one.generation is None:
            continue
        for number, key in ((one.generation, one.key), (one.generation - 1, one.previous)):
            if key and keys.setdefault(number, key) != key:
                yield Kind.CHANGED, f"generation {number} has another key"
    seen = {one.generation for one in entries if one.generation is not None}
    if not seen:
        return
    named = {one.generation for one in entries if one.act in RENEWALS and one.status == 200}
    unheard = sum(one.act in RENEWALS and one.is_unknown and one.number in made for one in entries)
    new = max(seen) - min(seen)
    if new > len(named - {min(seen)}) + unheard:
        yield (
            Kind.UNASKED,
            f"{new} new keys; {len(named)} were answered, {unheard} more have their row",
        )


def _of_order(entries: Sequence[Entry]) -> Iterator[tuple[Kind, str]]:
    """What was answered before a request was sent is in what that is answered, or newer."""
    answered = sorted((one.ended, one.generation) for one in entries if one.generation is not None)
    ends = [ended for ended, _ in answered]
    highest = list(accumulate((generation for _, generation in answered), max))
    for one in entries:
        before = bisect_left(ends, one.begun)
        if not before:
            continue
        if one.code in {"VAULT_NOT_INITIALISED", "UNWRAP_FAILED", "ROW_TAMPERED"}:
            yield Kind.LOST, f"{one.act}: {one.code}, and there was a key"
        elif one.says("vaultExists") is False:
            yield Kind.LOST, "there is no vault, and there was a key"
        elif one.generation is not None and one.generation < highest[before - 1]:
            yield (
                Kind.STALE,
                f"{one.act}: generation {one.generation}, and {highest[before - 1]} was answered",
            )


def _of_changes(entries: Sequence[Entry], made: Mapping[int, int]) -> Iterator[tuple[Kind, str]]:
    """What was acknowledged, and that nobody may have undone since, is so in the end."""
    keys = [one for one in entries if one.generation is not None]
    states = [one for one in entries if one.says("vaultExists") is not None]
    if keys and _stands(entries, made, "begin_rotation", {"end_rotation"}):
        last = max(keys, key=lambda one: one.begun)
        if not last.previous:
            yield Kind.LOST, "the key before is gone, and nobody has ended the rotation"
    if not states:
        return
    state = max(states, key=lambda one: one.begun)
    for act, undone_by, name, wanted in (
        ("set_recovery", {"clear_recovery", *RENEWALS}, "hasRecoveryWrap", True),
        ("clear_recovery", {"set_recovery"}, "hasRecoveryWrap", False),
        ("enable_zk", {"disable_zk"}, "zeroKnowledge", True),
        ("disable_zk", {"enable_zk"}, "zeroKnowledge", False),
    ):
        if _stands(entries, made, act, undone_by) and state.says(name) is not wanted:
            yield Kind.LOST, f"{act} was acknowledged, and {name} is {state.says(name)}"


def _stands(
    entries: Sequence[Entry], made: Mapping[int, int], act: str, undone_by: set[str]
) -> bool:
    """Whether a change was acknowledged that no other request has, or may have, undone since."""
    done = [one for one in entries if one.act == act and one.status == 200 and _has_changed(one)]
    if not done:
        return False
    last = max(done, key=lambda one: one.ended)
    its_place = made.get(last.number, -1)
    return not any(
        made.get(one.number, -1) > its_place
        if one.is_unknown
        else one.status == 200 and one.ended > last.begun
        for one in entries
        if one.act in undone_by
    )


def _has_changed(entry: Entry) -> bool:
    """Whether it did what it is named for: without a vault, a rotation only makes one."""
    return entry.act != "begin_rotation" or entry.previous != ""


def _of_rows(entries: Sequence[Entry], rows: Sequence[Row], agent: str) -> Iterator[Finding]:
    """Each answer has its row, with its status; what has none has a row at most."""
    asked = {f"{agent}{one.number}": one for one in entries}
    counts = Counter(row.agent for row in rows)
    for row in rows:
        entry = asked.get(row.agent)
        if entry is None or entry.user != row.user:
            yield Finding(Kind.AUDIT, f"{row.user}: a row of {row.action} that nobody asked for")
        elif row.action not in _ACTIONS[entry.act]:
            yield Finding(Kind.AUDIT, f"{row.user}: {entry.act} has a row of {row.action}")
        elif not _may_say(entry, row.status):
            yield Finding(
                Kind.AUDIT,
                f"{row.user}: {entry.act} was answered {entry.status} {entry.code}, "
                f"its row says {row.status}",
            )
    for name, entry in asked.items():
        least, most = _rows_of(entry)
        if not least <= counts[name] <= most:
            yield Finding(
                Kind.AUDIT,
                f"{entry.user}: {entry.act}, {entry.status} {entry.code}: {counts[name]} rows",
            )


def _may_say(entry: Entry, status: int) -> bool:
    return entry.status is None or entry.code in _UNKNOWN_ROWS or entry.status == status


def _rows_of(entry: Entry) -> tuple[int, int]:
    """Return how many rows a request has, at least and at most."""
    if entry.act == "status" or entry.status in _NO_ACTIONS:
        return 0, 0
    if entry.status is None or entry.status >= 500:
        return 0, 1
    return 1, 1
