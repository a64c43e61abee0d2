"""Vaults by the hundred thousand, made without a daemon: wrapped here, copied in."""

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

from custody.vault.key_check import key_check_value
from kek_backends.base import Wrap
from tests.servers import Database

WrapOne: TypeAlias = Callable[[str, bytes], Awaitable[Wrap]]

_COLUMNS = ("user_id", "wrapped_mk", "wrap_iv", "format_version", "kek_id", "key_check")


async def copy_rows(database: Database, wrap: WrapOne, keys: Iterable[tuple[str, bytes]]) -> None:
    """Make users and their vaults.

    Args:
        database: a migrated one.
        wrap: takes a user id and a master key; called for one after the other.
        keys: user ids, each with the master key; read twice.
    """

    async def vault(user: str, key: bytes) -> tuple[str | int, ...]:
        made, check = await wrap(user, key), key_check_value(user, key)
        return user, made.wrapped_mk, made.wrap_iv, made.format_version, made.kek_id, check

    async with database.connect() as superuser:
        users = ((user,) for user, _ in keys)
        await superuser.copy_records_to_table(
            "users", schema_name="auth", columns=["id"], records=users
        )
        await superuser.copy_records_to_table(
            "encryption_vaults",
            schema_name="auth",
            columns=list(_COLUMNS),
            records=(await vault(user, key) for user, key in keys),
            timeout=600,
        )
        await superuser.execute("VACUUM ANALYZE auth.users, auth.encryption_vaults")
