"""Metrics in OpenMetrics form, each subject in its file. Labels hold nothing of a user.

Several processes on one listener keep their values in files of one folder, so each of them can show
those of all. A gauge says by its mode which of their values is shown.

A new metric has a line in ``docs/reference/metrics.md``; a new subject is one of
:class:`~custody.ops.metrics.registry.Metrics`. What is counted for each request is counted in
``requests.py`` alone; all else is counted for each batch or event, or put by
:class:`custody.ops.gauges.Gauges` now and then.
"""

from custody.ops.metrics.registry import METRICS_FOLDER, Metrics, forget_process

__all__ = ["METRICS_FOLDER", "Metrics", "forget_process"]
