"""Rows that are not sealed yet: how many, and what an operator is to do about them."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db.queries import query
from custody.db.scope import transaction

_TIMEOUT_SECONDS = 10.0
# As the database counts them: one more than this is "more than this".
_COUNTED = 100_000


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
        return self.wraps + self.zero_knowledge > 0

    def __str__(self) -> str:
        """Say how many, in the words of a message."""
        total = self.wraps + self.zero_knowledge
        if total > _COUNTED:
            return f"more than {_COUNTED} rows"
        zero_knowledge = f" ({self.zero_knowledge} in zero-knowledge mode)"
        return (
            f"{total} row{'' if total == 1 else 's'}{zero_knowledge if self.zero_knowledge else ''}"
        )


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


def refusal(unsealed: Unsealed) -> str | None:
    """Say what becomes of them while the door is shut, and the cure; None where there are none.

    Args:
        unsealed: how many there are.
    """
    if not unsealed:
        return None
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
