"""Which kek_ids the database carries, and which of them can't be read with what is configured."""

from collections.abc import Iterable

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db.checkout import acquire
from custody.db.queries import query
from kek_backends.keyring import Keyring
from kek_backends.uri import DATA_KEY_PREFIX


async def kek_ids_in_use(engine: AsyncEngine) -> dict[str, bool]:
    """Return the kek_ids that wraps carry, each with whether rows do, or data keys alone.

    Args:
        engine: connections of a runtime role.
    """
    async with acquire(engine) as connection:
        rows = await connection.fetch(query("list_keks_in_use"))
    return {row["kek_id"]: row["in_rows"] for row in rows}


def unreadable(keyring: Keyring, kek_ids: Iterable[str]) -> tuple[str, ...]:
    """Say which rows can't be unwrapped with what is configured, in one line each.

    Args:
        keyring: what users' keys are wrapped under.
        kek_ids: that rows carry.
    """
    problems = []
    for kek_id in kek_ids:
        backend = keyring.find(kek_id)
        if backend is None and kek_id.startswith(DATA_KEY_PREFIX):
            problems.append(f"rows carry {kek_id}, which is no data key of ours: restore them")
        elif backend is None:
            problems.append(
                f"rows carry the kek_id {kek_id}, and no configured KEK holds it: "
                "list it in CUSTODY_OLD_KEKS"
            )
        elif (refusal := backend.refusal(kek_id)) is not None:
            problems.append(refusal)
    return tuple(problems)
