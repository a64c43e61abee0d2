"""Whether a KEK is what its kek_id stands for: by its record, or else by what it opens.

A record that is not sealed, or not rightly, may be anybody's who can write the database: it counts
as none. While no data key is open nothing can be judged: then what is recorded is believed, and
nothing is written.
"""

import hmac
from collections.abc import Mapping
from typing import Any, Protocol

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db.checkout import acquire
from custody.db.queries import query
from custody.db.scope import transaction
from kek_backends.base import Binding, KekBackend, Wrap
from kek_backends.errors import Misconfigured, Tampered

RETIRED = "retired"

_LABEL = "custody kek record v1"
_DOUBT_SECONDS = 3.0

log = structlog.get_logger()


class RecordSealer(Protocol):
    """Makes and judges the seals of records, under the data key that is open."""

    def seal(self, *fields: str | None) -> str | None:
        """Return the seal of these fields; None while no data key is open."""

    def judge(self, seal: str, *fields: str | None) -> bool | None:
        """Say whether a seal holds for these fields; None while that can't be judged."""


def seal_of(sealer: RecordSealer, kek_id: str, backend: str, fingerprint: str) -> str | None:
    """Return the seal of a KEK's record; None while no data key is open."""
    return sealer.seal(_LABEL, kek_id, backend, fingerprint)


def judge(sealer: RecordSealer, kek_id: str, record: Mapping[str, Any]) -> bool | None:
    """Say whether a record may be believed; None: that can't be judged now.

    Args:
        sealer: judges.
        kek_id: whose record.
        record: the columns of ``read_kek.sql``.
    """
    fields = _LABEL, kek_id, record["backend"], record["fingerprint"]
    if record["seal"] is None:
        return None if sealer.seal(*fields) is None else False
    return sealer.judge(record["seal"], *fields)


async def compare(
    engine: AsyncEngine,
    backend: KekBackend,
    kek_id: str,
    fingerprint: str,
    sealer: RecordSealer | None = None,
) -> bool:
    """Compare a KEK with its record, or else with rows and data keys that carry its kek_id.

    For a kek_id that rows already carry, the first fingerprint may be recorded only after one of
    those rows was unwrapped with it: a wrong key at the first boot can't lock out the right one.

    Args:
        engine: connections of a runtime role.
        backend: the KEK.
        kek_id: one that it holds.
        fingerprint: of its key material.
        sealer: judges the record; without one it is believed.

    Returns:
        True when the record says it, False when there is none that counts.

    Raises:
        Misconfigured: the key is not the one that the kek_id stands for.
        KekError: the KMS can't be asked now.
        DatabaseError: the database can't be asked now.
    """
    record = await _record_that_counts(engine, kek_id, fingerprint, sealer)
    if record is None:
        await _prove(engine, backend, kek_id)
        return False
    refuse_other_material(backend, kek_id, fingerprint, record, sealer)
    return True


def refuse_other_material(
    backend: KekBackend,
    kek_id: str,
    fingerprint: str,
    record: Mapping[str, Any],
    sealer: RecordSealer | None,
) -> None:
    """Refuse a KEK whose kek_id stands for other key material.

    Args:
        backend: the KEK.
        kek_id: one that it holds.
        fingerprint: of its key material.
        record: the columns of ``read_kek.sql``.
        sealer: whoever has not judged the record good says how to remove it.

    Raises:
        Misconfigured: the message names the cure.
    """
    known = record["fingerprint"]
    if known is not None and hmac.compare_digest(known.encode(), fingerprint.encode()):
        return
    doubtful = sealer is not None and judge(sealer, kek_id, record) is not True
    raise Misconfigured(
        f"KEK {backend.uri.text}: the kek_id {kek_id} stands for other key material; restore that "
        "key, or name the new one otherwise (?id=NEW_ID, or a new key in the KMS) and list the "
        "old one in CUSTODY_OLD_KEKS" + (_forget(kek_id) if doubtful else "")
    )


def retired(
    backend: KekBackend,
    kek_id: str,
    record: Mapping[str, Any] | None = None,
    sealer: RecordSealer | None = None,
    variable: str = "CUSTODY_KEK",
) -> str:
    """Say that a KEK that is to wrap is retired, and the cure.

    Args:
        backend: the KEK.
        kek_id: that it stamps.
        record: the columns of ``read_kek.sql``.
        sealer: as for :func:`refuse_other_material`.
        variable: which names it.
    """
    doubtful = record and sealer is not None and judge(sealer, kek_id, record) is not True
    return (
        f"KEK {backend.uri.text}: the kek_id {kek_id} is retired, and nothing is written under it "
        f"again; set {variable} to another KEK" + (_forget(kek_id) if doubtful else "")
    )


def _forget(kek_id: str) -> str:
    return f"; or, if that record is not yours: custody kek forget {kek_id}"


async def read_record(engine: AsyncEngine, kek_id: str) -> Mapping[str, Any] | None:
    """Return the columns of ``read_kek.sql``, or None where nothing is recorded."""
    async with acquire(engine) as connection:
        record: Mapping[str, Any] | None = await connection.fetchrow(query("read_kek"), kek_id)
    return record


async def _record_that_counts(
    engine: AsyncEngine, kek_id: str, fingerprint: str, sealer: RecordSealer | None
) -> Mapping[str, Any] | None:
    record = await read_record(engine, kek_id)
    if record is None or record["fingerprint"] is None:
        return None
    if sealer is None or judge(sealer, kek_id, record) is not False:
        return record
    if record["fingerprint"] != fingerprint:
        log.error("kek_record_poisoned", kek_id=kek_id, state=record["state"])
    if record["seal"] is not None:
        # It then is as one that nobody has sealed: rows that carry the kek_id may be seen.
        async with transaction(engine, _DOUBT_SECONDS) as connection:
            await connection.fetchval(query("doubt_kek"), kek_id, record["seal"])
    return None


async def _prove(engine: AsyncEngine, backend: KekBackend, kek_id: str) -> None:
    async with acquire(engine) as connection:
        rows = await connection.fetch(query("sample_wraps"), kek_id)
        keys = await connection.fetch(query("list_data_key_wraps"), kek_id) if rows else []
    bound = [(Binding(row["user_id"], row["generation"]), row["wrapped_mk"], row) for row in rows]
    # One data key that opens says more than rows that don't: anybody may have put those there.
    bound += [(Binding.of_data_key(key["data_key_id"]), key["wrapped_key"], key) for key in keys]
    for binding, wrapped, columns in bound:
        wrap = Wrap(wrapped, columns["wrap_iv"], columns["format_version"], kek_id)
        try:
            await backend.unwrap(binding, wrap)
        except Tampered:
            continue
        return
    if rows:
        raise Misconfigured(
            f"KEK {backend.uri.text}: this key opens none of the {len(rows)} rows tried that "
            f"carry the kek_id {kek_id}; configure the key that wrapped them"
        )
