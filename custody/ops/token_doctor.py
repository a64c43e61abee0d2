"""Examines one token, as the daemon would."""

from collections.abc import Mapping

from custody.auth.diagnostics import explain
from custody.ops import preflight
from custody.ops.checks.issuer import examine_issuer
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
        rules, step_up = preflight.token_rules(settings), preflight.step_up(settings)
        preflight.require_jwks(settings)
    except ConfigurationError as error:
        return [Finding(Verdict.FINDING, str(error), "settings")]
    findings, keys = await examine_issuer(settings)
    if keys is None:
        message = "it was not checked: there are no keys to check it with"
        findings.append(Finding(Verdict.UNSEEN, message, "token signature"))
    by_name = None if keys is None else {key.kid: key for key in keys}
    # What is not ASCII is no token, and is said to have no token's form.
    return findings + [
        Finding(Verdict.FINDING if one.reason else Verdict.OK, one.detail, f"token {one.what}")
        for one in explain(text.decode("ascii", "replace"), rules, step_up, by_name)
    ]
