"""``custody doctor --token``: what would be said of a token, claim by claim, without showing it."""

import json
from pathlib import Path

import pytest

from custody.auth.diagnostics import explain
from custody.auth.refusals import InvalidToken, Reason
from custody.auth.step_up import StepUp
from custody.ops.token_doctor import examine_token
from kek_backends.findings import Verdict
from tests.clock import Clock
from tests.tokens import BAD_TOKENS, Issuer
from tests.unit.served_jwks import ServedJwks

NOW = 1_800_000_000.0


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer(now=lambda: NOW)


@pytest.mark.parametrize("name", BAD_TOKENS)
async def test_the_reason_of_the_daemon_is_among_what_is_said(issuer: Issuer, name: str) -> None:
    world, value = ServedJwks(issuer, clock=Clock(NOW)), BAD_TOKENS[name](issuer)
    await world.cache.refresh()
    with pytest.raises(InvalidToken) as refusal:
        await world.verifier.verify(value)
    found = explain(value or "", world.verifier.rules, StepUp(), world.cache.keys)
    reasons = {one.reason for one in found} - {None}
    # What is wrong with the header around it is nothing that a file has.
    if name not in {"no header", "no scheme", "no space", "a tab for the space"}:
        assert refusal.value.reason in reasons


async def test_all_that_is_wrong_is_said_at_once(issuer: Issuer) -> None:
    world = ServedJwks(issuer, clock=Clock(NOW))
    await world.cache.refresh()
    token = issuer.token(iss="https://other", aud="else", exp=NOW - 90000, cnf={"jkt": "x"}, sub=7)
    found = explain(token, world.verifier.rules, StepUp(), world.cache.keys)
    assert {one.what: one.reason for one in found if one.reason} == {
        "iss": Reason.ISSUER,
        "aud": Reason.AUDIENCE,
        "sub": Reason.SUBJECT,
        "cnf": Reason.BOUND,
        "exp": Reason.EXPIRED,
    }


async def said_of(token: str, step_up: StepUp, issuer: Issuer | None = None) -> list[str]:
    """Return all that is said, a line for each thing that was looked at."""
    world = ServedJwks(issuer or Issuer(now=lambda: NOW), clock=Clock(NOW))
    await world.cache.refresh()
    rules = world.verifier.rules
    found = explain(token, rules, step_up, world.cache.keys)
    return [
        f"{one.what}: {one.detail}" + (f" ({one.reason.name})" if one.reason else "")
        for one in found
    ]


OURS = "CUSTODY_JWT_ISSUER is 'https://auth.example'", "CUSTODY_JWT_AUDIENCE is 'mana'"


async def test_all_that_is_said_of_a_token(issuer: Issuer) -> None:
    """Word for word: an operator has nothing else, and a wrong name sends him elsewhere."""
    step_up = StepUp(300, ("phr", "phrh"), now=Clock(NOW))
    token = issuer.token(
        iat=NOW - 60, exp=NOW + 120, nbf=NOW - 20, auth_time=NOW - 7, acr="phr", sub="alice"
    )
    said = await said_of(token, step_up)
    assert said == [
        "alg: 'EdDSA'",
        "crit: absent",
        "typ: absent",
        "kid: 'key-1'",
        f"iss: 'https://auth.example'; {OURS[0]}",
        f"aud: 'mana'; {OURS[1]}",
        "sub: present",
        "cnf: absent",
        "exp: 120 s from now",
        "nbf, iat: valid for 20 s",
        "lifetime: 180 s from iat; CUSTODY_JWT_MAX_LIFETIME is 86400",
        "step-up auth_time: login 7 s ago; CUSTODY_STEP_UP_MAX_AGE is 300",
        "step-up acr: 'phr'; CUSTODY_STEP_UP_ACR is 'phr phrh'",
        # Of another issuer's key, which has the same name.
        (
            f"signature: {Reason.SIGNATURE.text}; the issuer has the keys: 'key-1', 'key-1-standby'"
            " (SIGNATURE)"
        ),
    ]
    header = {"alg": "HS256", "kid": "gone", "typ": "secevent+jwt", "crit": ["b64"]}
    claims = {"iss": "x" * 90, "aud": ["a"], "exp": NOW + 90000, "cnf": {"jkt": "k"}}
    said = await said_of(issuer.signed(header, claims), StepUp())
    shown = "'" + "x" * 79
    assert said == [
        f"alg: 'HS256': {Reason.ALGORITHM.text} (ALGORITHM)",
        f"crit: ['b64']: {Reason.EXTENSION.text} (EXTENSION)",
        f"typ: 'secevent+jwt': {Reason.TYPE.text} (TYPE)",
        "kid: 'gone'",
        f"iss: {shown}; {OURS[0]}: {Reason.ISSUER.text} (ISSUER)",
        f"aud: ['a']; {OURS[1]}: {Reason.AUDIENCE.text} (AUDIENCE)",
        f"sub: absent: {Reason.SUBJECT.text} (SUBJECT)",
        f"cnf: {{'jkt': 'k'}}: {Reason.BOUND.text} (BOUND)",
        "exp: 90000 s from now",
        "nbf, iat: valid for inf s",
        (
            "lifetime: 90000 s from now; CUSTODY_JWT_MAX_LIFETIME is 86400"
            f": {Reason.LIFETIME.text} (LIFETIME)"
        ),
        (
            f"signature: {Reason.UNKNOWN_KEY.text}; the issuer has the keys:"
            " 'key-1', 'key-1-standby' (UNKNOWN_KEY)"
        ),
    ]
    said = await said_of(issuer.token(iat="x", auth_time=None), step_up, issuer)
    assert said[8:] == [
        "times: exp, nbf and iat are seconds since 1970 (TIME)",
        (
            "step-up auth_time: login None; CUSTODY_STEP_UP_MAX_AGE is 300"
            f": {Reason.NO_LOGIN.text} (NO_LOGIN)"
        ),
        (
            "step-up acr: absent; CUSTODY_STEP_UP_ACR is 'phr phrh'"
            f": {Reason.WEAK_LOGIN.text} (WEAK_LOGIN)"
        ),
        "signature: good",
    ]


@pytest.mark.parametrize("frame", ["{}", " {}\n", "Bearer {}", "authorization: bearer {}\r\n"])
async def test_good_token(tmp_path: Path, frame: str) -> None:
    issuer = Issuer()
    (tmp_path / "jwks.json").write_bytes(issuer.jwks())
    environ = {
        "CUSTODY_JWKS_FILE": str(tmp_path / "jwks.json"),
        "CUSTODY_JWT_ISSUER": issuer.url,
    }
    token = issuer.token()
    found = await examine_token(environ, frame.format(token).encode())
    assert {one.verdict for one in found} == {Verdict.OK}, found
    assert {one.part for one in found} >= {"jwks", "token signature", "token exp", "token iss"}
    said = json.dumps([one.message for one in found])
    assert not [segment for segment in token.split(".") if segment in said]
    assert "user-1" not in said


@pytest.mark.parametrize(
    ("claims", "found"),
    [
        ({"auth_time": NOW - 12, "acr": "phr"}, {}),
        ({"auth_time": NOW - 4000}, {"step-up-old": "4000 s ago", "step-up-acr": "absent"}),
        ({"auth_time": "x"}, {"step-up-no-auth-time": "'x'", "step-up-acr": "absent"}),
        ({"acr": ["phr"]}, {"step-up-no-auth-time": "absent", "step-up-acr": "['phr']"}),
    ],
)
def test_what_step_up_would_say(
    issuer: Issuer, claims: dict[str, object], found: dict[str, str]
) -> None:
    clock = Clock(NOW)
    rules, token = ServedJwks(issuer, clock=clock).verifier.rules, issuer.token(**claims)
    said = explain(token, rules, StepUp(300, ("phr", "phrh"), now=clock), None)
    of_login = [one for one in said if one.what in {"step-up auth_time", "step-up acr"}]
    refused = {one.reason.label: one.detail for one in of_login if one.reason}
    assert len(of_login) == 2
    assert refused.keys() == found.keys()
    assert all(text in refused[label] for label, text in found.items()), refused
    assert {one.reason for one in explain(token, rules, StepUp(), None)} == {None}


async def test_step_up_of_the_settings(tmp_path: Path) -> None:
    issuer = Issuer()
    (tmp_path / "jwks.json").write_bytes(issuer.jwks())
    environ = {
        "CUSTODY_JWKS_FILE": str(tmp_path / "jwks.json"),
        "CUSTODY_JWT_ISSUER": issuer.url,
        "CUSTODY_STEP_UP_MAX_AGE": "300",
    }
    found = {one.part: one for one in await examine_token(environ, issuer.token().encode())}
    assert found["token step-up auth_time"].verdict is Verdict.FINDING
    assert "CUSTODY_STEP_UP_MAX_AGE is 300" in found["token step-up auth_time"].message
    assert "token step-up acr" not in found
    fresh = issuer.token(auth_time=issuer.now()).encode()
    assert {one.verdict for one in await examine_token(environ, fresh)} == {Verdict.OK}


async def test_without_keys_the_rest_is_said(tmp_path: Path) -> None:
    issuer = Issuer()
    environ = {
        "CUSTODY_JWKS_FILE": str(tmp_path / "missing.json"),
        "CUSTODY_JWT_ISSUER": issuer.url,
    }
    found = await examine_token(environ, issuer.token(aud="else").encode())
    verdicts = {one.part: one.verdict for one in found}
    assert verdicts["jwks"] is Verdict.FINDING
    assert verdicts["token signature"] is Verdict.UNSEEN
    assert (verdicts["token aud"], verdicts["token iss"]) == (Verdict.FINDING, Verdict.OK)


@pytest.mark.parametrize(
    ("environ", "missing"),
    [
        ({}, "CUSTODY_JWT_ISSUER must be set"),
        ({"CUSTODY_JWT_ISSUER": "x"}, "CUSTODY_JWKS_URL or CUSTODY_JWKS_FILE must be set"),
    ],
)
async def test_without_settings(environ: dict[str, str], missing: str) -> None:
    (found,) = await examine_token(environ, b"x")
    assert (found.part, found.verdict) == ("settings", Verdict.FINDING)
    assert missing in found.message


@pytest.mark.parametrize("text", [b"", b"\xff\xfe", b"a.b", b"x" * 16384, b"Basic abc"])
async def test_what_is_no_token(tmp_path: Path, text: bytes) -> None:
    issuer = Issuer()
    (tmp_path / "jwks.json").write_bytes(issuer.jwks())
    environ = {
        "CUSTODY_JWKS_FILE": str(tmp_path / "jwks.json"),
        "CUSTODY_JWT_ISSUER": issuer.url,
    }
    found = await examine_token(environ, text)
    assert [one.part for one in found if one.verdict is Verdict.FINDING] == ["token form"]
