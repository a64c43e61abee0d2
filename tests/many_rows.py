"""Vaults by the hundred thousand, made without a daemon: wrapped here, copied in."""

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

from custody.vault.key_check import key_check_value
from kek_backends.base import Wrap
from kek_backends.binding import Binding
from tests.bindings import GENERATION, of
from tests.servers import Database

WrapOne: TypeAlias = Callable[[Binding, bytes], Awaitable[Wrap]]

_COLUMNS = (
    "user_id",
    "generation",
    "wrapped_mk",
    "wrap_iv",
    "format_version",
    "kek_id",
    "key_check",
)


async def copy_rows(database: Database, wrap: WrapOne, keys: Iterable[tuple[str, bytes]]) -> None:
    """Make users and their vaults.

    Args:
        database: a migrated one.
        wrap: takes a binding and a master key; called for one after the other.
        keys: user ids, each with the master key; read twice.
    """

    async def vault(user: str, key: bytes) -> tuple[str | int, ...]:
        made = await wrap(of(user), key)
        columns = made.wrapped_mk, made.wrap_iv, made.format_version, made.kek_id
        return user, GENERATION, *columns, key_check_value(user, key)

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
