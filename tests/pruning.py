"""Prunes an audit, as the command does."""

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from custody.audit.events import Action
from custody.audit.export import FORMATS, Export, Place, Span, text_of
from custody.audit.holding import exported_rows
from custody.audit.prune import Prune
from custody.audit.prune_plan import Plan, Planning
from custody.audit.reading import Reader
from tests.audit_log import AuditLog
from tests.db.connecting import engine_of
from tests.servers import Database

_ROWS = "SELECT number FROM auth.encryption_vault_audit WHERE action <> 'prune' ORDER BY number"
_POINTS = "SELECT number FROM auth.encryption_audit_checkpoints ORDER BY number"


async def without_accounts(database: Database) -> None:
    """Let nobody have an account, where somebody else keeps them: so nobody lacks a vault."""
    await database.execute("UPDATE auth.custody_marks SET ours = false")
    await database.execute("ALTER TABLE auth.users DISABLE ROW LEVEL SECURITY")


async def changing_log(database: Database) -> AuditLog:
    """Return an audit of 5 checkpoints over 8 rows each.

    Of users who are gone: rows 4, 12, 20, 28 and 36 say what a change has left of two vaults.
    """
    await without_accounts(database)
    made = AuditLog(database)
    for number in range(5):
        await grow(made, f"changer-{number % 2}")
    return made


async def grow(log: AuditLog, changer: str) -> None:
    """Add a checkpoint over 8 rows, the fourth of which says what a change has left."""
    change = log.event(action=Action.ROTATE, user_id=changer, state="0" * 64)
    await log.write(*(log.event() for _ in range(3)), change, *(log.event() for _ in range(4)))
    await log.seal()


async def rows(log: AuditLog) -> list[int]:
    """Return the numbers of all rows but those of prunes."""
    return [row["number"] for row in await log.database.fetch(_ROWS)]


async def points(log: AuditLog) -> list[int]:
    """Return the numbers of all checkpoints."""
    return [row["number"] for row in await log.database.fetch(_POINTS)]


async def export(log: AuditLog, path: Path) -> Path:
    """Export all rows that there are into a file."""
    async with engine_of(log.database.url("custody_owner")) as engine:
        reader = Reader(engine)
        settled = await reader.settled()
        assert settled is not None
        lines = Export(reader, FORMATS["jsonl"], Place(), Span()).lines(settled)
        return _written(path, "".join([text_of(piece) async for piece, _ in lines]))


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


async def prune(
    log: AuditLog,
    exports: Sequence[Path] | Path,
    before: datetime | None = None,
    *,
    steps: int | None = None,
    meanwhile: str | None = None,
) -> Plan | None:
    """Prune what is from before a time.

    Args:
        log: the audit.
        exports: that hold it; or a file to export it into, once it is known how far to go.
        before: the time; None: now.
        steps: after so many transactions it is broken off; None: it isn't.
        meanwhile: somebody runs that as a superuser, once all is proved.
    """
    async with engine_of(log.database.url("custody_owner")) as engine:
        reader = Reader(engine)
        planning = Planning(reader, await reader.keys(log.ring))
        base = await planning.base()
        target = await planning.target(base, before or datetime.now(UTC))
        if target is None:
            return None
        files_of = [await export(log, exports)] if isinstance(exports, Path) else exports
        with ExitStack() as files:
            plan = await planning.plan(base, target, exported_rows(files_of, files))
        if meanwhile is not None:
            await log.database.execute(meanwhile)
        if steps is not None:
            del plan.holding.steps[max(0, steps - len(plan.thinnings)) :]
            del plan.thinnings[steps:]
        await Prune(engine, reader, log.ring, plan).run()
        return plan
