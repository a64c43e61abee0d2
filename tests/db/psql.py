"""Asks by psql, with nothing of ours in between."""

from tests.servers import Database

DENIED = "permission denied"
POLICY = "violates row-level security policy"


def psql(database: Database, role: str, sql: str, user: str | None = None) -> str:
    """Run SQL in a session, as a user where one is given.

    Returns:
        What it printed, or its error with the error's code.
    """
    setting = "" if user is None else f"SET app.current_user_id = '{user}';\n"
    verbose = ("-qAt", "-v", "VERBOSITY=verbose")
    done = database.psql(role, *verbose, text=f"{setting}{sql};\n")
    return done.stdout.strip() if done.returncode == 0 else done.stderr.strip()
