"""Examines one token, as the daemon would."""

import contextlib
from collections.abc import Mapping

from custody.auth.diagnostics import explain
from custody.auth.jwk import JwksError, VerificationKey
from custody.auth.jwks import keys_of
from custody.ops import preflight
from custody.ops.doctor import document_of, examine_issuer
from custody.settings import ConfigurationError, load
from kek_backends.findings import Finding, Verdict


async def examine_token(environ: Mapping[str, str], text: bytes) -> list[Finding]:
    """Say what the daemon would say of a token, claim by claim, and show nothing of its secret.

    Args:
        environ: the variables of the process.
        text: the token, with or without ``Bearer`` before it.
    """
    try:
        settings = load(environ)
        rules = preflight.token_rules(settings)
    except ConfigurationError as error:
        return [Finding(Verdict.FINDING, str(error), "settings")]
    findings = await examine_issuer(settings)
    keys: dict[str | None, VerificationKey] | None = None
    with contextlib.suppress(JwksError):  # said above
        keys = {key.kid: key for key in keys_of(*await document_of(settings))}
    if keys is None:
        message = "it was not checked: there are no keys to check it with"
        findings.append(Finding(Verdict.UNSEEN, message, "token signature"))
    # What is not ASCII is no token, and is said to have no token's form.
    checked = explain(text.decode("ascii", "replace"), rules, keys)
    return findings + [
        Finding(Verdict.FINDING if one.reason else Verdict.OK, one.detail, f"token {one.what}")
        for one in checked
    ]
