"""The handlers: one vault call each, then its JSON."""

from collections.abc import Awaitable, Callable
from typing import Any

from pydantic_core import to_json

from custody.http.payloads import (
    EnableZeroKnowledge,
    OkAnswer,
    RecoveryWrapBody,
    ResetBody,
    ZeroKnowledgeAnswer,
    key_response,
    status_response,
    trail_response,
)
from custody.http.response import Response
from custody.vault.model import Caller, MasterKey, Page, RecoveryBlob, RecoveryWrap
from custody.vault.service import VaultService

Handler = Callable[[VaultService, Caller, Any], Awaitable[Response]]


async def get_status(vault: VaultService, caller: Caller, _body: None) -> Response:
    """GET /status."""
    return Response(to_json(status_response(await vault.status(caller))))


async def get_audit(vault: VaultService, caller: Caller, page: Page) -> Response:
    """GET /audit."""
    return Response(to_json(trail_response(await vault.trail(caller, page))))


async def init(vault: VaultService, caller: Caller, _body: None) -> Response:
    """POST /init."""
    return _key(await vault.init(caller))


async def get_key(vault: VaultService, caller: Caller, _body: None) -> Response:
    """GET /key."""
    return _key(await vault.fetch(caller))


async def rotate(vault: VaultService, caller: Caller, _body: None) -> Response:
    """POST /rotate."""
    return _key(await vault.rotate(caller))


async def begin_rotation(vault: VaultService, caller: Caller, _body: None) -> Response:
    """POST /rotation."""
    return _key(await vault.begin_rotation(caller))


async def end_rotation(vault: VaultService, caller: Caller, _body: None) -> Response:
    """DELETE /rotation."""
    await vault.end_rotation(caller)
    return _ok({"ok": True})


async def reset(vault: VaultService, caller: Caller, _body: ResetBody) -> Response:
    """POST /reset."""
    return _key(await vault.reset(caller))


async def set_recovery_wrap(
    vault: VaultService, caller: Caller, body: RecoveryWrapBody
) -> Response:
    """POST /recovery-wrap."""
    await vault.set_recovery(
        caller, RecoveryWrap(wrapped_mk=body.recovery_wrapped_mk, iv=body.recovery_iv)
    )
    return _ok({"ok": True})


async def clear_recovery_wrap(vault: VaultService, caller: Caller, _body: None) -> Response:
    """DELETE /recovery-wrap."""
    await vault.clear_recovery(caller)
    return _ok({"ok": True})


async def set_zero_knowledge(vault: VaultService, caller: Caller, body: Any) -> Response:
    """POST /zero-knowledge."""
    if isinstance(body, EnableZeroKnowledge):
        await vault.enable_zero_knowledge(caller)
    else:
        await vault.disable_zero_knowledge(caller, body.master_key)
    return _ok({"ok": True, "zeroKnowledge": body.enable})


def _key(key: MasterKey | RecoveryBlob) -> Response:
    # Strong: it names the key, and so the generation that If-Match is compared with.
    return Response(to_json(key_response(key)), headers={"ETag": f'"{key.generation}"'})


def _ok(body: OkAnswer | ZeroKnowledgeAnswer) -> Response:
    return Response(to_json(body))
