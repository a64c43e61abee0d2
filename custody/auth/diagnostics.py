"""What the daemon would say of one token, claim by claim. The token itself is never shown."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from custody.auth import claims as of_claims
from custody.auth.claims import Claims
from custody.auth.jwk import VerificationKey, find_key
from custody.auth.refusals import InvalidToken, Reason, Refusal
from custody.auth.rules import TokenRules
from custody.auth.step_up import StepUp
from custody.auth.tokens import check_signature, token_of

_SHOWN = 80  # characters of a value
_BEFORE = re.compile(r"(?i:authorization:)?\s*(?i:bearer\s)?\s*")


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of one check.

    Args:
        what: was checked.
        reason: why the token is refused for it; None where it is not.
        detail: what was found, in one line.
    """

    what: str
    reason: Reason | None
    detail: str


def explain(
    text: str,
    rules: TokenRules,
    step_up: StepUp,
    keys: Mapping[str | None, VerificationKey] | None,
) -> list[Checked]:
    """Check all of a token, past the first thing that is wrong.

    Args:
        text: the token, with or without ``Bearer`` or ``Authorization: Bearer`` before it.
        rules: the daemon's.
        step_up: the daemon's; it is asked where it asks for something.
        keys: of the issuer, by name; None where they can't be had.
    """
    words = _BEFORE.sub("", text.strip(), count=1)
    try:
        token = token_of(f"Bearer {words}")
        header, claims, signature = of_claims.parse(token)
    except InvalidToken as error:
        return [Checked("form", error.reason, str(error))]
    found = [
        _tried("alg", _shown(header, "alg"), lambda: of_claims.check_algorithm(header)),
        _tried("crit", _shown(header, "crit"), lambda: of_claims.check_extensions(header)),
        _tried("typ", _shown(header, "typ"), lambda: of_claims.check_type(header)),
        _tried("kid", _shown(header, "kid"), lambda: of_claims.key_name(header)),
        _tried(
            "iss",
            f"{_shown(claims, 'iss')}; CUSTODY_JWT_ISSUER is {rules.issuer!r}",
            lambda: of_claims.check_issuer(claims, rules.issuer),
        ),
        _tried(
            "aud",
            f"{_shown(claims, 'aud')}; CUSTODY_JWT_AUDIENCE is {rules.audience!r}",
            lambda: of_claims.check_audience(claims, rules.audience),
        ),
        _tried(
            "sub", "present" if "sub" in claims else "absent", lambda: of_claims.user_id(claims)
        ),
        _tried("cnf", _shown(claims, "cnf"), lambda: of_claims.check_unbound(claims)),
        *_of_times(claims, rules),
        *_of_login(claims, step_up),
    ]
    if keys is not None:
        found.append(_of_signature(token, header, signature, keys))
    return found


def _of_times(claims: dict[str, object], rules: TokenRules) -> list[Checked]:
    try:
        exp, begins, issued = of_claims.times(claims)
    except InvalidToken as error:
        return [Checked("times", error.reason, "exp, nbf and iat are seconds since 1970")]
    now = rules.now()
    life = "from now" if issued is None else "from iat"
    lasts = exp - (now if issued is None else issued)
    read = Claims("", None, exp, begins, issued)
    return [
        _tried("exp", f"{exp - now:.0f} s from now", lambda: rules.check_expiry(read)),
        _tried("nbf, iat", f"valid for {now - begins:.0f} s", lambda: rules.check_begin(read)),
        _tried(
            "lifetime",
            f"{lasts:.0f} s {life}; CUSTODY_JWT_MAX_LIFETIME is {rules.max_lifetime:.0f}",
            lambda: rules.check_lifetime(read),
        ),
    ]


def _of_login(claims: dict[str, object], step_up: StepUp) -> Iterator[Checked]:
    """Say what only the routes that need step-up refuse."""
    if step_up.max_age is not None:
        at = of_claims.auth_time(claims)
        when = _shown(claims, "auth_time") if at is None else f"{step_up.now() - at:.0f} s ago"
        detail = f"login {when}; CUSTODY_STEP_UP_MAX_AGE is {step_up.max_age}"
        yield _tried("step-up auth_time", detail, lambda: step_up.check_age(at))
    if step_up.acr_values:
        wanted = " ".join(step_up.acr_values)
        detail = f"{_shown(claims, 'acr')}; CUSTODY_STEP_UP_ACR is {wanted!r}"
        yield _tried("step-up acr", detail, lambda: step_up.check_acr(of_claims.acr(claims)))


def _of_signature(
    token: str,
    header: dict[str, object],
    signature: bytes,
    keys: Mapping[str | None, VerificationKey],
) -> Checked:
    names = ", ".join(sorted(repr(kid) for kid in keys if kid is not None)) or "none with a name"
    try:
        of_claims.check_signature_size(signature)
        key = find_key(keys, of_claims.key_name(header))
        if key is None:
            raise InvalidToken(Reason.UNKNOWN_KEY)
        check_signature(token, key)
    except InvalidToken as error:
        return Checked("signature", error.reason, f"{error}; the issuer has the keys: {names}")
    return Checked("signature", None, "good")


def _tried(what: str, detail: str, check: Callable[[], object]) -> Checked:
    try:
        check()
    except Refusal as error:
        return Checked(what, error.reason, f"{detail}: {error}")
    return Checked(what, None, detail)


def _shown(members: dict[str, object], name: str) -> str:
    """Show a member that names no user; absent and null differ."""
    return repr(members[name])[:_SHOWN] if name in members else "absent"
