"""Records of KEKs that are sealed with another data key than the current one: sealed anew."""

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db.queries import query
from custody.db.scope import transaction
from custody.keks.proof import RecordSealer, judge, seal_of

_SECONDS = 3.0

log = structlog.get_logger()


async def reseal_records(engine: AsyncEngine, sealer: RecordSealer, prefix: str) -> None:
    """Seal the records of KEKs with the current data key, retired ones too.

    What is there is judged first; a seal that does not hold is taken off, as everywhere: the record
    then counts as none. One that can't be judged now is left.

    Args:
        engine: connections of the role custody_rewrap.
        sealer: judges, and seals.
        prefix: what its seals begin with now.

    Raises:
        DatabaseError: the database can't be asked now.
    """
    async with transaction(engine, _SECONDS) as connection:
        records = await connection.fetch(query("list_keks"))
        for record in records:
            kek_id, there = record["kek_id"], record["seal"]
            if there is None or there.startswith(prefix):
                continue
            word = judge(sealer, kek_id, record)
            if word is False:
                log.error("kek_record_poisoned", kek_id=kek_id, state=record["state"])
                await connection.fetchval(query("doubt_kek"), kek_id, there)
            elif word:
                made = seal_of(sealer, kek_id, record["backend"], record["fingerprint"])
                await connection.fetchval(query("reseal_kek"), kek_id, there, made)
