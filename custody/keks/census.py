"""Which kek_ids the database carries, and which of them can't be read with what is configured."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db.checkout import acquire
from custody.db.queries import query
from kek_backends.keyring import Keyring


async def kek_ids_in_use(engine: AsyncEngine) -> tuple[str, ...]:
    """Return the kek_ids that rows with a wrap, and the wraps of data keys, carry.

    Args:
        engine: connections of a runtime role.
    """
    async with acquire(engine) as connection:
        return tuple(row[0] for row in await connection.fetch(query("list_keks_in_use")))


def unreadable(keyring: Keyring, in_use: Sequence[str]) -> tuple[str, ...]:
    """Say what can't be unwrapped with what is configured, in one line each.

    Args:
        keyring: the configured KEKs.
        in_use: the kek_ids that rows and data keys carry.
    """
    problems = []
    for kek_id in in_use:
        backend = keyring.find(kek_id)
        if backend is None:
            problems.append(
                f"rows carry the kek_id {kek_id}, and no configured KEK holds it: "
                "list it in CUSTODY_OLD_KEKS"
            )
        elif (refusal := backend.refusal(kek_id)) is not None:
            problems.append(refusal)
    return tuple(problems)
