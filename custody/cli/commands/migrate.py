"""custody migrate."""

import dataclasses
import json

import click

from custody.cli.commands import event_loop
from custody.cli.commands.progress import Waiting
from custody.cli.exit_codes import CONFIGURATION
from custody.db.migrate import look_at
from custody.db.migrate import migrate as run
from custody.settings import ConfigurationError, load


def migrate(as_json: bool) -> int:
    """Bring the owner's database up to date, and look at it as the daemon does.

    Returns:
        The exit code: 78 where the daemon would refuse the database.
    """
    settings = load()
    if settings.owner_database_url is None:
        raise ConfigurationError(
            "CUSTODY_OWNER_DATABASE_URL must be set: PostgreSQL, as the owner of the schema auth"
        )
    owner = settings.dsn(settings.owner_database_url)
    what = Waiting("waiting for the database")

    def begin(name: str, number: int, many: int) -> None:
        what.text = f"applying {name}, {number} of {many}"

    applied = event_loop.run(run(owner, begin=begin), what)
    if not as_json:
        for name in applied:
            click.echo(f"applied {name}")
    problems, known = event_loop.run(look_at(owner))
    advice = [one for one in known if one.is_problem]
    if as_json:
        shown = [dataclasses.asdict(problem) for problem in problems]
        said = [{"part": one.part, "message": one.message} for one in advice]
        click.echo(json.dumps({"applied": applied, "problems": shown, "advice": said}))
    elif not problems:
        click.echo("the database is up to date")
    for problem in problems:
        click.echo(f"custody: the daemon would refuse this database: {problem.message}", err=True)
    for one in advice:
        click.echo(f"custody: {one.message}", err=True)
    return CONFIGURATION if problems else 0
