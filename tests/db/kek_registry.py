"""What tests of the registry of KEKs share: rows and records made with nothing of ours between."""

from typing import Any

from tests.servers import Database

REGISTER = "SELECT * FROM auth.custody_register_kek($1, $2, $3, $4, $5, $6)"
RETIRE = "SELECT auth.custody_retire_kek($1)"
RECORD = "SELECT * FROM auth.encryption_keks WHERE kek_id = $1"
REWRAP = (
    "UPDATE auth.encryption_vaults SET wrapped_mk = 'new', kek_id = $1, format_version = 3"
    " WHERE user_id = $2"
)


async def add_row(database: Database, user: str, kek_id: str, *, wrap: str | None = "w") -> None:
    """Add a vault as superuser; without a wrap it is in zero-knowledge mode."""
    await database.execute("INSERT INTO auth.users (id) VALUES ($1)", user)
    await database.execute(
        "INSERT INTO auth.encryption_vaults (user_id, wrapped_mk, wrap_iv, kek_id, zero_knowledge,"
        " recovery_wrapped_mk, recovery_iv) VALUES ($1, $2::text,"
        " CASE WHEN $2::text IS NOT NULL THEN '' END, $3, $2::text IS NULL, 'r', '')",
        user,
        wrap,
        kek_id,
    )


async def register(
    database: Database,
    kek_id: str,
    fingerprint: str | None = None,
    *,
    seal: str | None = None,
    active: bool = False,
) -> tuple[str | None, str]:
    async with database.connect("custody_app") as connection:
        parameters = kek_id, "env", f"env:{kek_id}", fingerprint, seal, active
        row = (await connection.fetch(REGISTER, *parameters))[0]
        return row["fingerprint"], row["state"]


async def retire(database: Database, kek_id: str) -> str:
    async with database.connect("custody_rewrap") as connection:
        return str(await connection.fetchval(RETIRE, kek_id))


async def record(database: Database, kek_id: str) -> dict[str, Any]:
    return dict((await database.fetch(RECORD, kek_id))[0])


async def states(database: Database) -> dict[str, str]:
    return dict(await database.fetch("SELECT kek_id, state FROM auth.encryption_keks"))
