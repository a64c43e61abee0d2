"""Seals of audit rows: nobody writes a row but a daemon, and none is changed unseen."""

from custody.audit.events import Action, Event, event_id
from custody.audit.row_seal import RowSeals
from tests.datakeys import FixedRing
from tests.servers import Database

ROWS = "SELECT * FROM auth.encryption_vault_audit ORDER BY number"
STATE = "0" * 64
EVENTS = (
    Event(event_id(), "alice", "203.0.113.7", "Browser/1", Action.FETCH, None, 200),
    Event(event_id(), "älice ⚷", None, None, Action.FAILED_FETCH, "not-initialised", 404),
    Event(event_id(), "bob", "2001:db8::1", None, Action.ROTATE, None, 200, STATE),
    Event(event_id(), "bob", None, "-", Action.ROTATE, "", 200, STATE),
)


async def judged(database: Database, ring: FixedRing) -> list[bool | None]:
    seals = RowSeals(ring)
    return [seals.judge(dict(row)) for row in await database.fetch(ROWS)]
