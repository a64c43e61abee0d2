"""A call to a KMS that may take long: on a busy machine, for what is not about time."""

from collections.abc import Callable
from types import ModuleType

from kek_backends import calls
from kek_backends.aws import kek as aws_kms
from kek_backends.aws import sdk as aws_sdk
from kek_backends.pkcs11 import opened as pkcs11_opened
from kek_backends.transit import http as transit_http
from kek_backends.transit import state as transit_state
from kek_backends.transit import tokens as transit_tokens

_TRY_SECONDS = 20.0
CALL_SECONDS = 60.0
_WITH_TRIES = (
    calls,
    aws_kms,
    aws_sdk,
    transit_http,
    transit_tokens,
    transit_state,
    pkcs11_opened,
)


def be_patient(put: Callable[[ModuleType, str, float], object]) -> None:
    """Have each try of a call, and a call with its tries, end later than in custody.

    Args:
        put: puts a value into a module, by name.
    """
    for module in _WITH_TRIES:
        put(module, "ATTEMPT_SECONDS", _TRY_SECONDS)
    put(aws_sdk, "_CONNECT_SECONDS", _TRY_SECONDS)
    put(calls, "CALL_SECONDS", CALL_SECONDS)
