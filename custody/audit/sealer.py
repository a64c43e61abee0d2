"""Seals the audit: every row comes under a checkpoint soon, off the way of requests.

Any number of processes do it for one database; at one moment one of them does. What it seals is
settled (:mod:`custody.audit.settled`): no row can come before it any more.
"""

import asyncio
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.audit.checkpoint import Checkpoint
from custody.audit.head import Head, head_of, latest
from custody.audit.keys import Keys, Word
from custody.audit.merkle import HASH_SIZE, Tree
from custody.audit.note import Signer, sign
from custody.audit.pruned import left_of
from custody.audit.settled import STUCK, settled
from custody.datakeys.data_key import DataKey
from custody.datakeys.ring import Ring
from custody.db.engine import Connection
from custody.db.errors import DatabaseError
from custody.db.queries import query
from custody.db.scope import transaction

# The first eight bytes of SHA-256("custody audit seal"): any number that nobody else locks.
_LOCK = int.from_bytes(hashlib.sha256(b"custody audit seal").digest()[:8], "big", signed=True)
_PAGE = 20_000
# So many leaves take a millisecond, in which no request is served.
_SLICE = 1_000 * HASH_SIZE
_LOOK_BACK = 20
# A stranger's take 60 µs each, in which no request is served.
_LOOK_FURTHER = 100
_ORIGIN = "custody-audit/"

log = structlog.get_logger()


class Alarms(Protocol):
    """What rings when the audit is not what it was."""

    def audit_tampered(self, reason: str) -> None:
        """Ring since a checkpoint is not what was signed, or the log has become shorter."""


class Metrics(Protocol):
    """Metrics of the audit; see :class:`custody.ops.metrics.audit.Audit`."""

    def waiting(self, rows: int) -> None:
        """Show how many rows, at most, are not under a checkpoint."""

    def sealed(self, rows: int) -> None:
        """Count rows that were brought under a checkpoint."""

    def sealed_until(self, moment: float) -> None:
        """Show the moment up to which every row is under a checkpoint."""


class AuditSealer:
    """Makes the checkpoints of the audit.

    Args:
        engine: connections of the role custody_app.
        ring: the data keys; the current one signs.
        interval: seconds from one checkpoint to the next, while rows come.
        alarms: what rings.
        metrics: show how far it is.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        ring: Ring,
        interval: float,
        alarms: Alarms,
        metrics: Metrics | None = None,
    ) -> None:
        self._metrics = metrics
        self._engine = engine
        self._ring = ring
        self._interval = interval
        self._alarms = alarms
        # The log as this process has last seen it, and the latest checkpoint it has looked at.
        self._seen: Head | None = None
        self._looked_at = 0
        self._failure: str | None = None
        # How many rows the last look left behind the log; None: another process looked.
        self._behind: int | None = None

    @asynccontextmanager
    async def sealing(self) -> AsyncIterator[None]:
        """Seal, again and again, for the length of the block."""
        task = asyncio.create_task(self._keep_sealing())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task}, timeout=1.0)

    async def seal(self) -> int | None:
        """Bring every row that has been written under a checkpoint.

        Returns:
            How many rows that were; None: somebody writes for so long that nothing is settled.

        Raises:
            DatabaseError: the database can't be asked now.
        """
        if self._ring.current is None:
            return 0  # the readiness says so
        began = time.time()
        if (horizon := await settled(self._engine)) is None:
            return None
        sealed, self._behind = 0, None
        while (count := await self._seal_page(horizon, at_once=sealed > 0)) is not None:
            sealed += count
        self._show(sealed, began)
        return sealed

    def _show(self, sealed: int, began: float) -> None:
        """Show how far the log goes, if this process has looked at it to its end."""
        if self._metrics is None or self._behind is None:
            return
        self._metrics.sealed(sealed)
        self._metrics.waiting(self._behind)
        if not self._behind:
            self._metrics.sealed_until(began)

    async def _keep_sealing(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            try:
                if await self.seal() is None:
                    self._wait(STUCK)
                else:
                    self._failure = None
            except DatabaseError as error:
                self._wait(str(error) or type(error).__name__)
            except Exception as error:  # noqa: BLE001 - this must go on for ever
                self._wait(type(error).__name__)

    def _wait(self, reason: str) -> None:
        if self._failure is None:
            log.warning("audit_seal_waits", reason=reason)
        self._failure = reason

    async def _seal_page(self, horizon: int, *, at_once: bool) -> int | None:
        """Make one more checkpoint; return how many rows are new under it, or None: none is due."""
        async with transaction(self._engine) as connection:
            # Another process is at it: it sees what we see.
            if not await connection.fetchval(query("try_lock"), _LOCK):
                return None
            key = self._ring.current
            rows = await connection.fetch(query("list_audit_checkpoints"), None, _LOOK_BACK)
            if key is None or not (at_once or _is_due(rows, self._interval)):
                return None
            words = await connection.fetch(query("read_ended_words"))
            keys = Keys(self._ring.open_keys, [row["word"] for row in words])
            heads = [head_of(row, keys) for row in rows]
            self._look_at(rows, heads)
            head = latest([*heads, *await self._older(connection, keys, rows, heads)])
            await self._look_back(connection, keys, head)
            if rows and head is None:
                return None  # there is nothing to go on from, and that is for people to mend
            self._behind = horizon if head is None else max(0, horizon - head.checkpoint.last_row)
            last_row, count, leaves = await _next_page(connection, head, horizon)
            if not count:
                self._behind = 0  # numbers that no row has
            if not count and (head is None or _is_word_of(key, head)):
                return None
            tree = await _extended(Tree() if head is None else head.tree, leaves)
            origin = f"{_ORIGIN}{secrets.token_hex(16)}" if head is None else head.checkpoint.origin
            said = Checkpoint(origin, tree.size, tree.root, last_row)
            note = sign(said.text, Signer(origin, key.audit_signer))
            behind = rows[0]["number"] if rows else 0
            added = await connection.fetchval(
                query("add_audit_checkpoint"), behind, tree.size, last_row, tree.hashes, note
            )
        if not added:
            return None
        if head is None:
            log.info("audit_log_begun", origin=origin)
        self._seen = Head(behind + 1, said, tree, Word.OURS, note)
        return int(count)

    def _look_at(self, rows: Sequence[Mapping[str, Any]], heads: Sequence[Head | None]) -> None:
        """Ring where a checkpoint that we have not looked at yet is not what was signed."""
        for row, head in zip(rows, heads, strict=True):
            if row["number"] > self._looked_at and (head is None or head.word is Word.NOBODY):
                self._alarms.audit_tampered("checkpoint")
                break
        self._looked_at = rows[0]["number"] if rows else 0

    async def _older(
        self,
        connection: Connection,
        keys: Keys,
        rows: Sequence[Mapping[str, Any]],
        heads: Sequence[Head | None],
    ) -> list[Head]:
        """Return the newest of the older checkpoints that is ours, where none of these is.

        For whoever has the daemon's password adds as many of his own as he likes.
        """
        while rows and not any(head is not None and head.word is Word.OURS for head in heads):
            rows = await connection.fetch(
                query("list_audit_checkpoints"), rows[-1]["number"], _LOOK_FURTHER
            )
            heads = [head_of(row, keys) for row in rows]
            await asyncio.sleep(0)
        return [head for head in heads if head is not None and head.word is Word.OURS]

    async def _look_back(self, connection: Connection, keys: Keys, head: Head | None) -> None:
        """Ring where the log does not go through what this process has seen of it any more.

        A backup was restored, a failover lost rows, or somebody has cut it off or written it anew:
        a key of his own signs what he likes.
        """
        if self._seen is not None:
            found = await connection.fetch(query("find_audit_checkpoint"), self._seen.number, None)
            there = head_of(found[0], keys) if found else None
            is_it = there is not None and there.checkpoint == self._seen.checkpoint
            if not is_it and (found or not await self._was_pruned(connection, keys)):
                self._alarms.audit_tampered("shorter")
        self._seen = head

    async def _was_pruned(self, connection: Connection, keys: Keys) -> bool:
        """Say whether the owner has let go of the checkpoint that this process has seen last."""
        found = await connection.fetch(query("read_audit_prune"))
        left = left_of(found[0], keys) if found else None
        seen = self._seen
        return (
            left is not None
            and seen is not None
            and left.word is Word.OURS
            and left.said.origin == seen.checkpoint.origin
            and left.said.checkpoint > seen.number
        )


def _is_due(rows: Sequence[Mapping[str, Any]], interval: float) -> bool:
    """Say whether it is time for a checkpoint: another process may have made one just now.

    Where the clock was set back, the newest one seems to be of the future: then it is time.
    """
    return not rows or not 0 <= rows[0]["age"] < interval / 2


def _is_word_of(key: DataKey, head: Head) -> bool:
    """Say whether a data key has signed a checkpoint: a new one soon signs one, rows or not."""
    return Keys([key]).read(head.note)[1] is Word.OURS


async def _next_page(
    connection: Connection, head: Head | None, horizon: int
) -> tuple[int, int, bytes]:
    """Return the next rows: up to which number, how many, and their hashes."""
    last_row, count, leaves = 0 if head is None else head.checkpoint.last_row, 0, b""
    while not count and last_row < horizon:
        (page,) = await connection.fetch(query("audit_leaves"), last_row, horizon, _PAGE)
        last_row, count, leaves = page["last_row"], page["count"], page["leaves"]
    return last_row, count, leaves


async def _extended(tree: Tree, leaves: bytes) -> Tree:
    for start in range(0, len(leaves), _SLICE):
        tree = tree.extended(leaves[start : start + _SLICE])
        await asyncio.sleep(0)
    return tree
