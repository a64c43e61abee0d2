"""The JSON of the routes. OpenAPI is generated from these types, so document and daemon agree."""

import base64
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, NotRequired

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    with_config,
)
from pydantic.alias_generators import to_camel
from typing_extensions import TypedDict

from custody.http.pages import cursor_of
from custody.vault.model import MasterKey, RecoveryBlob, RecoveryWrap, Status, Trail, moment
from kek_backends.base import MASTER_KEY_SIZE

_LAST_OF_TWO_BYTES = "[AEIMQUYcgkosw048]="
_WHOLE = "[A-Za-z0-9+/]"


def _canonical(size: int) -> str:
    """Return the pattern of all canonical padded base64 texts of ``size`` bytes (RFC 4648)."""
    whole, rest = divmod(size, 3)
    match rest:
        case 0:
            return f"^{_WHOLE}{{{4 * whole}}}$"
        case 2:
            return f"^{_WHOLE}{{{4 * whole + 2}}}{_LAST_OF_TWO_BYTES}$"
        case _:
            raise ValueError("no value of the contract has such a size")


def _boolean(value: object) -> object:
    # 1 == True: without this, {"enable": 1} would turn zero-knowledge mode on.
    if not isinstance(value, bool):
        raise ValueError("must be true or false")  # noqa: TRY004 - pydantic wants a ValueError
    return value


_Base64MasterKey = Annotated[str, Field(pattern=_canonical(MASTER_KEY_SIZE))]
MasterKeyBytes = Annotated[_Base64MasterKey, AfterValidator(base64.b64decode)]


class _Body(BaseModel):
    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        hide_input_in_errors=True,
    )


class RecoveryWrapBody(_Body):
    """The master key, wrapped by the client under the key of its recovery code."""

    recovery_wrapped_mk: str = Field(
        pattern=_canonical(RecoveryWrap.WRAPPED_SIZE),
        description="48 bytes in base64: AES-256-GCM of the master key, tag appended",
        repr=False,
    )
    recovery_iv: str = Field(
        pattern=_canonical(RecoveryWrap.IV_SIZE), description="12 bytes in base64", repr=False
    )


class EnableZeroKnowledge(_Body):
    """Turns zero-knowledge mode on: the server forgets its wrap."""

    enable: Annotated[Literal[True], BeforeValidator(_boolean)]


class DisableZeroKnowledge(_Body):
    """Turns zero-knowledge mode off: the server wraps the key that the client hands back."""

    enable: Annotated[Literal[False], BeforeValidator(_boolean)]
    master_key: MasterKeyBytes = Field(description="32 bytes in base64", repr=False)


class ResetBody(_Body):
    """Says that every key there was goes for good."""

    confirm: Literal["destroy"]


def _mode(value: Any) -> str | None:
    enable = value.get("enable") if isinstance(value, dict) else None
    return str(enable).lower() if isinstance(enable, bool) else None


ZeroKnowledgeBody = Annotated[
    Annotated[EnableZeroKnowledge, Tag("true")] | Annotated[DisableZeroKnowledge, Tag("false")],
    Discriminator(
        _mode,
        custom_error_type="zero_knowledge_body",
        custom_error_message='write {"enable": true} or {"enable": false, "masterKey": KEY}',
    ),
]

# The names of the types below are the titles of their schemas in the OpenAPI document: generated
# clients have them, so they stay.
_NOTHING_ELSE = ConfigDict(extra="forbid")

RECOVERY_WRAP_BODY: TypeAdapter[RecoveryWrapBody] = TypeAdapter(RecoveryWrapBody)
RESET_BODY: TypeAdapter[ResetBody] = TypeAdapter(ResetBody)
ZERO_KNOWLEDGE_BODY: TypeAdapter[EnableZeroKnowledge | DisableZeroKnowledge] = TypeAdapter(
    ZeroKnowledgeBody
)


@with_config(_NOTHING_ELSE)
class StatusAnswer(TypedDict):
    """What a client may know of its vault without unlocking it."""

    vaultExists: bool
    hasRecoveryWrap: bool
    zeroKnowledge: bool
    recoverySetAt: datetime | None


@with_config(_NOTHING_ELSE)
class AuditEvent(TypedDict):
    """One action on the user's vault, or what a re-wrap met there."""

    id: str
    # Null where the database holds no moment that can be shown: no daemon wrote that.
    at: datetime | None
    action: str
    context: str | None
    status: int
    ipAddress: str | None
    userAgent: str | None


@with_config(_NOTHING_ELSE)
class AuditAnswer(TypedDict):
    """A page of the user's own audit rows, the newest first; next is null on the last one."""

    events: list[AuditEvent]
    next: str | None


@with_config(_NOTHING_ELSE)
class MasterKeyAnswer(TypedDict):
    """The master key; while a rotation is pending, the one before, too."""

    masterKey: _Base64MasterKey
    formatVersion: int
    kekId: str
    previousMasterKey: NotRequired[_Base64MasterKey]


@with_config(_NOTHING_ELSE)
class RecoveryBlobAnswer(TypedDict):
    """In zero-knowledge mode: what only the user's recovery code opens."""

    requiresRecoveryCode: Literal[True]
    recoveryWrappedMk: str
    recoveryIv: str
    formatVersion: int


@with_config(_NOTHING_ELSE)
class OkAnswer(TypedDict):
    """Done."""

    ok: Literal[True]


@with_config(_NOTHING_ELSE)
class ZeroKnowledgeAnswer(TypedDict):
    """Done; says which mode the vault is in now."""

    ok: Literal[True]
    zeroKnowledge: bool


def status_response(status: Status) -> StatusAnswer:
    """Build the response of ``/status``."""
    return {
        "vaultExists": status.vault_exists,
        "hasRecoveryWrap": status.has_recovery_wrap,
        "zeroKnowledge": status.zero_knowledge,
        "recoverySetAt": status.recovery_set_at,
    }


def trail_response(trail: Trail) -> AuditAnswer:
    """Build the response of ``/audit``."""
    return {
        "events": [_event(row) for row in trail.events],
        "next": None if trail.before is None else cursor_of(trail.before),
    }


def _event(row: Mapping[str, Any]) -> AuditEvent:
    try:
        at = moment(row["at"])
    except ValueError:
        at = None
    return {
        "id": row["id"],
        "at": at,
        "action": row["action"],
        "context": row["context"],
        "status": row["status"],
        "ipAddress": row["ip_address"],
        "userAgent": row["user_agent"],
    }


def key_response(key: MasterKey | RecoveryBlob) -> MasterKeyAnswer | RecoveryBlobAnswer:
    """Build the response of all that hands out a key."""
    if isinstance(key, MasterKey):
        answer: MasterKeyAnswer = {
            "masterKey": base64.b64encode(key.key).decode(),
            "formatVersion": key.format_version,
            "kekId": key.kek_id,
        }
        if key.previous is not None:
            answer["previousMasterKey"] = base64.b64encode(key.previous).decode()
        return answer
    return {
        "requiresRecoveryCode": True,
        "recoveryWrappedMk": key.recovery.wrapped_mk,
        "recoveryIv": key.recovery.iv,
        "formatVersion": key.recovery.format_version,
    }
