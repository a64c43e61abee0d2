"""Stores what became of a claim's rows, with its counts and audit rows: all or nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.audit.events import Action, Event, event_id
from custody.audit.row_seal import RowSeals
from custody.audit.writer import write
from custody.db.engine import Connection
from custody.db.queries import query
from custody.db.scope import transaction
from custody.rewrap.claims import Claim
from custody.rewrap.rows import Row, SealedRow, UnsealedRow
from custody.rewrap.runs import LEASE_SECONDS, Run
from kek_backends.base import Wrap

_FAILED = 500
# How long a claim that could not be done is left alone.
_REST_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Sealed:
    """A row that was not sealed, and what is stored of it.

    Args:
        row: as it was read.
        wrap: the new one, of the present format; None where the server has none.
        key_check: the key check value; None where the server has not held the key.
        seal: of the row as it is then.
    """

    row: UnsealedRow
    wrap: Wrap | None
    key_check: str | None = field(repr=False)
    seal: str = field(repr=False)


class Resealed(NamedTuple):
    """A row that was sealed with a predecessor, and what is stored of it.

    Args:
        row: as it was read.
        wrap: the new one; None: what is there stays.
        seal: of the row as it is then; None: what is there does not hold, and stays.
        reason: for what the row is set aside; None: it is not.
    """

    row: SealedRow
    wrap: Wrap | None
    seal: str | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """What became of the rows of a claim.

    Args:
        wrapped: rows with their new wraps.
        set_aside: rows whose wrap does not open, with the reason.
        left: how many could not be done now: the claim is left for another time.
        sealed: rows that were brought over.
        resealed: rows that were sealed with a predecessor.
    """

    wrapped: Sequence[tuple[Row, Wrap]]
    set_aside: Sequence[tuple[Row | UnsealedRow | SealedRow, str]]
    left: int
    sealed: Sequence[Sealed] = ()
    resealed: Sequence[Resealed] = ()


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows done, changed by somebody else meanwhile, and set aside."""

    done: int
    moved: int
    failed: int


class LostClaim(Exception):
    """Another process has reclaimed or stored it, or its run has ended: nothing was stored now."""


async def store(
    engine: AsyncEngine,
    run: Run,
    owner: str,
    claim: Claim,
    done: Done,
    *,
    seals: RowSeals | None = None,
) -> Counts:
    """Store what became of a claim, its counts and its audit rows, all or nothing.

    Args:
        engine: connections of the role custody_rewrap.
        run: of which run.
        owner: our name.
        claim: the claim.
        done: what became of it.
        seals: make the seals of its audit rows.

    Raises:
        LostClaim: it is not ours any more.
        RetiredKek: the target was retired meanwhile.
        DatabaseError: the database can't be asked now.
    """
    async with transaction(engine) as connection:
        if await _let_go(connection, claim, owner, done) is None:
            raise LostClaim
        stored = await _store_wraps(connection, run, done.wrapped)
        stored += await _store_sealed(connection, run, done.sealed)
        failed = await _set_aside(connection, done.set_aside, seals)
        resealed, aside = await _store_resealed(connection, run, done.resealed, seals)
        stored += resealed
        failed += aside
        made = map(len, (done.wrapped, done.sealed, done.set_aside, done.resealed))
        counts = Counts(done=stored, moved=sum(made) - stored - failed, failed=failed)
        # Last, for whoever claims or stores waits here; and it says whether the run goes on.
        parameters = run.id, counts.done, counts.moved, counts.failed
        if await connection.fetchval(query("add_rewrap_counts"), *parameters) is None:
            raise LostClaim
    return counts


async def _let_go(connection: Connection, claim: Claim, owner: str, done: Done) -> int | None:
    """End a claim, or leave what is still to do in it to another process."""
    if done.left:
        ago = LEASE_SECONDS - _REST_SECONDS
        found = await connection.fetchval(query("abandon_rewrap_claim"), claim.id, owner, ago)
    elif claim.more:
        last = claim.rows[-1].user_id
        found = await connection.fetchval(query("shorten_rewrap_claim"), claim.id, owner, last)
    else:
        found = await connection.fetchval(query("end_rewrap_claim"), claim.id, owner)
    return None if found is None else int(found)


async def _store_wraps(
    connection: Connection, run: Run, wrapped: Sequence[tuple[Row, Wrap]]
) -> int:
    if not wrapped:
        return 0
    stored = await connection.fetchval(
        query("store_rewrapped"),
        [row.user_id for row, _ in wrapped],
        [row.row_version for row, _ in wrapped],
        [wrap.wrapped_mk for _, wrap in wrapped],
        [wrap.wrap_iv for _, wrap in wrapped],
        [wrap.kek_id for _, wrap in wrapped],
        run.started_at,
    )
    return int(stored)


async def _store_sealed(connection: Connection, run: Run, sealed: Sequence[Sealed]) -> int:
    if not sealed:
        return 0
    stored = await connection.fetchval(
        query("seal_rows"),
        [one.row.user_id for one in sealed],
        [one.row.row_version for one in sealed],
        [one.wrap and one.wrap.wrapped_mk for one in sealed],
        [one.wrap and one.wrap.wrap_iv for one in sealed],
        [one.wrap and one.wrap.kek_id for one in sealed],
        [one.key_check for one in sealed],
        [one.seal for one in sealed],
        run.started_at,
    )
    return int(stored)


async def _store_resealed(
    connection: Connection, run: Run, resealed: Sequence[Resealed], seals: RowSeals | None
) -> tuple[int, int]:
    """Return how many are done, and how many were set aside."""
    if not resealed:
        return 0, 0
    (found,) = await connection.fetch(
        query("reseal_rows"),
        run.data_key,
        [one.row.user_id for one in resealed],
        [one.row.row_version for one in resealed],
        [one.wrap and one.wrap.wrapped_mk for one in resealed],
        [one.wrap and one.wrap.wrap_iv for one in resealed],
        [one.wrap and one.wrap.kek_id for one in resealed],
        [one.seal for one in resealed],
        [one.reason for one in resealed],
        run.started_at,
    )
    aside = set(found["set_aside"])
    for one in resealed:
        if one.row.user_id in aside:
            context = "unwrap-failed" if one.seal else "row-tampered"
            await write(connection, _event(one.row.user_id, context), seals)
    return found["stored"] - len(aside), len(aside)


async def _set_aside(
    connection: Connection,
    damaged: Sequence[tuple[Row | UnsealedRow | SealedRow, str]],
    seals: RowSeals | None,
) -> int:
    if not damaged:
        return 0
    found = await connection.fetch(
        query("quarantine_rows"),
        [row.user_id for row, _ in damaged],
        [row.row_version for row, _ in damaged],
        [reason for _, reason in damaged],
    )
    for row in found:
        await write(connection, _event(row["user_id"]), seals)
    return len(found)


def _event(user_id: str, context: str = "unwrap-failed") -> Event:
    return Event(
        id=event_id(),
        user_id=user_id,
        ip_address=None,
        user_agent=None,
        action=Action.REWRAP_FAILED,
        context=context,
        status=_FAILED,
    )
