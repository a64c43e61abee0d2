"""The command line: one file per noun, which has its options and its help.

What a command does is in ``commands``, and imported when it runs: a command answers at once, and
loads nothing that another one needs.
"""

import contextlib
import sys
from collections.abc import Callable
from functools import partial

import click

from custody import DISTRIBUTION
from custody.cli import output
from custody.cli.audit import audit
from custody.cli.completion import completion
from custody.cli.config import config
from custody.cli.dev import dev
from custody.cli.doctor import doctor
from custody.cli.exit_codes import READER_GONE, exit_code_of
from custody.cli.kek import kek
from custody.cli.migrate import migrate
from custody.cli.openapi import openapi
from custody.cli.options import examples
from custody.cli.rewrap import rewrap
from custody.cli.serve import serve, serve_process
from custody.cli.token import token
from custody.cli.users import users
from custody.cli.verify import verify

__all__ = ["main"]


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples("doctor", "kek list", "rewrap run --dry-run", "verify --help"),
)
@click.version_option(package_name=DISTRIBUTION)
def cli() -> None:
    """Keep users' master keys, wrapped.

    Settings are variables with the prefix CUSTODY_; see docs/reference/settings.md.
    Exit codes: 0 done, 1 a finding or failure, 2 usage, 69 a dependency is down, 75 not finished,
    run again, 78 configuration.
    """


_COMMANDS = (
    *(serve, serve_process, dev, token, migrate, kek, rewrap, verify, audit, users),
    *(doctor, config, openapi, completion),
)
for command in _COMMANDS:
    cli.add_command(command)


def main() -> None:
    """Run the command line; every failure that we know ends in one line and its exit code.

    Raises:
        KeyboardInterrupt: Ctrl-C, where the command has no way of its own to end.
    """
    output.guard()
    code = _run()
    output.forget_lost_errors()
    sys.exit(code)


def _run() -> int:
    """Run the command line; return the exit code."""
    try:
        # It returns what a command gave to exit(), or None.
        code: int | None = cli.main(prog_name="custody", standalone_mode=False)
    except click.ClickException as error:
        _say_last(error.show)
        return error.exit_code
    except click.Abort as error:
        # click makes this of a Ctrl-C, and of an end of input.
        raise error.__cause__ or error from None
    except output.ReaderGone:
        return READER_GONE
    except Exception as error:
        known = exit_code_of(error)
        if known is None:
            raise
        _say_last(partial(click.echo, f"custody: {error}", err=True))
        return known
    return code or 0


def _say_last(say: Callable[[], None]) -> None:
    """Say something on standard error; where that is lost, the exit code alone says it."""
    with contextlib.suppress(OSError):
        say()
