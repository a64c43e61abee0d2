"""What an audit row says."""

import random
import time
from enum import StrEnum
from typing import NamedTuple

# What an audit row says of the state in which an erasure leaves a vault.
ERASED = "erased"


class Action(StrEnum):
    """The actions of users, the re-wrap worker and the owner, as the column ``action`` has them."""

    INIT = "init"
    FETCH = "fetch"
    FAILED_FETCH = "failed_fetch"
    ROTATE = "rotate"
    ROTATION_BEGIN = "rotation_begin"
    ROTATION_END = "rotation_end"
    RESET = "reset"
    RECOVERY_SET = "recovery_set"
    RECOVERY_CLEAR = "recovery_clear"
    ZK_ENABLE = "zk_enable"
    ZK_DISABLE = "zk_disable"
    REWRAP_RUN = "rewrap_run"
    REWRAP_FAILED = "rewrap_failed"
    ERASE = "erase"
    PRUNE = "prune"


class Event(NamedTuple):
    """One audit row.

    Args:
        id: of the action: a second try to record the same action adds no second row.
        user_id: whose vault; empty for a run.
        ip_address: of the client, or None.
        user_agent: of the client, or None.
        action: what was asked.
        context: a short fixed phrase, or None where the action says it all.
        status: the HTTP status that is sent.
        state: of a change, the digest of the state in which it leaves the vault; None: it is none.
    """

    id: str
    user_id: str
    ip_address: str | None
    user_agent: str | None
    action: Action
    context: str | None
    status: int
    state: str | None = None


def event_id() -> str:
    """Return a time-ordered id (UUID version 7, RFC 9562, section 5.7).

    It tells actions apart and keeps no secret: of the kernel its 74 random bits would cost each
    request a system call.
    """
    clock = f"{time.time_ns() // 1_000_000:012x}"
    # The variant's two bits come first of what is behind the version's digits.
    rest = f"{1 << 75 | random.getrandbits(74):019x}"
    return f"{clock[:8]}-{clock[8:]}-7{rest[16:]}-{rest[:4]}-{rest[4:16]}"
