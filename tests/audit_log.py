"""An audit with rows, seals and checkpoints, made without a daemon, and verified."""

from collections.abc import Sequence
from random import Random
from typing import Any

from pydantic_core import to_json

from custody.audit.checkpoint import Checkpoint
from custody.audit.ended_key import word_of_end
from custody.audit.events import Action, Event, event_id
from custody.audit.findings import Report
from custody.audit.history import Known
from custody.audit.merkle import Tree
from custody.audit.note import Signer, sign
from custody.audit.reading import Reader
from custody.audit.row_seal import RowSeals
from custody.audit.verify import Verification
from custody.datakeys.data_key import DataKey
from custody.vault.audited import compare
from tests.datakeys import FixedRing
from tests.db.connecting import engine_of
from tests.servers import Database

ORIGIN = "custody.example/audit"
ADD = (
    "INSERT INTO auth.encryption_vault_audit"
    " (id, user_id, ip_address, user_agent, action, context, status, state, seal, created_at)"
    " SELECT id, user_id, ip_address, user_agent, action, context, status, state,"
    " decode(seal, 'hex'), clock_timestamp() - make_interval(secs => $2)"
    " FROM json_to_recordset($1::json) AS given (id TEXT, user_id TEXT, ip_address TEXT,"
    " user_agent TEXT, action TEXT, context TEXT, status INTEGER, state TEXT, seal TEXT)"
)
LEAVES = "SELECT * FROM auth.custody_audit_leaves($1, $2, 100000)"
LAST = "SELECT coalesce(max(number), 0) FROM auth.encryption_vault_audit"
CHECKPOINT = (
    "INSERT INTO auth.encryption_audit_checkpoints (number, size, last_row, hashes, note)"
    " VALUES ($1, $2, $3, $4, $5)"
)
KEEP_WORD = (
    "INSERT INTO auth.encryption_data_keys (id, seal, ended_words) VALUES ($1, $2, ARRAY[$3])"
    " ON CONFLICT (id) DO UPDATE"
    " SET ended_words = auth.encryption_data_keys.ended_words || excluded.ended_words"
)
ACTIONS = (Action.FETCH, Action.FAILED_FETCH, Action.INIT, Action.ROTATE)


class AuditLog:
    """The audit of a database.

    Args:
        database: a migrated one, in which nobody else writes.
        ring: the data keys; rows and checkpoints are made with the current one.
    """

    def __init__(self, database: Database, ring: FixedRing | None = None) -> None:
        self.database = database
        self.ring = FixedRing.of() if ring is None else ring
        self.dice = Random(17)  # noqa: S311 - can be repeated
        self.tree, self.number, self.last_row = Tree(), 0, 0
        self.notes: list[str] = []

    def event(self, **given: Any) -> Event:
        """Return what a row may say."""
        made = Event(
            id=event_id(),
            user_id=f"user-{self.dice.randrange(10)}",
            ip_address=f"203.0.113.{self.dice.randrange(256)}",
            user_agent="agent \u00e9" if self.dice.random() < 0.9 else None,
            action=self.dice.choice(ACTIONS),
            context="a context" if self.dice.random() < 0.3 else None,
            status=200,
        )
        return made._replace(**given)

    async def write(self, *events: Event, sealed: bool = True, age: float = 0.0) -> None:
        """Add rows, as daemons do.

        Args:
            events: what they say.
            sealed: whether a data key was open.
            age: how many seconds ago.
        """
        seals = RowSeals(self.ring)
        rows = [
            {**one._asdict(), "action": str(one.action), "seal": seals.of(one) if sealed else None}
            for one in events
        ]
        await self.database.execute(ADD, to_json(rows).decode(), age)

    async def seal(self, signer: Signer | None = None) -> None:
        """Make a checkpoint over all rows that there are."""
        current = self.ring.current
        assert current is not None
        up_to = await self.database.value(LAST)
        (found,) = await self.database.fetch(LEAVES, self.last_row, up_to)
        self.tree = self.tree.extended(found["leaves"])
        self.number, self.last_row = self.number + 1, up_to
        said = Checkpoint(ORIGIN, self.tree.size, self.tree.root, up_to)
        self.notes.append(sign(said.text, signer or Signer(ORIGIN, current.audit_signer)))
        columns = self.number, self.tree.size, up_to, self.tree.hashes, self.notes[-1]
        await self.database.execute(CHECKPOINT, *columns)

    async def end(self, key: DataKey) -> None:
        """End a data key that the current one has taken the place of."""
        current = self.ring.current
        assert current is not None
        if key.id in self.ring.open_ids:
            self.ring.forget(key.id)
        drawn = await self.database.value("SELECT number FROM auth.custody_audit_horizon()")
        word = word_of_end(key, drawn, current)
        await self.database.execute(KEEP_WORD, current.id, current.own_seal, word)

    async def grow(self, checkpoints: int = 5, rows: int = 8, **given: Any) -> None:
        """Add so many checkpoints over so many rows each; every other row says what is given."""
        for _ in range(checkpoints):
            events = (self.event(**(given if number % 2 else {})) for number in range(rows))
            await self.write(*events)
            await self.seal()

    async def verify(
        self, known: Sequence[Known] = (), *, since: int | None = None, patience: float = 0.0
    ) -> Report:
        """Verify it, with the data keys of the ring."""
        async with engine_of(self.database.url("custody_owner")) as engine:
            reader = Reader(engine)
            begin = None if since is None else await reader.find(number=since)
            return await Verification(reader, self.ring, compare, patience=patience).run(
                begin, known
            )
