"""custody kek."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import click
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.cli.commands import event_loop
from custody.cli.commands.kek_report import report_lines
from custody.cli.commands.kek_table import ListedKek, table, tree
from custody.cli.commands.rewrap_role import VARIABLE, reading_engine, rewrap_dsn, rewrap_engine
from custody.cli.commands.shown import note
from custody.cli.commands.startup import prepare
from custody.cli.exit_codes import FINDING
from custody.datakeys.ring import Ring
from custody.datakeys.sealer import Sealer
from custody.keks.keks import load_keks
from custody.keks.records import (
    NO_ROWS,
    RecordedDataKey,
    Retirement,
    RowCount,
    count_rows,
    list_data_keys,
    list_keks,
)
from custody.keks.records import retire as retire_kek
from custody.keks.second import VARIABLE as SECOND
from custody.keks.second import load_second
from custody.keks.trust import tell_what_is_known
from custody.settings import ConfigurationError, Settings
from kek_backends.base import KekBackend
from kek_backends.errors import KekError
from kek_backends.keyring import Keyring

_REFRESH_SECONDS = 5.0
# Of a line, in columns, where no terminal says that it has more.
_WIDTH = 80
_ACTIVE = "{0} is what {1} stamps on new keys; set CUSTODY_KEK to another KEK and restart first"
_SECOND = (
    f"data keys are still wrapped under {{0}}, the second root: take {SECOND} away, or set another "
    "KEK there, then: custody rewrap run"
)
_MESSAGES = {
    Retirement.RETIRED: "{0} is retired: nothing can be wrapped under it again",
    Retirement.ALREADY_RETIRED: "{0} was retired before",
    Retirement.ACTIVE: _ACTIVE.format("{0}", "the daemon"),
    Retirement.IN_USE: "{0} still wraps {1} rows; re-wrap them under another KEK first",
    Retirement.DATA_KEYS: "data keys are still wrapped under {0}: custody rewrap run",
    Retirement.WRITTEN: "a live daemon still wraps under {0}; set CUSTODY_KEK there to another KEK "
    "and restart it",
    Retirement.DATA_KEY: "{0} is a data key, which is never retired; new rows and all others are "
    "brought to another one by: custody rewrap run --deep",
    Retirement.UNKNOWN: "{0} is unknown: no KEK is recorded by this id, and no row names it; "
    "see: custody kek list",
}


def list_(as_json: bool) -> None:
    """Show the KEKs that the database knows, and whether they are configured here.

    Rows are counted by CUSTODY_REWRAP_DATABASE_URL; with CUSTODY_DATABASE_URL alone they can't be
    seen.
    """
    listed, keys, counted, notes = event_loop.run(_list(prepare()), "counting rows")
    for one in notes:
        note(one)
    if as_json:
        click.echo(json.dumps([one.as_object() for one in listed], indent=2))
    else:
        width = max(shutil.get_terminal_size((_WIDTH, 1)).columns, _WIDTH)
        click.echo(table(listed, width))
        for line in tree(keys, counted, width):
            click.echo(line)


def retire(kek_id: str, *, as_json: bool) -> int:
    """Retire a KEK for good: nothing can be wrapped under it again."""
    settings = prepare()
    rewrap_dsn(settings)  # before a KMS is asked
    outcome, rows, message, report = event_loop.run(_retire(settings, kek_id), "counting rows")
    done = outcome in {Retirement.RETIRED, Retirement.ALREADY_RETIRED}
    if as_json:
        said = {"kek_id": kek_id, "outcome": outcome, "rows": rows, "retirement": report}
        click.echo(json.dumps(said))
    elif done:
        click.echo("\n".join([message, *report_lines(report)]))
    if done:
        return 0
    note(message)
    return FINDING


async def _list(
    settings: Settings,
) -> tuple[list[ListedKek], tuple[RecordedDataKey, ...], Mapping[str, RowCount] | None, list[str]]:
    notes: list[str] = []
    counted: Mapping[str, RowCount] | None = None
    async with (
        reading_engine(settings) as engine,
        _configured(settings) as (keyring, unseen),
        _second(settings, notes) as second,
    ):
        known, keys = await list_keks(engine), await list_data_keys(engine)
        if settings.rewrap_database_url is None:
            notes.append(f"rows could not be counted: {VARIABLE} is not set")
        else:
            counted = await count_rows(engine)
        if keyring is not None:
            await _learn_aliases(settings, engine, keyring)
        notes += unseen
        listed = []
        for one in known:
            backend = keyring.find(one.kek_id) if keyring else None
            refusal = backend.refusal(one.kek_id) if backend else None
            notes += [refusal] if refusal else []
            listed.append(
                ListedKek(
                    one,
                    rows=None if counted is None else counted.get(one.kek_id, NO_ROWS),
                    data_keys={
                        key.id: None if counted is None else counted.get(key.id, NO_ROWS).wraps
                        for key in keys
                        if one.kek_id in key.kek_ids
                    },
                    configured=None if keyring is None else backend is not None,
                    second=second is not None and second.holds(one.kek_id),
                )
            )
    return listed, keys, counted, notes


async def _learn_aliases(settings: Settings, engine: AsyncEngine, keyring: Keyring) -> None:
    """Learn which kek_ids an alias has meant before: by records that a data key vouches for."""
    ring = Ring(engine, keyring, settings.data_key_ttl, settings.data_key_max_age)
    await ring.load()
    legacy = settings.accepts_legacy_rows
    await tell_what_is_known(engine, keyring, Sealer(ring), legacy=legacy)


async def _retire(
    settings: Settings, kek_id: str
) -> tuple[Retirement, int, str, Mapping[str, Any] | None]:
    async with _configured(settings) as (keyring, notes):
        for one in notes:
            note(one)
        if keyring is not None and keyring.active.kek_id == kek_id:
            return Retirement.ACTIVE, 0, _ACTIVE.format(kek_id, keyring.active.uri.text), None
    async with _second(settings, []) as second:
        is_second = second is not None and second.holds(kek_id)
    async with rewrap_engine(settings) as engine:
        outcome = await retire_kek(engine, kek_id)
        counted = await count_rows(engine) if outcome is Retirement.IN_USE else {}
        known = {one.kek_id: one for one in await list_keks(engine)}
    rows = counted.get(kek_id, NO_ROWS).wraps
    report = known[kek_id].retirement if kek_id in known else None
    message = _MESSAGES[outcome]
    if is_second and outcome is Retirement.DATA_KEYS:
        message = _SECOND
    return outcome, rows, message.format(kek_id, rows), report


@asynccontextmanager
async def _configured(settings: Settings) -> AsyncIterator[tuple[Keyring | None, list[str]]]:
    """Load the configured KEKs, and say what could not be learnt of them.

    A KEK that is missing here, or a KMS that is down, is no reason not to look at the database.
    """
    try:
        keyring = load_keks(settings, os.environ)
    except ConfigurationError as error:
        yield None, [f"what is configured here could not be seen: {error}"]
        return
    try:
        notes = await asyncio.gather(*(_refresh(backend) for backend in keyring))
        yield keyring, [one for one in notes if one]
    finally:
        await keyring.close()


@asynccontextmanager
async def _second(settings: Settings, notes: list[str]) -> AsyncIterator[KekBackend | None]:
    """Load the second root, and say what could not be learnt of it, as of the other KEKs."""
    try:
        second = load_second(settings, os.environ)
    except ConfigurationError as error:
        notes.append(f"what is configured here could not be seen: {error}")
        second = None
    if second is None:
        yield None
        return
    try:
        if problem := await _refresh(second):
            notes.append(problem)
        yield second
    finally:
        await second.close()


async def _refresh(backend: KekBackend) -> str | None:
    try:
        async with asyncio.timeout(_REFRESH_SECONDS):
            await backend.refresh()
    except (KekError, TimeoutError) as error:
        reason = str(error) or "no answer in time"
        return f"what {backend.uri.text} holds could not be asked: {reason}"
    return None
