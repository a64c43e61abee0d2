"""custody doctor."""

import json
import os
import sys
from collections.abc import Coroutine, Mapping
from typing import Any

import click

from custody.cli.commands import event_loop
from custody.cli.commands.shown import printable
from custody.cli.exit_codes import FINDING, UNAVAILABLE
from custody.ops.doctor import examine
from custody.ops.logging import configure
from custody.settings import LogFormat, LogLevel
from kek_backends.findings import Finding, Verdict

# In the order of what must be done about them, with their colours.
_SIGNS = {
    Verdict.FINDING: ("FINDING", "red"),
    Verdict.DOWN: ("DOWN   ", "yellow"),
    Verdict.UNSEEN: ("unseen ", "cyan"),
    Verdict.OK: ("ok     ", "green"),
}
_ORDER = list(_SIGNS)


def doctor(as_json: bool) -> int:
    """Examine what is configured: settings, KEKs, database, roles, the issuer's keys."""
    return show(examine(os.environ), as_json=as_json)


def show(examination: Coroutine[Any, Any, list[Finding]], *, as_json: bool) -> int:
    """Run an examination, and show what it finds; return the exit code."""
    configure(LogLevel.WARNING, LogFormat.TEXT)  # beside the findings, not among them
    findings = event_loop.run(examination)
    if as_json:
        click.echo(json.dumps([_as_object(finding) for finding in findings], indent=2))
    else:
        coloured = _is_coloured(os.environ)
        for finding in sorted(findings, key=lambda one: _ORDER.index(one.verdict)):
            click.echo(_line(finding), color=coloured)
    return _exit_code(findings)


def _as_object(finding: Finding) -> dict[str, str]:
    return {"part": finding.part, "verdict": finding.verdict, "message": finding.message}


def _line(finding: Finding) -> str:
    sign, colour = _SIGNS[finding.verdict]
    said = printable(f"{finding.part}: {finding.message}")
    return f"{click.style(sign, fg=colour)} {said}"


def _is_coloured(environ: Mapping[str, str]) -> bool:
    """Say whether colours are wanted: on a terminal that has them (https://no-color.org)."""
    return (
        sys.stdout is not None
        and sys.stdout.isatty()
        and not environ.get("NO_COLOR")
        and environ.get("TERM") != "dumb"
    )


def _exit_code(findings: list[Finding]) -> int:
    verdicts = {finding.verdict for finding in findings}
    if Verdict.FINDING in verdicts:
        return FINDING
    return UNAVAILABLE if Verdict.DOWN in verdicts else 0
