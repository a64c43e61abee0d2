"""A token that is known is judged anew in all that can change: its times, and the issuer's keys."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from custody.auth import tokens
from custody.auth.jwk import JwksError, VerificationKey
from custody.auth.jwks import IssuerUnavailable, JwksCache
from custody.auth.tokens import InvalidToken, Principal, TokenVerifier
from custody.auth.verified import Claims, VerifiedTokens, name_of
from tests.tokens import Issuer, okp_jwk

NOW = 1_800_000_000.0


@dataclass
class World:
    """An issuer, its JWKS as it is served, a clock, and how often a signature was checked."""

    issuer: Issuer
    document: bytes
    now: float = NOW
    checked: list[str] = field(default_factory=list)

    async def fetch(self) -> bytes:
        if not self.document:
            raise JwksError("down")
        return self.document

    def __post_init__(self) -> None:
        self.jwks = JwksCache(
            fetch=self.fetch, source="test", max_age=1000, clock=lambda: self.now - NOW
        )
        self.verifier = TokenVerifier(
            jwks=self.jwks,
            issuer=self.issuer.url,
            audience=self.issuer.audience,
            now=lambda: self.now,
        )


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    issuer = Issuer(now=lambda: NOW)
    made = World(issuer, issuer.jwks())
    check = tokens._check_signature

    def count(token: str, key: VerificationKey) -> None:
        made.checked.append(token)
        check(token, key)

    monkeypatch.setattr(tokens, "_check_signature", count)
    return made


async def test_signature_is_checked_once(world: World) -> None:
    alice, bob = world.issuer.bearer("alice"), world.issuer.bearer("bob")
    for _ in range(3):
        assert await world.verifier.verify(alice) == Principal("alice")
        assert await world.verifier.verify(bob) == Principal("bob")
    assert world.checked == [alice.split()[1], bob.split()[1]]


async def test_known_token_ends_with_its_exp(world: World) -> None:
    bearer = world.issuer.bearer(exp=NOW + 60)
    for now in (NOW, NOW + 89.9):
        world.now = now
        await world.verifier.verify(bearer)
    world.now = NOW + 90
    with pytest.raises(InvalidToken, match="expired"):
        await world.verifier.verify(bearer)


@pytest.mark.parametrize("claim", ["nbf", "iat"])
async def test_known_token_is_not_valid_before_its_time(world: World, claim: str) -> None:
    bearer = world.issuer.bearer(**{claim: NOW})
    await world.verifier.verify(bearer)
    world.now = NOW - 31  # somebody has set the clock
    with pytest.raises(InvalidToken, match="not valid yet"):
        await world.verifier.verify(bearer)


def other_key(world: World, kid: str) -> bytes:
    key = Ed25519PrivateKey.generate().public_key()
    return json.dumps({"keys": [okp_jwk(key, kid=kid)]}).encode()


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(lambda world: other_key(world, world.issuer.kid), id="another key, same name"),
        pytest.param(lambda world: other_key(world, "new"), id="withdrawn"),
    ],
)
async def test_known_token_does_not_outlive_its_key(
    world: World, document: Callable[[World], bytes]
) -> None:
    bearer = world.issuer.bearer()
    await world.verifier.verify(bearer)
    world.document = document(world)
    await world.jwks.refresh()
    for _ in range(2):
        with pytest.raises(InvalidToken):
            await world.verifier.verify(bearer)


async def test_a_new_jwks_has_each_signature_checked_again(world: World) -> None:
    bearer = world.issuer.bearer()
    for _ in range(3):
        await world.verifier.verify(bearer)
        await world.verifier.verify(bearer)
        await world.jwks.refresh()
    assert len(world.checked) == 3


async def test_known_token_without_kid_needs_a_jwks_with_one_key(world: World) -> None:
    world.document = world.issuer.jwks(only_current=True)
    bearer = f"Bearer {world.issuer.signed({'alg': 'EdDSA'}, world.issuer.claims())}"
    await world.verifier.verify(bearer)
    world.document = world.issuer.jwks()
    await world.jwks.refresh()
    with pytest.raises(InvalidToken):
        await world.verifier.verify(bearer)


async def test_known_token_is_no_verdict_when_the_jwks_is_too_old(world: World) -> None:
    bearer = world.issuer.bearer(exp=NOW + 10_000)
    await world.verifier.verify(bearer)
    world.document = b""
    world.now = NOW + 1001
    with pytest.raises(IssuerUnavailable):
        await world.verifier.verify(bearer)


async def test_refused_token_is_not_remembered(world: World) -> None:
    good = world.issuer.bearer()
    bad = good[:-10] + ("A" if good[-10] != "A" else "B") + good[-9:]
    await world.verifier.verify(good)
    for _ in range(2):
        with pytest.raises(InvalidToken):
            await world.verifier.verify(bad)
    assert len(world.checked) == 3


async def test_odd_bytes_in_the_header(world: World) -> None:
    with pytest.raises(InvalidToken):
        await world.verifier.verify("Bearer \udcff\udc80.x.y")


def test_the_longest_unused_is_forgotten() -> None:
    known = VerifiedTokens(capacity=3)
    names = [name_of(f"token {number}") for number in range(5)]
    for name in names[:3]:
        known.add(name, Claims("user", None, 1.0, 0.0))
    assert known.find(names[0]) is not None
    for name in names[3:]:
        known.add(name, Claims("user", None, 1.0, 0.0))
    assert [known.find(name) is not None for name in names] == [True, False, False, True, True]


def test_no_token_is_kept(world: World) -> None:
    token = world.issuer.token()
    assert token.encode() not in name_of(f"Bearer {token}")
    assert len(name_of(f"Bearer {token}")) == 32
