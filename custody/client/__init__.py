"""The client of a custody daemon: ``Vault``, and ``AsyncVault``. It imports nothing of the server.

docs/how-to/python-client.md shows its use.
"""

from custody.client.answers import AuditEvent, AuditPage, Status
from custody.client.errors import (
    BadAnswer,
    Conflict,
    CustodyError,
    Failed,
    MalformedRecoveryCode,
    NotTrusted,
    RecoveryCodeNeeded,
    RolledBack,
    SignInAgain,
    StaleGeneration,
    StepUpRequired,
    Unavailable,
    Unreachable,
    WrongRecoveryCode,
)
from custody.client.recovery import format_code, make_code, parse_code
from custody.client.transport import HttpTransport, Transport
from custody.client.vault import AsyncVault, Keys, Pin, Vault

__all__ = [
    "AsyncVault",
    "AuditEvent",
    "AuditPage",
    "BadAnswer",
    "Conflict",
    "CustodyError",
    "Failed",
    "HttpTransport",
    "Keys",
    "MalformedRecoveryCode",
    "NotTrusted",
    "Pin",
    "RecoveryCodeNeeded",
    "RolledBack",
    "SignInAgain",
    "StaleGeneration",
    "Status",
    "StepUpRequired",
    "Transport",
    "Unavailable",
    "Unreachable",
    "Vault",
    "WrongRecoveryCode",
    "format_code",
    "make_code",
    "parse_code",
]
