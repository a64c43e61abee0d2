"""Bad tokens, each with the reason that an operator finds counted and logged.

Those in all combinations of algorithms, keys, nulls, doubles and times: test_token_combinations.py.
"""

import pytest
from structlog.testing import capture_logs

from custody.auth.refusals import Reason
from tests.client import client_session
from tests.http.refusals import refused_tokens, rises
from tests.http.wire import SHARED
from tests.servers import Daemon
from tests.tokens import BAD_TOKENS, UNSENDABLE

# By the reason's label, names of tests/tokens.py.
REASONS: dict[str, str] = {
    "absent": "no header",
    "form": (
        "empty header; scheme alone; a word; latin-1 letter; scheme Basic; scheme Token; "
        "scheme DPoP; scheme with a prefix; scheme twice; no scheme; no space; a tab for the "
        "space; a colon; quoted; as a parameter; two tokens; two credentials; trailing word; "
        "trailing mark; leading dot; trailing dot; one segment; two segments; four segments; "
        "five segments like a JWE; empty header segment; empty payload segment; empty "
        "signature; detached payload; padded signature; padded segments; standard base64; "
        "space in a segment; JSON serialization; alg none, no signature; alg None"
    ),
    "signature": (
        "trailing letters; signature of 63 bytes; signature of 65 bytes; RS256 as EdDSA; "
        "ES256 as EdDSA; Ed448 as EdDSA; tampered header; tampered payload; tampered "
        "signature; S plus the order; the neutral point; all zeros; all ones; another key; "
        "the standby key's kid; attacker's jwk; attacker's jku; attacker's x5u"
    ),
    "malformed": (
        "header spelled otherwise; payload spelled otherwise; signature spelled otherwise; "
        "header with alg twice; header with kid twice; header with NaN; header a list; header "
        "a string; header null; header not JSON; header cut short; header in UTF-16; header "
        "with a byte order mark; header not UTF-8; header nested deeply; payload a list; "
        "payload a string; payload a number; payload null; payload not JSON; payload cut "
        "short; payload with more after it; payload in UTF-16; payload with a byte order "
        "mark; payload not UTF-8; payload with a raw control character; payload with NaN; "
        "payload with -Infinity; payload with sub twice; payload with exp twice; payload with "
        "a name twice within; payload nested deeply; payload a token; exp NaN; exp Infinity; "
        "exp an integer too long to read"
    ),
    "alg": (
        "alg none, signed; alg missing; alg null; alg a list; alg in another case; alg HS256, "
        "signed with Ed25519; alg RS256, signed with Ed25519; HS256 with the raw public key; "
        "HS256 with the public key as PEM; HS256 with the public key as JWK; HS256 with the "
        "JWKS; RS256; ES256; Ed448"
    ),
    "unknown-key": (
        "the neutral point, no kid; attacker's jwk under its own kid; attacker's jwk without "
        "kid; kid empty; kid unknown; kid in another case; kid of the RSA key; kid a path; "
        "kid a lone surrogate; no kid with two keys"
    ),
    "crit": "crit b64; crit unknown; crit empty; crit null; b64 false; b64 true",
    "kid": "kid a number; kid null; kid a list",
    "typ": (
        "typ of a logout token; typ of a DPoP proof; typ JOSE; typ empty; typ null; typ a number"
    ),
    "iss": (
        "payload empty object; iss missing; iss null; iss of another; iss a list; iss with a "
        "slash; iss cut short; iss in another case"
    ),
    "no-exp": "exp missing",
    "time": (
        "exp null; exp a string; exp a date; exp true; exp a list; exp an object; exp a huge "
        "float; exp a huge integer; nbf a string; nbf null; nbf false; nbf a huge float; iat "
        "a string; iat null; iat true; iat a huge integer"
    ),
    "expired": "exp zero; exp negative; expired; expired in a fraction",
    "not-yet": "nbf in the future; iat in the future",
    "aud": (
        "aud missing; aud null; aud of another; aud a number; aud an object; aud with ours "
        "inside; aud a part of ours; aud in another case; aud an empty list; aud a list "
        "without ours; aud a list with a number; aud a list in a list"
    ),
    "sub": (
        "sub missing; sub null; sub a number; sub true; sub a list; sub an object; sub empty; "
        "sub with NUL; sub NUL; sub of 256 characters; sub a high surrogate; sub a low "
        "surrogate"
    ),
}


def test_every_token_has_a_reason() -> None:
    named = [name for names in REASONS.values() for name in names.split("; ")]
    assert sorted(named) == sorted(BAD_TOKENS.keys() - UNSENDABLE)
    assert len(named) > 180
    elsewhere = {"several", "too-long", "lifetime", "cnf"}
    elsewhere |= {"step-up-no-auth-time", "step-up-old", "step-up-acr"}
    assert {reason.label for reason in Reason} - REASONS.keys() == elsewhere


@SHARED
@pytest.mark.parametrize("reason", REASONS)
async def test_its_reason_is_counted(shared: Daemon, reason: str) -> None:
    names = REASONS[reason].split("; ")
    before = await refused_tokens(shared)
    async with client_session() as session:
        for name in names:
            value = BAD_TOKENS[name](shared.issuer)
            headers = {} if value is None else {"Authorization": value}
            async with session.get(f"{shared.base}/status", headers=headers) as response:
                assert response.status == 401, name
    assert await rises(shared, before) == {reason: len(names)}


@SHARED
async def test_it_is_logged_at_info_and_bounded(shared: Daemon) -> None:
    """Whoever looks at the log of a daemon as it is set by default finds the cause."""
    with capture_logs() as logged:
        async with client_session() as session:
            for _ in range(30):
                headers = {"Authorization": shared.issuer.bearer("alice", aud="another")}
                await session.get(f"{shared.base}/status", headers=headers)
    lines = [line for line in logged if line["event"] == "tokens_refused"]
    assert len(lines) <= 1
    assert all((line["reason"], line["log_level"]) == ("aud", "info") for line in lines)
