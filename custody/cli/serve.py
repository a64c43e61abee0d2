"""custody serve."""

import click

from custody.cli.options import examples


@click.command(epilog=examples("serve"))
def serve() -> None:
    """Run the daemon. SIGTERM ends it, SIGHUP makes it read its files again."""
    from custody.cli.commands.serve import serve as run

    run()


@click.command("serve-process", hidden=True)
@click.option("--number", type=int, required=True)
@click.option("--parent", type=int, required=True)
@click.option("--vault", type=int, multiple=True, required=True)
@click.option("--admin", type=int, multiple=True, required=True)
@click.option("--notify", type=int, required=True)
def serve_process(
    number: int, parent: int, vault: tuple[int, ...], admin: tuple[int, ...], notify: int
) -> None:
    """Run one of several processes, on sockets that `custody serve` hands over."""
    from custody.cli.commands.serve import serve_process as run

    run(number, parent, vault, admin, notify)
