"""Whether the daemon serves, what it is, and rows that wait to be sealed."""

import platform
from collections.abc import Mapping
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Gauge

from custody import DISTRIBUTION
from custody.keks.legacy import Unsealed


class Readiness:
    """Of the daemon as a whole.

    Args:
        registry: of the process.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._ready = Gauge(
            "custody_ready",
            "1 where a part is ready",
            ("part",),
            registry=registry,
            # Of several processes, the one that set it last knows it best.
            multiprocess_mode="livemostrecent",
        )
        self._unsealed = Gauge(
            "custody_unsealed_rows",
            "Rows that are not sealed, counted to 100,001 in all",
            ("kind",),
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        build = Gauge(
            "custody_build_info",
            "1; what runs is in the labels",
            ("version", "python"),
            registry=registry,
            multiprocess_mode="livemax",
        )
        build.labels(version(DISTRIBUTION), platform.python_version()).set(1)

    def show_parts(self, problems: Mapping[str, str | None]) -> None:
        """Show which parts are ready.

        Args:
            problems: for each part its problem, or None where it is ready.
        """
        for part, problem in problems.items():
            self._ready.labels(part).set(problem is None)

    def show_unsealed(self, unsealed: Unsealed) -> None:
        """Show how many rows are not sealed.

        Args:
            unsealed: those with a wrap of the server's, and those in zero-knowledge mode.
        """
        self._unsealed.labels("wrap").set(unsealed.wraps)
        self._unsealed.labels("zero-knowledge").set(unsealed.zero_knowledge)
