"""Writes audit rows: inside the transaction of what they record, or many in one of their own."""

from collections.abc import Sequence

from pydantic_core import to_json

from custody.audit.events import Event
from custody.audit.row_seal import RowSeals
from custody.db.engine import Connection
from custody.db.errors import DatabaseError
from custody.db.queries import query


class NotRecorded(DatabaseError):
    """There is no row: a trigger or rule swallowed it, or the action was recorded before."""


async def write(connection: Connection, event: Event, seals: RowSeals | None) -> None:
    """Add one audit row; it counts from the commit of the transaction on.

    Args:
        connection: a transaction in the scope of the event's user.
        event: what to record.
        seals: make the row's seal; None: who writes it has no data key.

    Raises:
        NotRecorded: the database took the statement, and no row.
    """
    done = await connection.execute(
        query("insert_audit"),
        event.id,
        event.user_id,
        event.action,
        event.ip_address,
        event.user_agent,
        event.context,
        event.status,
        event.state,
        None if seals is None else seals.of(event),
    )
    if done != "INSERT 0 1":
        raise NotRecorded


async def write_together(
    connection: Connection, events: Sequence[Event], deadline: float, seals: RowSeals
) -> None:
    """Add and commit the audit rows of some actions, of any users: all of them, or none.

    Args:
        connection: with no transaction open.
        events: what to record; each row is written in the scope of its own user.
        deadline: the earliest of these requests, on the database's clock; it never commits later.
        seals: make the rows' seals.

    Raises:
        asyncpg.PostgresError: nothing was recorded.
    """
    # The action as plain text: an enumeration's member takes longer to write than all the rest.
    rows = to_json(
        [
            {
                "id": event.id,
                "user_id": event.user_id,
                "ip_address": event.ip_address,
                "user_agent": event.user_agent,
                "action": str(event.action),
                "context": event.context,
                "status": event.status,
                "state": event.state,
                "seal": seals.of(event),
            }
            for event in events
        ]
    ).decode()
    await connection.fetchval(query("record_events"), deadline, rows)
