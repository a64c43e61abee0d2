"""The table of vaults in partitions, by hash of the user: the way of docs/scale.md."""

import re

from tests.servers import Database

TABLE = "auth.encryption_vaults"


async def partition_vaults(database: Database, parts: int) -> None:
    """Put the vaults into partitions, with all that the table has: run while no daemon does.

    Args:
        database: migrated; its rows stay.
        parts: how many partitions.
    """
    done = database.tool("pg_dump", "postgres", "--schema-only", "-t", TABLE)
    assert done.returncode == 0, done.stderr
    steps = [
        "BEGIN",
        f"CREATE TEMPORARY TABLE kept AS TABLE {TABLE}",
        f"DROP TABLE {TABLE}",
        _partitioned(done.stdout),
    ]
    for part in range(parts):
        name, which = f"auth.encryption_vaults_{part}", f"MODULUS {parts}, REMAINDER {part}"
        steps += [
            f"CREATE TABLE {name} PARTITION OF {TABLE} FOR VALUES WITH ({which})",
            f"ALTER TABLE {name} OWNER TO custody_owner",
        ]
    steps += [f"INSERT INTO {TABLE} TABLE kept", "COMMIT"]
    await database.execute(";\n".join(steps))


def _partitioned(dump: str) -> str:
    """Return the statements of a dump for a table in partitions."""
    # What is psql's own, and what would stay set after it.
    asides = "\\", "SET ", "SELECT pg_catalog"
    text = "\n".join(line for line in dump.splitlines() if not line.startswith(asides))
    text = text.replace("ALTER TABLE ONLY", "ALTER TABLE").rstrip("\n; ")
    return re.sub(r"(CREATE TABLE [^;]*\n\));", r"\1 PARTITION BY HASH (user_id);", text, count=1)
