"""custody doctor."""

import asyncio
import dataclasses
import json
import os

import click

from custody.cli.exit_codes import FINDING, UNAVAILABLE
from custody.ops.doctor import Finding, Verdict, examine
from custody.ops.logging import configure
from custody.settings import LogFormat, LogLevel

_SIGNS = {
    Verdict.OK: "ok     ",
    Verdict.FINDING: "FINDING",
    Verdict.DOWN: "DOWN   ",
    Verdict.UNSEEN: "unseen ",
}


def doctor(as_json: bool) -> int:
    """Examine what is configured: settings, KEKs, database, roles, the issuer's keys."""
    configure(LogLevel.WARNING, LogFormat.TEXT)  # beside the findings, not among them
    findings = asyncio.run(examine(os.environ))
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            click.echo(f"{_SIGNS[finding.verdict]} {finding.part}: {finding.message}")
    return _exit_code(findings)


def _exit_code(findings: list[Finding]) -> int:
    verdicts = {finding.verdict for finding in findings}
    if Verdict.FINDING in verdicts:
        return FINDING
    return UNAVAILABLE if Verdict.DOWN in verdicts else 0
