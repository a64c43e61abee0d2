"""What tests of data keys share: ids, records, and whoever seals with a key that is fixed."""

import hashlib
import hmac
import secrets
from typing import Any

from custody.keks.registry import RecordSealer
from tests.servers import Database

ADD = "SELECT auth.custody_add_data_key($1, 'seal', $2, 'wrapped', '', $3)"
PUT = "SELECT auth.custody_put_data_key_wrap($1, $2, $3, '', $4)"
DROP = "SELECT auth.custody_drop_data_key_wrap($1, $2, $3)"
FORGET = "SELECT auth.custody_forget_kek($1)"
RETIRE = "SELECT auth.custody_retire_kek($1)"


def new_id() -> str:
    """Return the id of a data key."""
    return f"dk-{secrets.token_hex(16)}"


async def ask(database: Database, role: str, sql: str, *parameters: Any) -> Any:
    """Ask for one value as a role."""
    async with database.connect(role) as connection:
        return await connection.fetchval(sql, *parameters)


async def add(database: Database, kek_id: str = "env-v1", *, bad: tuple[str, ...] = ()) -> str:
    """Add a data key as a daemon does; return the id of the one that is there then."""
    return str(await ask(database, "custody_app", ADD, new_id(), kek_id, list(bad)))


async def add_sealed_row(database: Database, user: str, seal: str, kek_id: str = "env-v1") -> None:
    """Add a row as superuser."""
    await database.execute("INSERT INTO auth.users (id) VALUES ($1)", user)
    await database.execute(
        "INSERT INTO auth.encryption_vaults (user_id, wrapped_mk, wrap_iv, format_version, kek_id,"
        " key_check, seal) VALUES ($1, 'w', 'iv', 3, $2, 'check', $3)",
        user,
        kek_id,
        seal,
    )


class FixedSealer(RecordSealer):
    """Seals under a key of its own.

    Args:
        key: of whoever makes seals.
        is_open: whether it has its data key.
    """

    def __init__(self, key: bytes = b"k", *, is_open: bool = True) -> None:
        self._key = key
        self.is_open = is_open

    def seal(self, *fields: str | None) -> str | None:
        """Return the seal of these fields; None while it is not open."""
        return self._mac(fields) if self.is_open else None

    def judge(self, seal: str, *fields: str | None) -> bool | None:
        """Say whether a seal holds; None while it is not open."""
        return seal == self._mac(fields) if self.is_open else None

    def _mac(self, fields: tuple[str | None, ...]) -> str:
        return hmac.digest(self._key, repr(fields).encode(), hashlib.sha256).hex()
