"""The certificate of the vault's listener: until when it is good."""

import time
from collections.abc import Callable
from pathlib import Path

from cryptography import x509

from custody.ops.checks.due import in_words, verdict_of
from custody.settings import ConfigurationError
from custody.sockets.listeners import tls_context
from kek_backends.findings import Finding, Verdict

_PART = "tls"
_DAY_SECONDS = 86_400


def examine_certificate(
    path: Path, key: Path, now: Callable[[], float] = time.time
) -> list[Finding]:
    """Say how long the certificate, and each of its chain, is good for.

    Args:
        path: PEM file: the certificate and its chain.
        key: PEM file: the certificate's private key.
        now: a clock, in seconds since 1970.
    """
    try:
        tls_context(path, key)
        chain = x509.load_pem_x509_certificates(path.read_bytes())
    except (ConfigurationError, OSError, ValueError):
        return []  # it is said of the settings
    first_to_end = min(chain, key=lambda one: one.not_valid_after_utc)
    name = first_to_end.subject.rfc4514_string() or "without a subject"
    ends = first_to_end.not_valid_after_utc
    begins = max(one.not_valid_before_utc for one in chain)
    if begins.timestamp() > now():
        message = f"{path}: it is not valid before {begins:%Y-%m-%d %H:%M} UTC; is the clock right?"
        return [Finding(Verdict.FINDING, message, _PART, "timedatectl")]
    left = (ends.timestamp() - now()) / _DAY_SECONDS
    # One that lives for six days is renewed every three, and no cause for a warning all its life.
    life = (ends - first_to_end.not_valid_before_utc).total_seconds() / _DAY_SECONDS
    verdict = Verdict.OK if left > life / 3 else verdict_of(left)
    message = (
        f"{path}: the key fits; {'good' if left >= 0 else 'was good'} until "
        f"{ends:%Y-%m-%d %H:%M} UTC, {in_words(left)} ({name})"
    )
    if verdict is Verdict.OK:
        return [Finding(verdict, message, _PART)]
    message += "; renew it, then have the daemon read it"
    return [Finding(verdict, message, _PART, "systemctl reload custody")]
