"""Metrics in OpenMetrics form. Labels hold route names and codes, never anything of a user.

Several processes on one listener keep their values in files of one folder, so each of them can show
those of all.
"""

import os
from collections.abc import Mapping
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest

from custody.keks.legacy import Unsealed
from custody.keks.records import RowCount
from custody.rewrap.runs import Run
from custody.rewrap.storing import Counts

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

# The variable by which prometheus_client learns of the folder, when it is imported.
METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"

# Of several processes, the one that set a gauge last knows it best.
_NEWEST: Literal["livemostrecent"] = "livemostrecent"


class Metrics:
    """The metrics of one process, or of all that share a folder."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = self._shown = CollectorRegistry()
        if os.environ.get(METRICS_FOLDER):
            self._shown = CollectorRegistry()
            MultiProcessCollector(self._shown)  # type: ignore[no-untyped-call]
        else:
            ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "custody_requests",
            "Requests answered",
            ("route", "status", "code"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "custody_request_seconds",
            "Time to answer",
            ("route",),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        # What labels() returns: to find it takes longer than to count.
        self._children: dict[tuple[str, int, str], tuple[Counter, Histogram]] = {}
        self._ready = Gauge(
            "custody_ready",
            "1 where a part is ready",
            ("part",),
            registry=self._registry,
            multiprocess_mode=_NEWEST,
        )
        self._data_key = Gauge(
            "custody_data_key_seconds_left",
            "How long the data key is kept without being opened again; 0 where none is open",
            registry=self._registry,
            multiprocess_mode=_NEWEST,
        )
        self._unsealed = Gauge(
            "custody_unsealed_rows",
            "Rows that are not sealed, counted to 100,001 in all",
            ("kind",),
            registry=self._registry,
            multiprocess_mode=_NEWEST,
        )
        self._rows = Gauge(
            "custody_rows",
            "Rows with a wrap, by KEK",
            ("kek_id",),
            registry=self._registry,
            multiprocess_mode=_NEWEST,
        )
        self._refused_tokens = Counter(
            "custody_refused_tokens",
            "Tokens that were refused, by the first reason",
            ("reason",),
            registry=self._registry,
        )
        self._closed_connections = Counter(
            "custody_closed_connections",
            "Connections closed to make room for others, or because responses were not read",
            ("reason",),
            registry=self._registry,
        )
        self._newcomers = Counter(
            "custody_unwrap_newcomers",
            "Users who got at their vaults and were not seen in the day before",
            registry=self._registry,
        )
        self._unwrap_refusals = Counter(
            "custody_unwrap_refusals",
            "Requests that were refused since CUSTODY_UNWRAP_LIMIT was reached",
            registry=self._registry,
        )
        self._canary_requests = Counter(
            "custody_canary_requests",
            "Requests for one of CUSTODY_CANARY_USERS",
            registry=self._registry,
        )
        self._tampered_rows = Counter(
            "custody_tampered_rows",
            "Requests that met a row which is not what was sealed",
            ("reason",),
            registry=self._registry,
        )
        self._audit_alarms = Counter(
            "custody_audit_alarms",
            "Looks at the audit's log that found it not to be what it was",
            ["reason"],
            registry=self._registry,
        )
        self._legacy_refusals = Counter(
            "custody_legacy_row_refusals",
            "Requests that were refused since the row was never sealed",
            registry=self._registry,
        )
        self._rewrapped = Counter(
            "custody_rewrapped_rows",
            "Rows that this process has re-wrapped, found changed, or set aside",
            ("outcome",),
            registry=self._registry,
        )
        self._run = Gauge(
            "custody_rewrap_run_rows",
            "Rows of the latest re-wrap run, by all processes",
            ("outcome",),
            registry=self._registry,
            multiprocess_mode=_NEWEST,
        )
        self._rate = Gauge(
            "custody_rewrap_run_rows_per_second",
            "How fast the latest re-wrap run goes",
            registry=self._registry,
            multiprocess_mode=_NEWEST,
        )
        self._left = Gauge(
            "custody_rewrap_run_seconds_left",
            "How long the latest re-wrap run will take; 0 when it has ended",
            registry=self._registry,
            multiprocess_mode=_NEWEST,
        )

        self._counted: set[str] = set()

    def token_refused(self, reason: str) -> None:
        """Count a token that was refused.

        Args:
            reason: one of a fixed set.
        """
        self._refused_tokens.labels(reason).inc()

    def connection_closed(self, reason: str) -> None:
        """Count a connection that the daemon closed on its client.

        Args:
            reason: one of a fixed set.
        """
        self._closed_connections.labels(reason).inc()

    def newcomer(self) -> None:
        """Count a user who got at a vault and was not seen lately."""
        self._newcomers.inc()

    def unwrap_refused(self) -> None:
        """Count a request that the brake refused."""
        self._unwrap_refusals.inc()

    def canary_requested(self) -> None:
        """Count a request for a canary."""
        self._canary_requests.inc()

    def row_tampered(self, reason: str) -> None:
        """Count a request that met a tampered row.

        Args:
            reason: one of a fixed set.
        """
        self._tampered_rows.labels(reason).inc()

    def audit_tampered(self, reason: str) -> None:
        """Count a look at the audit's log that found it not to be what it was.

        Args:
            reason: one of a fixed set.
        """
        self._audit_alarms.labels(reason).inc()

    def legacy_row_refused(self) -> None:
        """Count a request that was refused since its row was never sealed."""
        self._legacy_refusals.inc()

    def rewrapped(self, counts: Counts) -> None:
        """Count the rows of one claim."""
        self._rewrapped.labels("done").inc(counts.done)
        self._rewrapped.labels("moved").inc(counts.moved)
        self._rewrapped.labels("failed").inc(counts.failed)

    def show_data_key(self, seconds_left: float) -> None:
        """Show how long the data key is kept without being opened again."""
        self._data_key.set(seconds_left)

    def show_unsealed(self, unsealed: Unsealed) -> None:
        """Show how many rows are not sealed.

        Args:
            unsealed: those with a wrap of the server's, and those in zero-knowledge mode.
        """
        self._unsealed.labels("wrap").set(unsealed.wraps)
        self._unsealed.labels("zero-knowledge").set(unsealed.zero_knowledge)

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

    def count_request(self, route: str, status: int, code: str, seconds: float) -> None:
        """Count a completed request.

        Args:
            route: the operation's name, or ``none`` for a path that is not ours.
            status: HTTP status.
            code: of the problem, or ``OK``.
            seconds: from the end of the request's headers to the response.
        """
        labels = route, status, code
        children = self._children.get(labels)
        if children is None:
            children = self._requests.labels(route, str(status), code), self._seconds.labels(route)
            self._children[labels] = children
        count, duration = children
        count.inc()
        duration.observe(seconds)

    def render(self, readiness: dict[str, str | None]) -> bytes:
        """Return the exposition.

        Args:
            readiness: for each part its problem, or None where it is ready.
        """
        for part, problem in readiness.items():
            self._ready.labels(part).set(problem is None)
        exposition: bytes = generate_latest(self._shown)  # type: ignore[no-untyped-call]
        return exposition


def forget_process(process: int, folder: str) -> None:
    """Forget what a process that has ended said of itself; what it counted stays counted."""
    mark_process_dead(process, folder)  # type: ignore[no-untyped-call]
