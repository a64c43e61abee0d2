"""Claims: ranges of rows, in the order of the index, each done by one process.

A claim is a lease of fifteen seconds that its owner renews. Once it has expired, another process
reclaims it. What was stored before is not stale any more, so nothing is stored twice; and who lost
a claim stores nothing. Nor does anyone store anything for a run that has ended.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db.engine import Connection
from custody.db.queries import query
from custody.db.scope import transaction
from custody.rewrap.rows import SEALED_BEFORE, Rows, WrapKind, is_to_do, kinds_to_do, page
from custody.rewrap.runs import LEASE_SECONDS, Run, State


@dataclass(frozen=True, slots=True)
class Claim:
    """A range of rows that is ours to do.

    Args:
        id: of the record.
        rows: what is still to do in it; may be empty for one that was reclaimed.
        more: whether there may be more in it than these: it was cut by a process with more rows in
            a claim.
    """

    id: int
    rows: Rows
    more: bool = False


async def claim(
    engine: AsyncEngine, run: Run, owner: str, size: int, readable: Callable[[WrapKind], bool]
) -> Claim | None:
    """Claim the next rows, first those of a claim that has expired.

    Args:
        engine: connections of the role custody_rewrap.
        run: of which run.
        owner: our name.
        size: rows at most.
        readable: whether rows of this kind can be unwrapped here.

    Returns:
        The claim, or None when the cursor is at its end.
    """
    async with transaction(engine) as connection:
        (cursor,) = await connection.fetch(query("lock_rewrap_cursor"), run.id)
        if cursor["state"] != State.RUNNING:
            return None
        reclaimed = await _reclaim(connection, run, owner, size, readable)
        if reclaimed is not None:
            return reclaimed
        at = WrapKind(cursor["cursor_kek_id"], cursor["cursor_format"])
        above = cursor["cursor_user_id"]
        made = await _claim_in(
            connection, run, owner, at, above=above, size=size, readable=readable
        )
        if made is not None:
            return made
        if at == SEALED_BEFORE and await connection.fetchval(query("count_rewrap_claims"), run.id):
            # What is being done there is of other kinds as well: it would be done twice.
            return None
        # Other kinds are looked for only when this one is at its end: the search would pass by
        # what is left in the index of all the rows that were done.
        for kind in await kinds_to_do(connection, run):
            if kind > at:
                made = await _claim_in(connection, run, owner, kind, size=size, readable=readable)
                if made is not None:
                    return made
    return None


async def others_at_work(engine: AsyncEngine, run: Run) -> bool:
    """Say whether claims of the run are left, ours or others'; never of one that has ended."""
    async with transaction(engine) as connection:
        return bool(await connection.fetchval(query("count_rewrap_claims"), run.id))


async def touch(engine: AsyncEngine, ours: Claim, owner: str) -> None:
    """Renew a claim: write its heartbeat."""
    async with transaction(engine) as connection:
        await connection.execute(query("touch_rewrap_claim"), ours.id, owner)


async def rewind(engine: AsyncEngine, run: Run) -> None:
    """Begin again at the first row: some may have become stale behind the cursor.

    Never while somebody works on a claim: its rows would be done twice.
    """
    async with transaction(engine) as connection:
        await connection.fetch(query("lock_rewrap_cursor"), run.id)
        if not await connection.fetchval(query("count_rewrap_claims"), run.id):
            await connection.execute(query("rewind_rewrap_cursor"), run.id)


async def _reclaim(
    connection: Connection, run: Run, owner: str, size: int, readable: Callable[[WrapKind], bool]
) -> Claim | None:
    """Reclaim a claim that has expired, or return None where there is none."""
    while True:
        found = await connection.fetchrow(
            query("reclaim_rewrap_claim"), run.id, owner, LEASE_SECONDS
        )
        if found is None:
            return None
        kind = WrapKind(found["kek_id"], found["format"])
        if readable(kind):
            bounds = {"above": found["above"], "up_to": found["up_to"]}
            rows = await page(connection, run, kind, **bounds, size=size)
            more = len(rows) == size and rows[-1].user_id != found["up_to"]
            return Claim(found["id"], rows, more)
        # Whoever can read its rows finds them in another pass; here they would block the end.
        await connection.execute(query("end_rewrap_claim"), found["id"], owner)


async def _claim_in(
    connection: Connection,
    run: Run,
    owner: str,
    kind: WrapKind,
    *,
    above: str = "",
    size: int,
    readable: Callable[[WrapKind], bool],
) -> Claim | None:
    """Claim the next rows of a kind, or return None where there are none, or none for us."""
    if not (is_to_do(kind, run) and readable(kind)):
        return None
    rows = await page(connection, run, kind, above=above, size=size)
    if not rows:
        return None
    bounds = kind.kek_id, kind.format_version, above, rows[-1].user_id
    claim_id = await connection.fetchval(query("insert_rewrap_claim"), run.id, owner, *bounds)
    return Claim(claim_id, rows)
