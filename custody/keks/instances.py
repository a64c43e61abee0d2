"""Which daemons are alive, and which KEKs each of them reads and writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db.queries import query
from custody.db.scope import transaction

_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Instance:
    """A daemon.

    Args:
        id: of this life of it.
        host: where it runs.
        process: its process id.
        writes_uri: URI of its active KEK, with the mode.
        writes_kek_id: what new wraps of users' keys carry; None while its KMS has not answered.
        active_kek_id: what new wraps of data keys carry; None likewise.
        reads: URIs and kek_ids of all its KEKs, and the ids of its data keys.
        seals_with: id of the data key that it takes for the current one; None while it has none.
        started_at: since when it is on record; None: it is not yet.
    """

    id: str
    host: str
    process: int
    writes_uri: str
    writes_kek_id: str | None
    active_kek_id: str | None
    reads: tuple[str, ...]
    seals_with: str | None = None
    started_at: datetime | None = None

    def can_read(self, uri: str, kek_id: str) -> bool:
        """Say whether it can unwrap what this KEK wraps."""
        return uri in self.reads or kek_id in self.reads

    def writes(self, uri: str, kek_id: str | None, active_kek_id: str) -> bool:
        """Say whether it wraps as this process does: users' keys, and data keys.

        Args:
            uri: of the active KEK, with the mode.
            kek_id: that new wraps of users' keys carry.
            active_kek_id: that new wraps of data keys carry.
        """
        if self.writes_uri == uri:
            return True
        # A daemon of before says nothing of data keys; then it wraps them under what rows carry.
        is_same = kek_id is not None and self.writes_kek_id == kek_id
        return is_same and self.active_kek_id in {active_kek_id, None}


async def record(engine: AsyncEngine, instance: Instance) -> None:
    """Say that an instance lives, and what it reads and writes.

    Args:
        engine: connections of the role custody_app.
        instance: which.
    """
    async with transaction(engine, _SECONDS) as connection:
        await connection.execute(
            query("record_instance"),
            instance.id,
            instance.host,
            instance.process,
            instance.writes_uri,
            instance.writes_kek_id,
            instance.active_kek_id,
            list(instance.reads),
            instance.seals_with,
        )


async def forget(engine: AsyncEngine, instance_id: str) -> None:
    """Say that an instance ends.

    Args:
        engine: connections of the role custody_app.
        instance_id: which.
    """
    async with transaction(engine, _SECONDS) as connection:
        await connection.execute(query("forget_instance"), instance_id)


async def live(engine: AsyncEngine) -> Sequence[Instance]:
    """Return the instances that were alive within the last minute.

    Args:
        engine: connections of a runtime role.
    """
    async with transaction(engine) as connection:
        rows = await connection.fetch(query("list_instances"))
    return [
        Instance(
            id=row["id"],
            host=row["host"],
            process=row["process"],
            writes_uri=row["writes_uri"],
            writes_kek_id=row["writes_kek_id"],
            active_kek_id=row["active_kek_id"],
            reads=tuple(row["reads"]),
            seals_with=row["seals_with"],
            started_at=row["started_at"],
        )
        for row in rows
    ]
