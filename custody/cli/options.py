"""Options that several commands have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

DATA_FOLDER = Path(".custody-dev")

Command = TypeVar("Command", bound=Callable[..., Any])

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def examples(*commands: str) -> str:
    """Return the end of a command's help: lines that can be pasted.

    Args:
        commands: each without ``custody`` in front.
    """
    lines = [f"  custody {command}" for command in commands]
    title = "Example:" if len(lines) == 1 else "Examples:"
    # click keeps the lines of such a paragraph apart.
    return "\n".join(["\b", title, *lines])


def data_folder(description: str) -> Callable[[Command], Command]:
    """Return the option that names the folder of ``custody dev``.

    Args:
        description: its help.
    """
    return click.option(
        "--data",
        type=click.Path(file_okay=False, path_type=Path),
        default=DATA_FOLDER,
        show_default=True,
        help=description,
    )
