"""The table of routes: what the daemon serves and what the OpenAPI document says."""

from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from custody.http import handlers
from custody.http.handlers import Handler
from custody.http.payloads import (
    RECOVERY_WRAP_BODY,
    RESET_BODY,
    ZERO_KNOWLEDGE_BODY,
    AuditAnswer,
    MasterKeyAnswer,
    OkAnswer,
    RecoveryBlobAnswer,
    StatusAnswer,
    ZeroKnowledgeAnswer,
)

BASE_PATH = "/api/v1/me/encryption-vault"

KEY_RESPONSE: TypeAdapter[Any] = TypeAdapter(MasterKeyAnswer | RecoveryBlobAnswer)


@dataclass(frozen=True, slots=True)
class Route:
    """One route.

    Args:
        method: HTTP method.
        path: below the base path.
        handler: makes the vault call.
        summary: one line for the document.
        response: the type of the JSON of a 200.
        body: the type of the JSON that is read, or None where a body is ignored.
        takes_if_match: whether the precondition is honoured.
        has_etag: whether the response carries the generation.
        is_paged: whether it answers a page at a time, and reads the query that says which.
        needs_step_up: whether it can lose or unlock a key for good.
        needs_fresh_login: whether it needs a fresh login, also where no step-up is set.
        is_opt_in: whether it is there only where the operator has said so.
        refusals: codes of the state table, with their status.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    response: TypeAdapter[Any]
    body: TypeAdapter[Any] | None = None
    takes_if_match: bool = False
    has_etag: bool = False
    is_paged: bool = False
    needs_step_up: bool = False
    needs_fresh_login: bool = False
    is_opt_in: bool = False
    refusals: tuple[tuple[int, str], ...] = ()

    @property
    def name(self) -> str:
        """The operation's name in documents, logs and metrics."""
        return self.handler.__name__


_UNKNOWN = (404, "USER_UNKNOWN")
_NO_VAULT = (404, "VAULT_NOT_INITIALISED")
_ZK_ROTATE = (409, "ZK_ROTATE_FORBIDDEN")
_PENDING = (409, "ROTATION_PENDING")
_STALE = (412, "STALE_GENERATION")
_UNWRAP = (500, "UNWRAP_FAILED")
_TAMPERED = (500, "ROW_TAMPERED")
_KEK = (503, "KEK_UNAVAILABLE")
_AUDIT = (503, "AUDIT_UNAVAILABLE")
_OUTCOME = (503, "OUTCOME_UNKNOWN")

ROUTES = (
    Route(
        method="GET",
        path="/status",
        handler=handlers.get_status,
        summary="What there is, without unlocking it; leaves no audit row",
        response=TypeAdapter(StatusAnswer),
        refusals=(_TAMPERED, _KEK),
    ),
    Route(
        method="GET",
        path="/audit",
        handler=handlers.get_audit,
        summary="What was done with the vault, the newest first; leaves no audit row",
        response=TypeAdapter(AuditAnswer),
        is_paged=True,
        refusals=(_UNKNOWN,),
    ),
    Route(
        method="POST",
        path="/init",
        handler=handlers.init,
        summary="The master key; made if there is none yet. Idempotent",
        response=KEY_RESPONSE,
        has_etag=True,
        refusals=(_UNKNOWN, _TAMPERED, _UNWRAP, _KEK, _AUDIT, _OUTCOME),
    ),
    Route(
        method="GET",
        path="/key",
        handler=handlers.get_key,
        summary="The master key, or in zero-knowledge mode the recovery wrap",
        response=KEY_RESPONSE,
        has_etag=True,
        refusals=(_UNKNOWN, _NO_VAULT, _TAMPERED, _UNWRAP, _KEK, _AUDIT),
    ),
    Route(
        method="POST",
        path="/rotate",
        handler=handlers.rotate,
        summary="A fresh master key replaces the old one for good, and removes the recovery wrap",
        response=TypeAdapter(MasterKeyAnswer),
        takes_if_match=True,
        has_etag=True,
        needs_step_up=True,
        refusals=(
            _UNKNOWN,
            _ZK_ROTATE,
            _PENDING,
            _STALE,
            _TAMPERED,
            _KEK,
            _AUDIT,
            _OUTCOME,
        ),
    ),
    Route(
        method="POST",
        path="/rotation",
        handler=handlers.begin_rotation,
        summary="A fresh master key, and the one before beside it until DELETE /rotation. "
        "Removes the recovery wrap. Idempotent while it is pending",
        response=TypeAdapter(MasterKeyAnswer),
        takes_if_match=True,
        has_etag=True,
        needs_step_up=True,
        refusals=(_UNKNOWN, _ZK_ROTATE, _STALE, _TAMPERED, _UNWRAP, _KEK, _AUDIT, _OUTCOME),
    ),
    Route(
        method="DELETE",
        path="/rotation",
        handler=handlers.end_rotation,
        summary="All is re-encrypted: the master key before goes for good",
        response=TypeAdapter(OkAnswer),
        takes_if_match=True,
        needs_step_up=True,
        refusals=(_UNKNOWN, _NO_VAULT, _STALE, _TAMPERED, _KEK, _AUDIT, _OUTCOME),
    ),
    Route(
        method="POST",
        path="/reset",
        handler=handlers.reset,
        summary="Begin again with a fresh master key: all that was encrypted is lost. "
        "Only where CUSTODY_RESET=on, else 404",
        response=TypeAdapter(MasterKeyAnswer),
        body=RESET_BODY,
        takes_if_match=True,
        has_etag=True,
        needs_step_up=True,
        needs_fresh_login=True,
        is_opt_in=True,
        refusals=(_UNKNOWN, _STALE, _TAMPERED, _KEK, _AUDIT, _OUTCOME),
    ),
    Route(
        method="POST",
        path="/recovery-wrap",
        handler=handlers.set_recovery_wrap,
        summary="Store or replace the recovery wrap that the client built",
        response=TypeAdapter(OkAnswer),
        body=RECOVERY_WRAP_BODY,
        takes_if_match=True,
        needs_step_up=True,
        refusals=(_UNKNOWN, _NO_VAULT, _STALE, _TAMPERED, _UNWRAP, _KEK, _AUDIT, _OUTCOME),
    ),
    Route(
        method="DELETE",
        path="/recovery-wrap",
        handler=handlers.clear_recovery_wrap,
        summary="Remove the recovery wrap",
        response=TypeAdapter(OkAnswer),
        takes_if_match=True,
        needs_step_up=True,
        refusals=(
            _UNKNOWN,
            _NO_VAULT,
            (409, "ZK_ACTIVE"),
            _STALE,
            _TAMPERED,
            _UNWRAP,
            _KEK,
            _AUDIT,
            _OUTCOME,
        ),
    ),
    Route(
        method="POST",
        path="/zero-knowledge",
        handler=handlers.set_zero_knowledge,
        summary="Turn zero-knowledge mode on, or off by handing back the master key",
        response=TypeAdapter(ZeroKnowledgeAnswer),
        body=ZERO_KNOWLEDGE_BODY,
        takes_if_match=True,
        needs_step_up=True,
        refusals=(
            (400, "RECOVERY_WRAP_MISSING"),
            _UNKNOWN,
            _NO_VAULT,
            (409, "MASTER_KEY_MISMATCH"),
            _PENDING,
            _STALE,
            _TAMPERED,
            _UNWRAP,
            _KEK,
            _AUDIT,
            _OUTCOME,
        ),
    ),
)
