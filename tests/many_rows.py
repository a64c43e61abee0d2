"""Vaults by the hundred thousand, made without a daemon: wrapped and sealed here, copied in."""

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

from custody.datakeys.data_key import DataKey
from custody.vault.key_check import key_check_value
from custody.vault.sealed_state import SealedState
from kek_backends.base import KekBackend, Wrap
from kek_backends.binding import Binding
from tests.bindings import GENERATION, of
from tests.sealed_rows import data_key_of
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
    "seal",
)


async def copy_rows(
    database: Database,
    kek: KekBackend,
    keys: Iterable[tuple[str, bytes]],
    wrap: WrapOne | None = None,
) -> DataKey:
    """Make users and their vaults; return the data key that seals them.

    Args:
        database: a migrated one; it gets a data key where it has none.
        kek: wraps the master keys and the data key.
        keys: user ids, each with the master key; read twice.
        wrap: instead of the KEK's, where wraps were made already; called for one after the other.
    """
    data_key = await data_key_of(database, kek)
    wrap_one = wrap or kek.wrap

    async def vault(user: str, key: bytes) -> tuple[str | int, ...]:
        made, check = await wrap_one(of(user), key), key_check_value(user, key)
        columns = made.wrapped_mk, made.wrap_iv, made.format_version, made.kek_id
        return user, GENERATION, *columns, check, first_state(check).seal(data_key, user)

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
    return data_key


def first_state(check: str) -> SealedState:
    """Return what is sealed of a vault without a recovery wrap that nobody has changed yet.

    Args:
        check: the key check value.
    """
    return SealedState(
        generation=GENERATION,
        serial=0,
        zero_knowledge=False,
        key_check=check,
        recovery_digest=None,
        recovery_format_version=1,
        recovery_set_at=None,
        has_wrap=True,
    )
