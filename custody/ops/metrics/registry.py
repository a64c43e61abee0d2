"""All metrics of one process, and how they are shown."""

import os
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest

from custody.ops.metrics.alarms import Alarms
from custody.ops.metrics.audit import Audit
from custody.ops.metrics.connections import Connections
from custody.ops.metrics.database import Database
from custody.ops.metrics.keks import Keks
from custody.ops.metrics.readiness import Readiness
from custody.ops.metrics.requests import Requests
from custody.ops.metrics.rewrap import Rewrap
from custody.ops.metrics.rotations import Rotations
from custody.ops.metrics.tokens import Tokens

# The variable by which prometheus_client learns of the folder, when it is imported.
METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"


class Metrics:
    """The metrics of one process, or of all that share a folder; an attribute for each subject."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        registry = self._shown = CollectorRegistry()
        if os.environ.get(METRICS_FOLDER):
            self._shown = CollectorRegistry()
            MultiProcessCollector(self._shown)  # type: ignore[no-untyped-call]
        else:
            ProcessCollector(registry=registry)
        self.requests = Requests(registry)
        self.tokens = Tokens(registry)
        self.alarms = Alarms(registry)
        self.connections = Connections(registry)
        self.database = Database(registry)
        self.keks = Keks(registry)
        self.audit = Audit(registry)
        self.rewrap = Rewrap(registry)
        self.rotations = Rotations(registry)
        self.readiness = Readiness(registry)

    def collect(self) -> Iterator[Metric]:
        """Yield what is shown, as it is at this moment; takes a millisecond or two."""
        yield from self._shown.collect()

    def render(self, readiness: dict[str, str | None]) -> bytes:
        """Return the exposition.

        Args:
            readiness: for each part its problem, or None where it is ready.
        """
        self.readiness.show_parts(readiness)
        exposition: bytes = generate_latest(self._shown)  # type: ignore[no-untyped-call]
        return exposition


def forget_process(process: int, folder: str) -> None:
    """Forget what a process that has ended said of itself; what it counted stays counted."""
    mark_process_dead(process, folder)  # type: ignore[no-untyped-call]
