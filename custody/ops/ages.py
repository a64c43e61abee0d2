"""What grows old by itself: the active KEK, the oldest wrap, the last run that succeeded."""

import contextlib

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db.checkout import acquire
from custody.db.errors import DatabaseError
from custody.db.queries import query
from custody.keks.keks import Keks
from custody.ops.metrics import Metrics

_DAY_SECONDS = 86_400


class Ages:
    """Reads the moments that ages are counted from, and shows them.

    Whoever writes the database can make all of it look young; it warns of neglect, not of a thief.

    Args:
        engine: connections of the role custody_app.
        keks: the configured KEKs.
        metrics: show them.
        kek_max_age: days that the active KEK may be the active one; 0: for ever.
    """

    def __init__(self, engine: AsyncEngine, keks: Keks, metrics: Metrics, kek_max_age: int) -> None:
        self._engine = engine
        self._keks = keks
        self._metrics = metrics
        metrics.keks.show_max_age(kek_max_age * _DAY_SECONDS)

    async def look(self) -> None:
        """Read them once; what the database does not say now, it says at the next look."""
        active, in_rows = self._keks.keyring.keks.active.kek_id, self._keks.in_rows
        with contextlib.suppress(DatabaseError):
            async with acquire(self._engine) as connection:
                (row,) = await connection.fetch(query("read_ages"), active, in_rows)
            self._metrics.keks.show_ages(row["kek_activated"] or 0.0, row["oldest_used"] or 0.0)
            self._metrics.rewrap.show_success(row["run_done"] or 0.0)
