"""The handlers: one vault call each, then its JSON."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from custody.http.payloads import (
    EnableZeroKnowledge,
    OkAnswer,
    RecoveryWrapBody,
    StatusAnswer,
    ZeroKnowledgeAnswer,
    key_answer,
)
from custody.vault.model import Caller, RecoveryWrap
from custody.vault.service import VaultService


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer.

    Args:
        body: what is sent as JSON.
        generation: of the vault, where the answer has an ETag.
    """

    body: BaseModel
    generation: int | None = None


Handler = Callable[[VaultService, Caller, Any], Awaitable[Answer]]


async def get_status(vault: VaultService, caller: Caller, _body: None) -> Answer:
    """GET /status."""
    return Answer(StatusAnswer.of(await vault.status(caller)))


async def init(vault: VaultService, caller: Caller, _body: None) -> Answer:
    """POST /init."""
    key = await vault.init(caller)
    return Answer(key_answer(key), key.generation)


async def get_key(vault: VaultService, caller: Caller, _body: None) -> Answer:
    """GET /key."""
    key = await vault.fetch(caller)
    return Answer(key_answer(key), key.generation)


async def rotate(vault: VaultService, caller: Caller, _body: None) -> Answer:
    """POST /rotate."""
    key = await vault.rotate(caller)
    return Answer(key_answer(key), key.generation)


async def set_recovery_wrap(vault: VaultService, caller: Caller, body: RecoveryWrapBody) -> Answer:
    """POST /recovery-wrap."""
    await vault.set_recovery(
        caller, RecoveryWrap(wrapped_mk=body.recovery_wrapped_mk, iv=body.recovery_iv)
    )
    return Answer(OkAnswer(ok=True))


async def clear_recovery_wrap(vault: VaultService, caller: Caller, _body: None) -> Answer:
    """DELETE /recovery-wrap."""
    await vault.clear_recovery(caller)
    return Answer(OkAnswer(ok=True))


async def set_zero_knowledge(vault: VaultService, caller: Caller, body: Any) -> Answer:
    """POST /zero-knowledge."""
    if isinstance(body, EnableZeroKnowledge):
        await vault.enable_zero_knowledge(caller)
    else:
        await vault.disable_zero_knowledge(caller, body.master_key)
    return Answer(ZeroKnowledgeAnswer(ok=True, zero_knowledge=body.enable))
