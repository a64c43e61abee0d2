"""Vaults by the hundred thousand, made without a daemon: wrapped here, copied in."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
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
    async with database.connect() as superuser:
        await superuser.copy_records_to_table(
            "users", schema_name="auth", columns=["id"], records=_users(keys)
        )
        await superuser.copy_records_to_table(
            "encryption_vaults",
            schema_name="auth",
            columns=list(_COLUMNS),
            records=_vaults(wrap, keys),
            timeout=600,
        )
        await superuser.execute("VACUUM ANALYZE auth.users, auth.encryption_vaults")


def _users(keys: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str]]:
    for user, _ in keys:
        yield (user,)


async def _vaults(
    wrap: WrapOne, keys: Iterable[tuple[str, bytes]]
) -> AsyncIterator[tuple[str, str, str, int, str, str]]:
    for user, key in keys:
        made = await wrap(user, key)
        check = key_check_value(user, key)
        yield user, made.wrapped_mk, made.wrap_iv, made.format_version, made.kek_id, check
