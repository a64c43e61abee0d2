"""The ids that a shell completes: of KEKs, and of data keys."""

import asyncio

from custody.cli.commands import event_loop
from custody.cli.commands.rewrap_role import reading_engine
from custody.keks.records import list_data_keys, list_keks
from custody.ops.logging import configure
from custody.settings import LogFormat, LogLevel, Settings, load

# Somebody waits at a prompt.
_SECONDS = 2.0


def known(*, data_keys: bool) -> list[str]:
    """Return the ids that the database knows; none where it can't be asked, and nothing is said.

    Args:
        data_keys: whether those of data keys are wanted, too.
    """
    configure(LogLevel.ERROR, LogFormat.TEXT)
    try:
        return event_loop.run(_known(load(), data_keys=data_keys))
    except Exception:  # noqa: BLE001 - a shell is at its prompt: an error would be in the way
        return []


async def _known(settings: Settings, *, data_keys: bool) -> list[str]:
    async with asyncio.timeout(_SECONDS), reading_engine(settings) as engine:
        found = [one.kek_id for one in await list_keks(engine)]
        if data_keys:
            found += [one.id for one in await list_data_keys(engine)]
        return found
