"""The rows that a run has to do: what kinds there are, and pages of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db.engine import Connection
from custody.db.queries import query
from custody.db.scope import transaction
from custody.rewrap.runs import Run
from kek_backends.base import FORMAT_CURRENT, Wrap
from kek_backends.binding import Binding


@dataclass(frozen=True, slots=True, order=True)
class WrapKind:
    """What rows have in common that are re-wrapped alike: their kek_id and format."""

    kek_id: str
    format_version: int


@dataclass(frozen=True, slots=True)
class Row:
    """A row to re-wrap, as it was read.

    Args:
        user_id: whose.
        generation: of the vault.
        wrap: what it has now.
        key_check: the key check value, where it has one.
        row_version: guards the change.
    """

    user_id: str
    generation: int
    wrap: Wrap
    key_check: str | None = field(repr=False)
    row_version: int

    @property
    def binding(self) -> Binding:
        """What its wrap is bound to, by the columns that the worker does not change."""
        return Binding(self.user_id, self.generation)


async def kinds(engine: AsyncEngine, run: Run) -> tuple[WrapKind, ...]:
    """Return the kinds of rows that the run has to do, in the order of its work."""
    async with transaction(engine) as connection:
        return await kinds_to_do(connection, run)


async def any_left(engine: AsyncEngine, run: Run, readable: Callable[[WrapKind], bool]) -> bool:
    """Say whether there is a row to do that can be unwrapped here."""
    async with transaction(engine) as connection:
        for kind in await kinds_to_do(connection, run):
            if readable(kind) and await page(connection, run, kind, size=1):
                return True
    return False


async def kinds_to_do(connection: Connection, run: Run) -> tuple[WrapKind, ...]:
    """Return the kinds of rows that the run has to do, in the order of its work."""
    rows = await connection.fetch(query("list_wrap_kinds"))
    found = (WrapKind(row["kek_id"], row["format_version"]) for row in rows)
    # The order of the cursor is ours, whatever the database's collation.
    return tuple(sorted(kind for kind in found if is_to_do(kind, run)))


def is_to_do(kind: WrapKind, run: Run) -> bool:
    """Say what stale means: another KEK, or another format."""
    return run.everything or kind != WrapKind(run.target, FORMAT_CURRENT)


async def page(
    connection: Connection,
    run: Run,
    kind: WrapKind,
    *,
    above: str = "",
    up_to: str | None = None,
    size: int,
) -> tuple[Row, ...]:
    """Read rows to do of one kind, in the order of users.

    Args:
        connection: a transaction.
        run: whose rows.
        kind: their kek_id and format.
        above: users after this one.
        up_to: and up to this one.
        size: so many at most.
    """
    rows = await connection.fetch(
        query("read_rewrap_page"),
        kind.kek_id,
        kind.format_version,
        above,
        up_to,
        run.started_at,
        size,
        run.target,
    )
    return tuple(_row(row) for row in rows)


def _row(row: Mapping[str, Any]) -> Row:
    wrap = Wrap(row["wrapped_mk"], row["wrap_iv"], row["format_version"], row["kek_id"])
    return Row(row["user_id"], row["generation"], wrap, row["key_check"], row["row_version"])
