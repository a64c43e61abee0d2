"""``custody rewrap run`` on a terminal, as its operator sees it."""

import asyncio
import os

import pytest

from tests.rewrap.kit import environ_of, fill
from tests.servers import Database
from tests.terminal import on_a_terminal


@pytest.mark.prove
async def test_a_bar_with_rate_and_time_left(database: Database) -> None:
    await fill(database, 400)
    environ = {
        "PATH": os.environ["PATH"],
        "TERM": "xterm-256color",
        "COLUMNS": "120",
        **environ_of(database),
    }
    arguments = "rewrap", "run", "--batch", "100", "--rate", "200"
    code, drawn = await asyncio.to_thread(on_a_terminal, environ, *arguments)
    assert code == 0, drawn
    assert "Traceback" not in drawn
    assert "to env-v2" in drawn
    assert "400/400" in drawn
    assert "rows/s" in drawn
    assert "run 1 to env-v2: 400 re-wrapped" in drawn
