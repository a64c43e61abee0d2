"""How ``custody kek retire`` shows what was seen when a KEK was retired."""

from collections.abc import Mapping
from typing import Any


def report_lines(report: Mapping[str, Any] | None) -> list[str]:
    """Return a retirement's report as text, in lines.

    Args:
        report: as the registry keeps it; None for a KEK that an older custody retired.
    """
    if report is None:
        return []
    return [
        f"seen then: {report['rows']} rows under it, {report['quarantined']} of them set aside",
        _run(report["last_run"]),
        _deep(report.get("last_deep")),
        *(map(_instance, report["instances"]) if report["instances"] else ["  no live daemon"]),
    ]


def _run(run: Mapping[str, Any] | None) -> str:
    if run is None:
        return "  no run"
    rotation = "deep" if run.get("data_key") else "shallow"
    return (
        f"  last run: {run['id']} to {run['target']}, {rotation}, {run['state']}: "
        f"{run['done']} re-wrapped, {run['moved']} changed by their users meanwhile, "
        f"{run['failed']} set aside"
    )


def _deep(run: Mapping[str, Any] | None) -> str:
    if run is None:
        return "  no deep run: whoever had this KEK may know the data key that rows are sealed with"
    return (
        f"  last deep run: {run['id']}, ended {run['ended_at']}; its data key is {run['data_key']}"
    )


def _instance(one: Mapping[str, Any]) -> str:
    where = f"  the daemon on {one['host']} (process {one['process']})"
    if one["writes"] is None:
        return f"{where} has not reached its KEK yet"
    return f"{where} writes under {one['writes']}"
