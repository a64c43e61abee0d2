"""The commands of ``custody``."""

from collections.abc import Iterator

import click

from custody.cli import cli


def commands(group: click.Group = cli, *before: str) -> Iterator[str]:
    """Yield the words of each command that is shown, behind ``custody``."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *before, name)
        elif not command.hidden:
            yield " ".join((*before, name))
