"""The command line: one file per noun, which has its options and its help.

What a command does is in ``commands``, and imported when it runs: a command answers at once, and
loads nothing that another one needs.
"""

import sys

import click

from custody import DISTRIBUTION
from custody.cli.completion import completion
from custody.cli.config import config
from custody.cli.dev import dev
from custody.cli.doctor import doctor
from custody.cli.exit_codes import exit_code_of
from custody.cli.kek import kek
from custody.cli.migrate import migrate
from custody.cli.openapi import openapi
from custody.cli.rewrap import rewrap
from custody.cli.serve import serve, worker
from custody.cli.token import token
from custody.cli.users import users

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name=DISTRIBUTION)
def cli() -> None:
    """Keep users' master keys, wrapped.

    Settings are variables with the prefix CUSTODY_; see docs/reference/settings.md.
    Exit codes: 0 done, 1 a finding or failure, 2 usage, 69 a dependency is down, 75 not finished,
    run again, 78 configuration.
    """


_COMMANDS = (
    *(serve, worker, dev, token, migrate, kek, rewrap, users, doctor, config, openapi),
    completion,
)
for command in _COMMANDS:
    cli.add_command(command)


def main() -> None:
    """Run the command line; every failure that we know ends in one line and its exit code."""
    try:
        sys.exit(cli(prog_name="custody"))
    except Exception as error:
        code = exit_code_of(error)
        if code is None:
            raise
        click.echo(f"custody: {error}", err=True)
        sys.exit(code)
