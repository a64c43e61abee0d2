"""custody doctor."""

import json
import os
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from typing import Any

import click

from custody.cli.commands import event_loop
from custody.cli.commands.shown import printable
from custody.cli.exit_codes import FINDING, UNAVAILABLE
from custody.ops.doctor import examine
from custody.ops.findings import as_object, subject_of
from custody.ops.logging import configure
from custody.ops.process import harden
from custody.settings import LogFormat, LogLevel
from kek_backends.findings import Finding, Verdict

# In the order of what must be done about them, with their colours.
_SIGNS = {
    Verdict.FINDING: ("ERROR  ", "red"),
    Verdict.DOWN: ("DOWN   ", "red"),
    Verdict.WARNING: ("WARNING", "yellow"),
    Verdict.NOTE: ("note   ", "cyan"),
    Verdict.UNSEEN: ("unseen ", "cyan"),
    Verdict.OK: ("ok     ", "green"),
}
_ORDER = list(_SIGNS)
_INDENT = " " * 10
_MIN_WIDTH = 60


def doctor(as_json: bool) -> int:
    """Examine what is configured: settings, KEKs, database, roles, the issuer's keys."""
    # The KEKs come into this process; and it is to say whether a daemon here could shut its own.
    harden()
    return show(examine(os.environ), as_json=as_json)


def show(examination: Coroutine[Any, Any, list[Finding]], *, as_json: bool) -> int:
    """Run an examination, and show what it finds; return the exit code."""
    configure(LogLevel.WARNING, LogFormat.TEXT)  # beside the findings, not among them
    findings = event_loop.run(examination, "examining")
    if as_json:
        click.echo(json.dumps([as_object(finding) for finding in findings], indent=2))
    else:
        is_terminal = sys.stdout is not None and sys.stdout.isatty()
        # A terminal wraps in the middle of words; what is piped has one line for each message.
        width = max(_MIN_WIDTH, shutil.get_terminal_size().columns) if is_terminal else None
        for line in lines_of(findings, width):
            click.echo(line, color=is_terminal and _has_colours(os.environ))
    return _exit_code(findings)


def lines_of(findings: Sequence[Finding], width: int | None) -> Iterator[str]:
    """Return findings as they are printed: by subject, what must be done first.

    Args:
        findings: of an examination.
        width: of the terminal; None: of what is piped.
    """
    # Of equal weight, what is of one part stands together.
    parts = list(dict.fromkeys(finding.part for finding in findings))
    ordered = sorted(findings, key=lambda one: (_rank(one), parts.index(one.part)))
    subjects = dict.fromkeys(map(subject_of, ordered))
    for subject in subjects:
        yield click.style(subject, bold=True)
        for finding in ordered:
            if subject_of(finding) == subject:
                yield from _lines(finding, width)
    yield _summary(findings)


def _rank(finding: Finding) -> int:
    return _ORDER.index(finding.verdict)


def _lines(finding: Finding, width: int | None) -> Iterator[str]:
    sign, colour = _SIGNS[finding.verdict]
    # The command has a line of its own.
    message = finding.message
    if finding.cure:
        message = message.removesuffix(f"run: {finding.cure}").removesuffix(finding.cure)
        message = message.rstrip(":; ")
    said = printable(f"{finding.part}: {message}")
    first, *rest = (
        textwrap.wrap(said, width - len(_INDENT), break_long_words=False, break_on_hyphens=False)
        if width
        else [said]
    )
    yield f"  {click.style(sign, fg=colour)} {first}"
    yield from (f"{_INDENT}{line}" for line in rest)
    if finding.cure:
        # Never wrapped: it is to be pasted.
        yield f"{_INDENT}{click.style('cure:', bold=True)} {printable(finding.cure)}"


def _summary(findings: Sequence[Finding]) -> str:
    """Say in one line how it stands: what is read first after a long page has gone by."""
    counts = Counter(finding.verdict for finding in findings)
    kinds = (
        (counts[Verdict.FINDING], "error"),
        (counts[Verdict.DOWN], "part down"),
        (counts[Verdict.WARNING], "warning"),
        (counts[Verdict.NOTE], "note"),
    )
    said = [f"{count} {_plural(what, count)}" for count, what in kinds if count]
    if not said:
        said = ["nothing is wrong"]
    if unseen := counts[Verdict.UNSEEN]:
        said.append(f"{unseen} could not be seen")
    colour = _SIGNS[min(findings, key=_rank).verdict][1]
    return click.style(f"{', '.join(said)}; {counts[Verdict.OK]} ok", fg=colour, bold=True)


def _plural(what: str, count: int) -> str:
    first, *rest = what.split(" ")
    return " ".join([first if count == 1 else f"{first}s", *rest])


def _has_colours(environ: Mapping[str, str]) -> bool:
    """Say whether the terminal has colours, and they are wanted (https://no-color.org)."""
    return not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def _exit_code(findings: list[Finding]) -> int:
    verdicts = {finding.verdict for finding in findings}
    if Verdict.FINDING in verdicts:
        return FINDING
    return UNAVAILABLE if Verdict.DOWN in verdicts else 0
