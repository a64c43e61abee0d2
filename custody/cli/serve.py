"""custody serve."""

import asyncio
import os

import click
import structlog

from custody import app
from custody.ops.logging import configure
from custody.ops.process import harden
from custody.settings import load, unknown_variables

log = structlog.get_logger()


@click.command()
def serve() -> None:
    """Run the daemon."""
    settings = load()
    configure(settings.log_level, settings.log_format)
    harden()
    for name in unknown_variables(os.environ):
        log.warning("unknown_variable", name=name, cure="no such setting: is it misspelt?")
    asyncio.run(app.serve(settings, os.environ))
