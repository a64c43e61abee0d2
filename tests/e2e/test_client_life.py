"""The Python client against a real daemon: its whole life, each of the two opens the other's."""

from pathlib import Path

import pytest

from custody.client import (
    AsyncVault,
    HttpTransport,
    Keys,
    RecoveryCodeNeeded,
    RolledBack,
    Vault,
    WrongRecoveryCode,
    make_code,
)
