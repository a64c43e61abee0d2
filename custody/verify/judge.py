"""Judges one row as a request would: its seal, its wrap, and the key that comes out of that.

The key is compared with the key check value and dropped; it is in no report and no log.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from custody.datakeys.data_key import PREFIX_SIZE, DataKey, id_of
from custody.datakeys.errors import DataKeyUnavailable, NoSuchDataKey
from custody.datakeys.records import does_not_open
from custody.datakeys.ring import RESTORE, Ring
from custody.vault.key_check import is_master_key
from custody.vault.model import PreviousKey
from custody.vault.previous import open_previous
from custody.vault.sealed_state import SealedState
from custody.verify.report import Fault, Kind
from kek_backends.base import FORMAT_CURRENT, Wrap
from kek_backends.binding import Binding
from kek_backends.errors import KekError, Tampered, Transient, UnknownKek
from kek_backends.keyring import Keyring

# A KMS gives up by itself before; a backend of others may not.
_UNWRAP_SECONDS = 10.0
# So many failures one after the other: a KEK that is away is not asked for each row.
_ENOUGH = 10

_SEAL = "the row is not what was sealed: somebody wrote to it, or half a backup was restored"
_FORMAT = "a sealed row has a wrap of an old format, or no key check value: it was put there"
_WRAP = "the wrap does not open for this user and generation"
_NO_WRAP = "there is no whole wrap, and zero-knowledge mode is off"
_KEY_CHECK = "the wrap opens to another key than this user's"
_PREVIOUS = "a rotation is pending, and the key before does not open under the live one"
_RECOVERY = "zero-knowledge mode is on, and there is no recovery wrap that a client can open"
_LEGACY = (
    "the rows were never sealed, and are refused: set CUSTODY_LEGACY_ROWS=accept and run: "
    "custody rewrap run"
)


class Judge:
    """Says of rows why they do not open.

    Args:
        keyring: all that users' keys are wrapped under.
        ring: the data keys, loaded.
        wait: waits for the turn of a call that a KMS gets.
        others: kek_ids that stand for other key material than is configured, each with why.
        legacy: whether rows that were never sealed are accepted.
    """

    def __init__(
        self,
        keyring: Keyring,
        ring: Ring,
        wait: Callable[[], Awaitable[None]],
        others: Mapping[str, str],
        *,
        legacy: bool,
    ) -> None:
        self._keyring = keyring
        self._ring = ring
        self._wait = wait
        self._others = others
        self._legacy = legacy
        self._failures: Counter[str] = Counter()
        self._gave_up: dict[str, Fault] = {}

    async def judge(self, row: Mapping[str, Any]) -> Fault | None:
        """Say why a row does not open; None: it does.

        Args:
            row: the columns of ``sql/queries/read_every_row.sql``, as the database has them.
        """
        if row["seal"] is not None:
            if (fault := await self._seal(row)) is not None:
                return fault
        elif not self._legacy:
            return Fault(Kind.LEGACY, "", _LEGACY)
        if not row["zero_knowledge"]:
            return await self._wrap(row)
        formed = row["recovery_is_formed"] and row["wrapped_mk"] is None
        return None if formed else Fault(Kind.RECOVERY, "", _RECOVERY)

    async def _wrap(self, row: Mapping[str, Any]) -> Fault | None:
        parts = row["wrapped_mk"], row["wrap_iv"], row["format_version"], row["kek_id"]
        if None in parts:
            return Fault(Kind.WRAP, "", _NO_WRAP)
        wrap = Wrap(*parts)
        if row["seal"] is not None and (
            wrap.format_version < FORMAT_CURRENT or row["key_check"] is None
        ):
            return Fault(Kind.FORMAT, "", _FORMAT)
        return await self._open(row, wrap)

    async def _seal(self, row: Mapping[str, Any]) -> Fault | None:
        seal = row["seal"]
        prefix, mac = seal[:PREFIX_SIZE], seal[PREFIX_SIZE:]
        key = self._ring.find(prefix)
        if key is None:
            key_or_fault = await self._data_key(prefix)
            if isinstance(key_or_fault, Fault):
                return key_or_fault
            key = key_or_fault
        message = SealedState.of(row).message(row["user_id"])
        return None if key.row_seal.is_mac(mac, message) else Fault(Kind.SEAL, "", _SEAL)

    async def _data_key(self, prefix: str) -> DataKey | Fault:
        """Return the data key that a seal names, or why it is not open."""
        try:
            return await self._ring.get(prefix)
        except DataKeyUnavailable as error:
            return self._closed(id_of(prefix) or "", str(error))
        except NoSuchDataKey:
            key_id = id_of(prefix)
            record = None if key_id is None else self._ring.record(key_id)
            if key_id is not None and record is not None:
                under = [one.kek_id for one in record.wraps]
                if others := [kek_id for kek_id in under if kek_id in self._others]:
                    return Fault(Kind.KEK_OTHER, others[0], self._others[others[0]])
                return Fault(Kind.DATA_KEY, key_id, does_not_open(record, *under))
            if key_id is None or self._ring.current is not None:
                # Of a seal that names nothing at all the row is to blame, not the data keys.
                return Fault(Kind.SEAL, "", _SEAL)
            return Fault(
                Kind.DATA_KEY, key_id, f"there is no record of the data key {key_id}: {RESTORE}"
            )

    def _closed(self, key_id: str, reason: str) -> Fault:
        """Return why a data key of ours is not open: its KEK is not configured, or is away."""
        record = self._ring.record(key_id)
        wraps = () if record is None else record.wraps
        unknown = [wrap.kek_id for wrap in wraps if self._keyring.find(wrap.kek_id) is None]
        if record is not None and not record.is_lost and len(unknown) == len(wraps) > 0:
            return Fault(Kind.KEK_MISSING, ", ".join(unknown), reason)
        is_gone = record is None or record.is_lost
        return Fault(Kind.DATA_KEY if is_gone else Kind.DATA_KEY_AWAY, key_id, reason)

    async def _open(self, row: Mapping[str, Any], wrap: Wrap) -> Fault | None:
        kek_id = wrap.kek_id
        if kek_id in self._others:
            return Fault(Kind.KEK_OTHER, kek_id, self._others[kek_id])
        if (gave_up := self._gave_up.get(kek_id)) is not None:
            return gave_up
        binding = Binding(row["user_id"], row["generation"])
        holder = self._keyring.find(kek_id)
        try:
            if holder is not None and not holder.in_process:
                await self._wait()
            async with asyncio.timeout(_UNWRAP_SECONDS):
                key = await self._keyring.unwrap(binding, wrap)
        except (KekError, TimeoutError) as error:
            return self._failure(kek_id, error)
        self._failures.pop(kek_id, None)
        check = row["key_check"]
        if check is not None and not is_master_key(row["user_id"], key, check):
            return Fault(Kind.KEY_CHECK, "", _KEY_CHECK)
        return _previous(row, key)

    def _failure(self, kek_id: str, error: KekError | TimeoutError) -> Fault:
        if isinstance(error, Tampered):
            self._failures.pop(kek_id, None)
            return Fault(Kind.WRAP, "", _WRAP)
        fault = self._fault_of(kek_id, error)
        self._failures[kek_id] += 1
        if self._failures[kek_id] >= _ENOUGH:
            self._gave_up[kek_id] = fault
        return fault

    def _fault_of(self, kek_id: str, error: KekError | TimeoutError) -> Fault:
        message = str(error) or f"{kek_id}: no answer in time"
        if isinstance(error, UnknownKek):
            return Fault(Kind.KEK_MISSING, kek_id, message)
        if not isinstance(error, Transient | TimeoutError):
            return Fault(Kind.KEK_REFUSES, kek_id, message)
        if id_of(f"1.{kek_id}.") is not None and self._ring.record(kek_id) is not None:
            return self._closed(kek_id, message)
        return Fault(Kind.KEK_AWAY, kek_id, message)


def _previous(row: Mapping[str, Any], live: bytes) -> Fault | None:
    """Say why the key before does not open, where a rotation is pending."""
    parts = row["previous_generation"], row["previous_wrapped_mk"], row["previous_wrap_iv"]
    if parts == (None, None, None):
        return None
    try:
        if row["seal"] is None or None in parts:
            raise Tampered("whoever begins a rotation seals the row, and stores all of it")
        open_previous(row["user_id"], live, PreviousKey(*parts))
    except Tampered:
        return Fault(Kind.WRAP, "", _PREVIOUS)
    return None
