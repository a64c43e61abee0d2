"""A kek_id can never come to mean other key material: its fingerprint is kept in the database."""

import hmac
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db.queries import query
from custody.db.scope import connection
from kek_backends.base import KekBackend, Wrap
from kek_backends.errors import KekError, Misconfigured
from kek_backends.keyring import Keyring


async def confirm(engine: AsyncEngine, keyring: Keyring) -> None:
    """Hold every KEK with key material against its recorded fingerprint, and record new ones.

    For a kek_id that rows already carry, the first fingerprint is recorded only after one of
    those rows was unwrapped with it: a wrong key at the first boot can't lock out the right one.

    Args:
        engine: connections of the role custody_app.
        keyring: the configured KEKs.

    Raises:
        Misconfigured: other material is recorded under the kek_id, or the key opens none of the
            rows that carry it.
        DatabaseError: the database can't be asked now.
    """
    for backend in keyring:
        if not await compare(engine, backend) and backend.fingerprint is not None:
            async with connection(engine) as held:
                await held.execute(query("record_fingerprint"), backend.kek_id, backend.fingerprint)
            # Another instance may have recorded another one first: then we are wrong.
            await compare(engine, backend)


async def compare(engine: AsyncEngine, backend: KekBackend) -> bool:
    """Hold a KEK against its recorded fingerprint, or else against rows that carry its kek_id.

    Args:
        engine: connections of the role custody_app.
        backend: the KEK.

    Returns:
        True when the fingerprint is recorded, False when none is yet.

    Raises:
        Misconfigured: the key is not the one that the kek_id stands for.
        DatabaseError: the database can't be asked now.
    """
    if backend.fingerprint is None:
        return False
    async with connection(engine) as held:
        recorded = await held.fetchval(query("read_fingerprint"), backend.kek_id)
        if recorded is None:
            rows = await held.fetch(query("sample_wraps"), backend.kek_id)
    if recorded is None:
        await _prove(backend, rows)
        return False
    if not hmac.compare_digest(recorded.encode(), backend.fingerprint.encode()):
        raise Misconfigured(
            f"KEK {backend.uri.text}: the kek_id {backend.kek_id} stands for other key material; "
            "restore that key, or name the new one with ?id=NEW_ID and list the old one in "
            "CUSTODY_OLD_KEKS"
        )
    return True


async def _prove(backend: KekBackend, rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        wrap = Wrap(row["wrapped_mk"], row["wrap_iv"], row["format_version"], backend.kek_id)
        try:
            await backend.unwrap(row["user_id"], wrap)
        except KekError:
            continue
        return
    if rows:
        raise Misconfigured(
            f"KEK {backend.uri.text}: this key opens none of the {len(rows)} rows tried that "
            f"carry the kek_id {backend.kek_id}; configure the key that wrapped them"
        )
