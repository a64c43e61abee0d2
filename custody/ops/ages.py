"""What grows old by itself: the active KEK, the oldest wrap, the last run, pending rotations."""

import contextlib

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db.checkout import acquire
from custody.db.errors import DatabaseError
from custody.db.queries import query
from custody.keks.keks import Keks
from custody.ops.metrics import Metrics
from custody.settings import Settings

_DAY_SECONDS = 86_400


class Ages:
    """Reads the moments that ages are counted from, and shows them.

    Whoever writes the database can make all of it look young; it warns of neglect, not of a thief.

    Args:
        engine: connections of the role custody_app.
        keks: the configured KEKs.
        metrics: show them.
        settings: say what must not grow old, so that what never was is missed, too.
    """

    def __init__(
        self, engine: AsyncEngine, keks: Keks, metrics: Metrics, settings: Settings
    ) -> None:
        self._engine = engine
        self._keks = keks
        self._metrics = metrics
        metrics.keks.show_max_age(settings.kek_max_age * _DAY_SECONDS)
        metrics.keks.show_second_root(is_set=settings.second_kek is not None)
        metrics.audit.show_interval(settings.audit_seal_interval)

    async def look(self) -> None:
        """Read them once; what the database does not say now, it says at the next look."""
        active, in_rows = self._keks.keyring.keks.active.kek_id, self._keks.in_rows
        with contextlib.suppress(DatabaseError):
            async with acquire(self._engine) as connection:
                (row,) = await connection.fetch(query("read_ages"), active, in_rows)
                (pending,) = await connection.fetch(query("count_pending"))
            self._metrics.keks.show_ages(row["kek_activated"] or 0.0, row["oldest_used"] or 0.0)
            self._metrics.rewrap.show_success(row["run_done"] or 0.0)
            # Of runs by a timer, too: the worker shows the rest where there is one.
            self._metrics.rewrap.show_set_aside(row["run_failed"] or 0)
            self._metrics.rotations.show(pending["rotations"], pending["oldest"] or 0.0)
