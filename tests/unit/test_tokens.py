"""Bearer tokens: what is let in, and a long table of what is not."""

import base64
import json
import re

import pytest

from custody.auth.jwk import JwksError
from custody.auth.jwks import IssuerUnavailable
from custody.auth.refusals import InvalidToken, Reason
from custody.auth.tokens import Principal, TokenVerifier
from tests.tokens import ABSENT, BAD_TOKENS, UNSENDABLE, Issuer
from tests.unit.served_jwks import ServedJwks

NOW = 1_800_000_000.0
CHEAP = [
    "two segments",
    "very long",
    "signature of 63 bytes",
    "signature spelled otherwise",
    "header a list",
    "alg none, signed",
    "alg HS256, signed with Ed25519",
    "crit unknown",
    "kid a number",
]
REFUSED_ANYWAY = ["expired", "iss of another", "aud of another", "sub a number", "exp missing"]


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer(now=lambda: NOW)


@pytest.fixture
def source(issuer: Issuer) -> ServedJwks:
    return ServedJwks(issuer, now=NOW)


@pytest.fixture
def verifier(source: ServedJwks) -> TokenVerifier:
    return source.verifier


async def test_genuine_token(verifier: TokenVerifier, issuer: Issuer) -> None:
    assert await verifier.verify(issuer.bearer("user-1")) == Principal("user-1")


@pytest.mark.parametrize("name", BAD_TOKENS)
async def test_bad_token(verifier: TokenVerifier, issuer: Issuer, name: str) -> None:
    with pytest.raises(InvalidToken) as refusal:
        await verifier.verify(BAD_TOKENS[name](issuer))
    # A fixed phrase of small letters and a few names can't hold a part of a token.
    assert re.fullmatch(r"[A-Za-z0-9_, ]{3,50}", str(refusal.value))
    assert refusal.value.__cause__ is None


async def test_token_of_another_algorithm_is_called_that(verifier: TokenVerifier) -> None:
    """Its signature has another length, and that is not what is wrong with it."""
    header, claims = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in ({"alg": "RS256", "kid": "one"}, {"sub": "alice"})
    )
    signature = base64.urlsafe_b64encode(bytes(256)).rstrip(b"=").decode()
    with pytest.raises(InvalidToken, match="its alg is neither EdDSA nor Ed25519"):
        await verifier.verify(f"Bearer {header}.{claims}.{signature}")


@pytest.mark.parametrize("name", BAD_TOKENS)
def test_bad_token_can_be_sent(issuer: Issuer, name: str) -> None:
    value = BAD_TOKENS[name](issuer) or ""
    assert value == value.strip()
    assert not set(value) & {"\r", "\n", "\0"}
    assert len(value.encode("latin-1")) <= 8190 or name in UNSENDABLE


@pytest.mark.parametrize("frame", [" Bearer {}", "Bearer {} ", "Bearer {}\n", "\u212aearer {}"])
async def test_value_no_http_parser_lets_through(
    verifier: TokenVerifier, issuer: Issuer, frame: str
) -> None:
    with pytest.raises(InvalidToken):
        await verifier.verify(frame.format(issuer.token()))


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER ", "Bearer   "])
async def test_scheme_in_any_case(verifier: TokenVerifier, issuer: Issuer, scheme: str) -> None:
    assert await verifier.verify(scheme + issuer.token()) == Principal("user-1")


@pytest.mark.parametrize("typ", [ABSENT, "JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt"])
async def test_type_of_an_access_token(
    verifier: TokenVerifier, issuer: Issuer, typ: object
) -> None:
    token = issuer.signed(issuer.header(typ=typ), issuer.claims())
    assert await verifier.verify(f"Bearer {token}") == Principal("user-1")


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": ["mana"]},
        {"aud": ["other", "mana"]},
        {"exp": NOW + 0.5},
        {"exp": NOW - 29.5},
        {"nbf": NOW + 30, "iat": NOW + 30},
        {"nbf": -1, "iat": ABSENT},
        {"iat": NOW - 0.5},
    ],
)
async def test_claims_within_the_rules(
    verifier: TokenVerifier, issuer: Issuer, claims: dict[str, object]
) -> None:
    assert await verifier.verify(issuer.bearer(**claims)) == Principal("user-1")


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": NOW + 86401},
        {"exp": 2**62},
        {"iat": ABSENT, "exp": NOW + 86431},
        {"iat": NOW - 30, "exp": NOW + 86371},
    ],
)
async def test_token_that_lives_too_long(
    verifier: TokenVerifier, issuer: Issuer, claims: dict[str, object]
) -> None:
    with pytest.raises(InvalidToken) as refusal:
        await verifier.verify(issuer.bearer(**claims))
    assert refusal.value.reason is Reason.LIFETIME


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": NOW + 86400, "iat": NOW},
        {"iat": ABSENT, "exp": NOW + 86430},
        {"iat": NOW - 30, "exp": NOW + 86370},
    ],
)
async def test_token_that_lives_long_enough(
    verifier: TokenVerifier, issuer: Issuer, claims: dict[str, object]
) -> None:
    assert await verifier.verify(issuer.bearer(**claims)) == Principal("user-1")


@pytest.mark.parametrize("alg", ["EdDSA", "Ed25519"])
@pytest.mark.parametrize("of_the_key", ["EdDSA", "Ed25519", None, ABSENT])
async def test_one_algorithm_by_two_names(issuer: Issuer, alg: str, of_the_key: object) -> None:
    jwks = json.dumps({"keys": [issuer.jwk(alg=of_the_key)]}).encode()
    verifier = ServedJwks(issuer, jwks, now=NOW).verifier
    token = issuer.signed(issuer.header(alg=alg), issuer.claims())
    assert await verifier.verify(f"Bearer {token}") == Principal("user-1")


@pytest.mark.parametrize("cnf", [{"jkt": "x"}, {}, None, "x"])
async def test_bound_token(verifier: TokenVerifier, issuer: Issuer, cnf: object) -> None:
    """Whoever sends it may have stolen it: its binding (RFC 7800) is checked by nobody here."""
    with pytest.raises(InvalidToken) as refusal:
        await verifier.verify(issuer.bearer(cnf=cnf))
    assert refusal.value.reason is Reason.BOUND


@pytest.mark.parametrize("claims", [{"exp": NOW - 30}, {"nbf": NOW + 30.5}, {"iat": NOW + 30.5}])
async def test_claims_just_outside_the_leeway(
    verifier: TokenVerifier, issuer: Issuer, claims: dict[str, object]
) -> None:
    with pytest.raises(InvalidToken):
        await verifier.verify(issuer.bearer(**claims))


@pytest.mark.parametrize("sub", ["u" * 255, "\U0001f511" * 255, " ", "user/1'--\n", "é"])
async def test_subject_is_taken_as_it_is(verifier: TokenVerifier, issuer: Issuer, sub: str) -> None:
    assert await verifier.verify(issuer.bearer(sub)) == Principal(sub)


async def test_standby_key(verifier: TokenVerifier, issuer: Issuer) -> None:
    header = issuer.header(kid=f"{issuer.kid}-standby")
    token = issuer.signed(header, issuer.claims(), issuer.standby_key.sign)
    assert await verifier.verify(f"Bearer {token}") == Principal("user-1")


async def test_no_kid_with_one_key(issuer: Issuer) -> None:
    verifier = ServedJwks(issuer, issuer.jwks(only_current=True), NOW).verifier
    token = issuer.signed(issuer.header(kid=ABSENT), issuer.claims())
    assert await verifier.verify(f"Bearer {token}") == Principal("user-1")


async def test_json_with_spaces(verifier: TokenVerifier, issuer: Issuer) -> None:
    header = f' {{ "kid" : "{issuer.kid}", "alg" : "\\u0045dDSA" }} '.encode()
    token = issuer.signed(header, issuer.claims())
    assert await verifier.verify(f"Bearer {token}") == Principal("user-1")


@pytest.mark.parametrize("name", CHEAP + REFUSED_ANYWAY)
async def test_garbage_costs_no_fetch(
    verifier: TokenVerifier, source: ServedJwks, issuer: Issuer, name: str
) -> None:
    with pytest.raises(InvalidToken):
        await verifier.verify(BAD_TOKENS[name](issuer))
    assert source.fetches == 0


async def test_no_keys_is_no_verdict(
    verifier: TokenVerifier, source: ServedJwks, issuer: Issuer
) -> None:
    source.problem = JwksError("the issuer is down")
    with pytest.raises(IssuerUnavailable):
        await verifier.verify(issuer.bearer())
    with pytest.raises(InvalidToken):
        await verifier.verify(BAD_TOKENS["expired"](issuer))
