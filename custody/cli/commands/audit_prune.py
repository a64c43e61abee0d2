"""custody audit prune."""

import json
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import click

from custody.audit.holding import CantSign, exported_rows
from custody.audit.prune import Prune
from custody.audit.prune_plan import Plan, Planning
from custody.cli.commands import event_loop
from custody.cli.commands.audit_role import audit_owner
from custody.cli.commands.progress import counted
from custody.cli.commands.startup import prepare
from custody.settings import Settings


def run(before: datetime, exports: tuple[Path, ...], *, dry_run: bool, as_json: bool) -> None:
    """Let go of the rows from before a time that exports hold."""
    plan = event_loop.run(_prune(prepare(), before, exports, dry_run=dry_run))
    if as_json:
        click.echo(json.dumps(_as_object(plan, dry_run=dry_run)))
    else:
        click.echo(_describe(plan, dry_run=dry_run))


async def _prune(
    settings: Settings, before: datetime, exports: tuple[Path, ...], *, dry_run: bool
) -> Plan | None:
    async with audit_owner(settings) as (reader, engine, ring):
        if ring.current is None:
            raise CantSign(f"no data key is open here: {ring.problem}")
        planning = Planning(reader, await reader.keys(ring))
        base = await planning.base()
        if (target := await planning.target(base, before)) is None:
            return None
        total = target.checkpoint.size - base.tree.size
        with ExitStack() as files:
            try:
                with counted("held against the exports", total) as advance:
                    exported = exported_rows(exports, files)
                    plan = await planning.plan(base, target, exported, advance)
            except OSError as error:
                raise click.UsageError(f"{error.filename}: {error.strerror}") from None
        if not dry_run:
            with counted("pruned", total) as advance:
                await Prune(engine, reader, ring, plan).run(advance)
        return plan


def _describe(plan: Plan | None, *, dry_run: bool) -> str:
    if plan is None:
        return "nothing to prune: no checkpoint has rows from before that time alone"
    head = plan.target
    would = "would be" if dry_run else "were"
    return (
        f"up to row {head.checkpoint.last_row}, checkpoint {head.number}: {plan.goes} rows {would} "
        f"deleted, {plan.stays} {would} kept"
    )


def _as_object(plan: Plan | None, *, dry_run: bool) -> dict[str, object]:
    return {
        "dry_run": dry_run,
        "checkpoint": None if plan is None else plan.target.number,
        "last_row": None if plan is None else plan.target.checkpoint.last_row,
        "deleted": 0 if plan is None else plan.goes,
        "kept": None if plan is None else plan.stays,
    }
