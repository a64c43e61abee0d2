"""The result of a drill as metrics in a file: what node_exporter's textfile collector reads."""

import os
import tempfile
import time
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, generate_latest

# Whoever exports metrics is another user. (prometheus_client's own way leaves that to the umask.)
_MODE = 0o644


def write_drill(path: Path, *, success: bool, data_keys: int) -> None:
    """Write the metrics of a drill that has just ended, in place of those of the one before.

    Args:
        path: of the file; whoever reads it meanwhile sees one of the two, whole.
        success: whether it found nothing wrong.
        data_keys: how many it opened.

    Raises:
        OSError: it can't be written; the file is as it was.
    """
    values = {
        "custody_drill_success": (success, "Whether the second root alone opened every data key"),
        "custody_drill_timestamp_seconds": (time.time(), "When the drill ended"),
        "custody_drill_data_keys": (data_keys, "Data keys that the second root alone opened"),
    }
    registry = CollectorRegistry()
    for name, (value, meaning) in values.items():
        Gauge(name, meaning, registry=registry).set(value)
    # Its name does not end in .prom: nobody reads it.
    number, made = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(number, "wb") as stream:
            stream.write(generate_latest(registry))
            os.fchmod(number, _MODE)
        Path(made).replace(path)
    except BaseException:
        Path(made).unlink()
        raise
