"""The rows that a run has to do: what kinds there are, and pages of them.

Rows that are not sealed have kinds of their own, done only while the door for them is open.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db.engine import Connection
from custody.db.queries import query
from custody.db.scope import transaction
from custody.rewrap.runs import Run
from custody.vault.sealed_state import SealedState
from kek_backends.base import FORMAT_CURRENT, Wrap
from kek_backends.binding import Binding


@dataclass(frozen=True, slots=True, order=True)
class WrapKind:
    """What rows have in common that are done alike: their kek_id and format.

    Args:
        kek_id: of their wraps.
        format_version: of their wraps; with a minus in front where the rows are not sealed.
    """

    kek_id: str
    format_version: int

    @property
    def is_unsealed(self) -> bool:
        """Whether its rows are not sealed."""
        return self.format_version <= 0


# Rows that are not sealed and have no wrap of an old format, whatever their KEK: those in
# zero-knowledge mode, and those whose seal somebody took. They come first.
UNSEALED = WrapKind("", 0)
# Rows that are sealed with a predecessor of a deep run's data key, whatever their wraps. They come
# next, so that none is done twice. (No wrap has such a format.)
SEALED_BEFORE = WrapKind("", 32_767)


class Row(NamedTuple):
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
    key_check: str | None
    row_version: int

    def __repr__(self) -> str:
        """Show nothing that is stored of a key."""
        return f"Row(user_id={self.user_id!r}, generation={self.generation})"

    @property
    def binding(self) -> Binding:
        """What its wrap is bound to, by the columns that the worker does not change."""
        return Binding(self.user_id, self.generation)


@dataclass(frozen=True, slots=True)
class UnsealedRow:
    """A row to bring over, as it was read.

    Args:
        user_id: whose.
        state: what its seal is made of; its key check value may be missing.
        wrap: what it has now, of any format; None where the server has none.
        row_version: guards the change.
    """

    user_id: str
    state: SealedState = field(repr=False)
    wrap: Wrap | None
    row_version: int

    @property
    def binding(self) -> Binding:
        """What its new wrap is bound to."""
        return Binding(self.user_id, self.state.generation)


class SealedRow(NamedTuple):
    """A row to seal anew, as it was read.

    Args:
        user_id: whose.
        seal: what it has now; to be judged.
        state: what that should be made of.
        wrap: what it has now; None where the server has none.
        row_version: guards the change.
        is_set_aside: whether an earlier run has set it aside.
    """

    user_id: str
    seal: str
    state: SealedState
    wrap: Wrap | None
    row_version: int
    is_set_aside: bool


Rows: TypeAlias = tuple[Row, ...] | tuple[UnsealedRow, ...] | tuple[SealedRow, ...]


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
    there = [WrapKind(row["kek_id"], row["format_version"]) for row in rows]
    # Of an old format there may be both: rows that are not sealed yet, and sealed ones that
    # somebody has tampered with.
    unsealed = [
        WrapKind(kind.kek_id, -kind.format_version)
        for kind in there
        if kind.format_version < FORMAT_CURRENT
    ]
    # The order of the cursor is ours, whatever the database's collation.
    before = () if run.data_key is None else (SEALED_BEFORE,)
    stale = (kind for kind in there if is_to_do(kind, run))
    return tuple(sorted({UNSEALED, *before, *unsealed, *stale}))


def is_to_do(kind: WrapKind, run: Run) -> bool:
    """Say what stale means: another KEK, another format, or not sealed."""
    return run.everything or kind != WrapKind(run.target, FORMAT_CURRENT)


async def page(
    connection: Connection,
    run: Run,
    kind: WrapKind,
    *,
    above: str = "",
    up_to: str | None = None,
    size: int,
) -> Rows:
    """Read rows to do of one kind, in the order of users.

    Args:
        connection: a transaction.
        run: whose rows.
        kind: their kek_id and format.
        above: users after this one.
        up_to: and up to this one.
        size: so many at most.
    """
    if kind == SEALED_BEFORE and run.data_key is not None:
        parameters = run.data_key, above, up_to, run.started_at, size
        rows = await connection.fetch(query("read_sealed_before"), *parameters)
        return tuple(_sealed_row(row) for row in rows)
    if kind.is_unsealed:
        bounds = kind.kek_id, -kind.format_version, above, up_to, size
        rows = await connection.fetch(query("read_unsealed"), *bounds)
        return tuple(_unsealed_row(row) for row in rows)
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


def _unsealed_row(row: Mapping[str, Any]) -> UnsealedRow:
    return UnsealedRow(row["user_id"], SealedState.of(row), _wrap(row), row["row_version"])


def _sealed_row(row: Iterable[Any]) -> SealedRow:
    # By place, in the order of the query: to look up each by its name takes four times as long.
    user_id, seal, row_version, is_set_aside, wrapped_mk, iv, format_version, kek_id, *state = row
    wrap = None if wrapped_mk is None else Wrap(wrapped_mk, iv, format_version, kek_id)
    return SealedRow(user_id, seal, SealedState(*state), wrap, row_version, is_set_aside)


def _wrap(row: Mapping[str, Any]) -> Wrap | None:
    if row["wrapped_mk"] is None:
        return None
    return Wrap(row["wrapped_mk"], row["wrap_iv"], row["format_version"], row["kek_id"])
