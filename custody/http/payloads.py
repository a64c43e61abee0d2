"""The JSON of the routes. OpenAPI is generated from these types, so document and daemon agree."""

import base64
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
)
from pydantic.alias_generators import to_camel

from custody.vault.model import MasterKey, RecoveryBlob, RecoveryWrap, Status
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

RECOVERY_WRAP_BODY: TypeAdapter[RecoveryWrapBody] = TypeAdapter(RecoveryWrapBody)
ZERO_KNOWLEDGE_BODY: TypeAdapter[EnableZeroKnowledge | DisableZeroKnowledge] = TypeAdapter(
    ZeroKnowledgeBody
)


class _Answer(BaseModel):
    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, validate_by_name=True, extra="forbid"
    )


class StatusAnswer(_Answer):
    """What a client may know of its vault without unlocking it."""

    vault_exists: bool
    has_recovery_wrap: bool
    zero_knowledge: bool
    recovery_set_at: datetime | None

    @classmethod
    def of(cls, status: Status) -> "StatusAnswer":
        """Build the answer from the use case's result."""
        return cls(
            vault_exists=status.vault_exists,
            has_recovery_wrap=status.has_recovery_wrap,
            zero_knowledge=status.zero_knowledge,
            recovery_set_at=status.recovery_set_at,
        )


class MasterKeyAnswer(_Answer):
    """The master key."""

    master_key: Annotated[str, Field(pattern=_canonical(MASTER_KEY_SIZE), repr=False)]
    format_version: int
    kek_id: str


class RecoveryBlobAnswer(_Answer):
    """In zero-knowledge mode: what only the user's recovery code opens."""

    requires_recovery_code: Literal[True]
    recovery_wrapped_mk: str = Field(repr=False)
    recovery_iv: str = Field(repr=False)
    format_version: int


class OkAnswer(_Answer):
    """Done."""

    ok: Literal[True]


class ZeroKnowledgeAnswer(_Answer):
    """Done; says which mode the vault is in now."""

    ok: Literal[True]
    zero_knowledge: bool


def key_answer(key: MasterKey | RecoveryBlob) -> MasterKeyAnswer | RecoveryBlobAnswer:
    """Build the answer of ``/init``, ``/key`` and ``/rotate``."""
    if isinstance(key, MasterKey):
        return MasterKeyAnswer(
            master_key=base64.b64encode(key.key).decode(),
            format_version=key.format_version,
            kek_id=key.kek_id,
        )
    return RecoveryBlobAnswer(
        requires_recovery_code=True,
        recovery_wrapped_mk=key.recovery.wrapped_mk,
        recovery_iv=key.recovery.iv,
        format_version=key.recovery.format_version,
    )
