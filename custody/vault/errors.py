"""Refusals and failures of the vault.

Each class carries the HTTP status that is sent, the stable code, and the phrase for the audit
row: the audit must say what was sent, so both come from one place.
"""

from typing import ClassVar


class VaultError(Exception):
    """A use case ended without doing what was asked."""

    status: ClassVar[int]
    code: ClassVar[str]
    context: ClassVar[str]


class VaultNotInitialised(VaultError):
    """This user has no vault yet: POST /init makes one."""

    status = 404
    code = "VAULT_NOT_INITIALISED"
    context = "no-vault"


class KeyNotInitialised(VaultNotInitialised):
    """This user has no vault yet: POST /init makes one."""

    context = "not-initialised"


class UserUnknown(VaultError):
    """The token's user has no account here."""

    status = 404
    code = "USER_UNKNOWN"
    context = "user-unknown"


class RecoveryWrapMissing(VaultError):
    """Zero-knowledge mode needs a recovery wrap first: POST /recovery-wrap."""

    status = 400
    code = "RECOVERY_WRAP_MISSING"
    context = "no-recovery-wrap"


class ZkRotateForbidden(VaultError):
    """In zero-knowledge mode the server has no key to rotate: turn the mode off first."""

    status = 409
    code = "ZK_ROTATE_FORBIDDEN"
    context = "zk-rotate-forbidden"


class RotationPending(VaultError):
    """A rotation is pending: re-encrypt, then end it by DELETE /rotation."""

    status = 409
    code = "ROTATION_PENDING"
    context = "rotation-pending"


class ZkActive(VaultError):
    """In zero-knowledge mode the recovery wrap is the only one: turn the mode off first."""

    status = 409
    code = "ZK_ACTIVE"
    context = "zk-active"


class MasterKeyMismatch(VaultError):
    """The key that was sent is not this user's master key."""

    status = 409
    code = "MASTER_KEY_MISMATCH"
    context = "master-key-mismatch"


class StaleGeneration(VaultError):
    """Another device has rotated the key meanwhile, or there is no vault: fetch the key again."""

    status = 412
    code = "STALE_GENERATION"
    context = "stale-generation"


class UnwrapFailed(VaultError):
    """The stored key does not open. Nothing was changed."""

    status = 500
    code = "UNWRAP_FAILED"
    context = "unwrap-failed"


class RowTampered(VaultError):
    """The stored vault is not what was stored: nothing of it is used. Nothing was changed."""

    status = 500
    code = "ROW_TAMPERED"
    context = "row-tampered"


class LegacyRow(RowTampered):
    """The stored vault is not sealed yet, and is not used before it is. Nothing was changed."""

    context = "legacy-row"


class Unavailable(VaultError):
    """Something that the vault needs can't be used now: try again later.

    Args:
        reason: for operators, in one line: what the part of the daemon suffers from. None where it
            is this request's own (a locked row, say) and says nothing of others.
    """

    status = 503
    part: ClassVar[str]

    def __init__(self, reason: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason


class KekUnavailable(Unavailable):
    """The key-encryption key can't be used now: try again later."""

    part = "kek"
    code = "KEK_UNAVAILABLE"
    context = "kek-unavailable"


class KekNotConfigured(KekUnavailable):
    """The key-encryption key of this vault is not configured here: try again later."""

    context = "kek-not-configured"


class DatabaseUnavailable(Unavailable):
    """The database can't be used now: try again later."""

    part = "database"
    code = "DATABASE_UNAVAILABLE"
    context = "database-unavailable"


class OutcomeUnknown(Unavailable):
    """The database did not say whether this change was made: GET /status or GET /key shows."""

    part = "database"
    code = "OUTCOME_UNKNOWN"
    context = "outcome-unknown"


class AuditUnavailable(Unavailable):
    """The audit trail can't be written now, so nothing was done: try again later."""

    part = "audit"
    code = "AUDIT_UNAVAILABLE"
    context = "audit-unavailable"


class Overloaded(VaultError):
    """Too much is going on, for this user or at all: try again later."""

    status = 503
    code = "OVERLOADED"
    context = "overloaded"


class UnwrapLimitReached(Overloaded):
    """Too much is going on, for this user or at all: try again later."""

    context = "unwrap-limit"


class CanaryRefused(UnwrapLimitReached):
    """Too much is going on, for this user or at all: try again later."""

    # To its client the same as the brake, to the last byte.
    context = "canary"
