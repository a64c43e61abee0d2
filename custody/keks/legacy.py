"""Rows that are not sealed yet: how many, and what an operator is to do about them."""

from dataclasses import dataclass

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db.queries import query
from custody.db.scope import transaction

_TIMEOUT_SECONDS = 10.0
# As the database counts them: one more than this is "more than this".
_COUNTED = 100_000

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Unsealed:
    """How many rows are not sealed, counted to 100,001 in all.

    Args:
        wraps: those with a wrap of the server's.
        zero_knowledge: those in zero-knowledge mode.
    """

    wraps: int
    zero_knowledge: int

    def __bool__(self) -> bool:
        """Whether there is any."""
        return self.total > 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.wraps + self.zero_knowledge

    def __str__(self) -> str:
        """Say how many there are, as the beginning of a sentence."""
        if self.total > _COUNTED:
            return f"more than {_COUNTED} rows are"
        rows, are = ("row", "is") if self.total == 1 else ("rows", "are")
        blobs = f" ({self.zero_knowledge} in zero-knowledge mode)" if self.zero_knowledge else ""
        return f"{self.total} {rows}{blobs} {are}"


async def count_unsealed(engine: AsyncEngine) -> Unsealed:
    """Count the rows that are not sealed; cheap while there are none.

    Args:
        engine: connections of a runtime role.

    Raises:
        DatabaseError: the database can't be asked now.
    """
    async with transaction(engine, _TIMEOUT_SECONDS) as connection:
        (row,) = await connection.fetch(query("count_unsealed"))
    return Unsealed(row["wraps"], row["zero_knowledge"])


class Door:
    """The door for rows that are not sealed: whether it is open, and how many of them there are.

    Args:
        engine: connections of a runtime role.
        is_open: whether such rows are read: ``CUSTODY_LEGACY_ROWS=accept``.
    """

    def __init__(self, engine: AsyncEngine, *, is_open: bool) -> None:
        self._engine = engine
        self._is_open = is_open
        self._counted: Unsealed | None = None

    @property
    def unsealed(self) -> Unsealed | None:
        """How many the last look found; None before the first."""
        return self._counted

    @property
    def problem(self) -> str | None:
        """Why rows are refused, and the cure; None where the last look found none of them."""
        return refusal(self._counted) if self._counted and not self._is_open else None

    @property
    def remark(self) -> str | None:
        """What is to be done while the door is open; None while it is shut."""
        return advice(self._counted) if self._counted is not None and self._is_open else None

    async def look(self) -> None:
        """Count them, and ring when there are more than before: no daemon writes one.

        Raises:
            DatabaseError: the database can't be asked now.
        """
        before, self._counted = self._counted, await count_unsealed(self._engine)
        if before is not None and self._counted.total > before.total:
            log.error("unsealed_rows_rose", rows=self._counted.total, before=before.total)


def refusal(unsealed: Unsealed) -> str:
    """Say what becomes of rows that are not sealed while the door is shut, and the cure.

    Args:
        unsealed: how many there are: one at least.
    """
    return (
        f"{unsealed} not sealed yet and refused: set CUSTODY_LEGACY_ROWS=accept and restart, then "
        "run: custody rewrap run"
    )


def advice(unsealed: Unsealed) -> str:
    """Say what is to be done while the door is open.

    Args:
        unsealed: how many there are.
    """
    if unsealed:
        return f"{unsealed} not sealed yet: run: custody rewrap run"
    return "every row is sealed, and the door for others is open: take CUSTODY_LEGACY_ROWS away"
