"""Re-wraps: rows by KEK, the latest run, and when one succeeded."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

from custody.keks.records import RowCount
from custody.rewrap.runs import Run
from custody.rewrap.storing import Counts


class Rewrap:
    """Of the worker, and of the records of runs.

    Args:
        registry: of the process.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._rows = Gauge(
            "custody_rows",
            "Rows with a wrap, by KEK",
            ("kek_id",),
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self._rewrapped = Counter(
            "custody_rewrapped_rows",
            "Rows that this process has re-wrapped, found changed, or set aside",
            ("outcome",),
            registry=registry,
        )
        self._run = Gauge(
            "custody_rewrap_run_rows",
            "Rows of the latest re-wrap run, by all processes",
            ("outcome",),
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self._rate = Gauge(
            "custody_rewrap_run_rows_per_second",
            "How fast the latest re-wrap run goes",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self._left = Gauge(
            "custody_rewrap_run_seconds_left",
            "How long the latest re-wrap run will take; 0 when it has ended",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self._looked = Gauge(
            "custody_rewrap_looked_timestamp_seconds",
            "When the worker of this daemon last looked for stale rows, and did what there was to "
            "do; 0: never",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._succeeded = Gauge(
            "custody_rewrap_run_success_timestamp_seconds",
            "When the last re-wrap run ended that did all there was to do, whoever ran it; "
            "0: none did",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self._counted: set[str] = set()

    def rewrapped(self, counts: Counts) -> None:
        """Count the rows of one claim."""
        self._rewrapped.labels("done").inc(counts.done)
        self._rewrapped.labels("moved").inc(counts.moved)
        self._rewrapped.labels("failed").inc(counts.failed)

    def show_rows(self, counted: Mapping[str, RowCount]) -> None:
        """Show how many rows each KEK has.

        Args:
            counted: by kek_id; a KEK that is not there has none.
        """
        gone = self._counted - counted.keys()
        self._counted |= counted.keys()
        for kek_id in gone:
            self._rows.labels(kek_id).set(0)
        for kek_id, count in counted.items():
            self._rows.labels(kek_id).set(count.wraps)

    def show_run(self, run: Run) -> None:
        """Show how far the latest run is."""
        for outcome, rows in (
            ("total", run.total),
            ("done", run.done),
            ("moved", run.moved),
            ("failed", run.failed),
        ):
            self._run.labels(outcome).set(rows)
        self._rate.set(run.rows_a_second)
        self._left.set(run.seconds_left or 0)

    def show_set_aside(self, rows: int) -> None:
        """Show how many rows the latest run has set aside, whoever ran it."""
        self._run.labels("failed").set(rows)

    def looked(self) -> None:
        """Show that the worker has looked just now, and left nothing undone."""
        self._looked.set_to_current_time()

    def show_success(self, ended_at: float) -> None:
        """Show when a run last ended that did all there was to do."""
        self._succeeded.set(ended_at)
