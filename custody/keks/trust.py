"""Which kek_ids an alias may take for its own: those on record that a data key vouches for."""

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db.checkout import acquire
from custody.db.queries import query
from custody.keks.proof import RecordSealer, judge
from kek_backends.keyring import Keyring


async def tell_what_is_known(
    engine: AsyncEngine, keyring: Keyring, sealer: RecordSealer | None, *, legacy: bool
) -> None:
    """Tell each KEK which kek_ids are on record for its kind; without a data key nothing is.

    Args:
        engine: connections of a runtime role.
        keyring: the configured KEKs.
        sealer: judges the records; without one they are believed.
        legacy: whether records that are not sealed count, too.

    Raises:
        DatabaseError: the database can't be asked now.
    """
    async with acquire(engine) as connection:
        records = await connection.fetch(query("list_keks"))
    words = [sealer is None or judge(sealer, one["kek_id"], one) for one in records]
    if all(word is None for word in words):
        return  # what was told before stays
    known = [
        (one["backend"], one["kek_id"])
        for one, word in zip(records, words, strict=True)
        if word or (legacy and one["seal"] is None)
    ]
    for backend in keyring:
        backend.trust(frozenset(kek for scheme, kek in known if scheme == backend.uri.scheme))
