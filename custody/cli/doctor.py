"""custody doctor."""

from typing import IO

import click

from custody.cli.options import as_json, examples

# Of what is longer the daemon reads no more, either.
MAX_TOKEN_SIZE = 16 * 1024


@click.command(epilog=examples("doctor", "doctor --json", "doctor --token token.txt"))
@click.option(
    "--token",
    type=click.File("rb"),
    help="Say of the token in this file, or - for standard input, what the daemon would say of "
    "it, claim by claim, and examine nothing else but the issuer's keys.",
)
@as_json
@click.pass_context
def doctor(context: click.Context, token: IO[bytes] | None, as_json: bool) -> None:
    """Examine what is configured: settings, KEKs, database, roles, the issuer's keys.

    And what goes wrong by itself: files, memory, clocks, certificates, what is due. Changes
    nothing, and says what it could not see. A token is never printed, and no argument: the list of
    processes shows those. Exit codes: 0 nothing is wrong, or warnings alone, 1 an error, 69
    something is down.
    """
    if token is None:
        from custody.cli.commands.doctor import doctor as run

        context.exit(run(as_json))
    from custody.cli.commands.token_doctor import doctor as run_for

    context.exit(run_for(token.read(MAX_TOKEN_SIZE), as_json=as_json))
