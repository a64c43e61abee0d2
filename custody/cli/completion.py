"""custody completion."""

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from custody.cli.options import examples

_VARIABLE = "_CUSTODY_COMPLETE"
_CLASSES: dict[str, type[ShellComplete]] = {
    "bash": BashComplete,
    "zsh": ZshComplete,
    "fish": FishComplete,
}


@click.command(
    epilog=examples("completion bash > ~/.local/share/bash-completion/completions/custody")
)
@click.argument("shell", type=click.Choice(list(_CLASSES)))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes a shell complete custody's commands and options.

    For bash, into a file of ~/.local/share/bash-completion/completions: custody completion bash
    """
    made = _CLASSES[shell](context.find_root().command, {}, "custody", _VARIABLE)
    click.echo(made.source())
