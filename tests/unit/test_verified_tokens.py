"""A token that is known is judged anew in all that can change: its times, and the issuer's keys."""

from collections.abc import Callable, Iterator
from unittest.mock import Mock, patch

import pytest

from custody.auth import tokens
from custody.auth.claims import Claims
from custody.auth.jwk import JwksError
from custody.auth.jwks import IssuerUnavailable
from custody.auth.refusals import InvalidToken
from custody.auth.tokens import Principal
from custody.auth.verified import VerifiedTokens, name_of
from tests.tokens import Issuer
from tests.unit.served_jwks import ServedJwks, jwks

NOW = 1_800_000_000.0


@pytest.fixture
def world() -> ServedJwks:
    return ServedJwks(Issuer(now=lambda: NOW), now=NOW, max_age=1000)


@pytest.fixture
def check() -> Iterator[Mock]:
    """Every check of a signature."""
    with patch.object(tokens, "check_signature", wraps=tokens.check_signature) as check:
        yield check


async def test_signature_is_checked_once(world: ServedJwks, check: Mock) -> None:
    alice, bob = world.issuer.bearer("alice"), world.issuer.bearer("bob")
    for _ in range(3):
        assert await world.verifier.verify(alice) == Principal("alice")
        assert await world.verifier.verify(bob) == Principal("bob")
    assert [call.args[0] for call in check.mock_calls] == [alice.split()[1], bob.split()[1]]


async def test_known_token_ends_with_its_exp(world: ServedJwks) -> None:
    bearer = world.issuer.bearer(exp=NOW + 60)
    for now in (NOW, NOW + 89.9):
        world.clock.now = now
        await world.verifier.verify(bearer)
    world.clock.now = NOW + 90
    with pytest.raises(InvalidToken, match="expired"):
        await world.verifier.verify(bearer)


@pytest.mark.parametrize("claim", ["nbf", "iat"])
async def test_known_token_is_not_valid_before_its_time(world: ServedJwks, claim: str) -> None:
    bearer = world.issuer.bearer(**{claim: NOW})
    await world.verifier.verify(bearer)
    world.clock.now = NOW - 31  # somebody has set the clock
    with pytest.raises(InvalidToken, match="not valid yet"):
        await world.verifier.verify(bearer)


def other_key(kid: str) -> bytes:
    return jwks(Issuer().jwk(kid=kid))


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(lambda world: other_key(world.issuer.kid), id="another key, same name"),
        pytest.param(lambda _: other_key("new"), id="withdrawn"),
    ],
)
async def test_known_token_does_not_outlive_its_key(
    world: ServedJwks, document: Callable[[ServedJwks], bytes]
) -> None:
    bearer = world.issuer.bearer()
    await world.verifier.verify(bearer)
    world.document = document(world)
    await world.cache.refresh()
    for _ in range(2):
        with pytest.raises(InvalidToken):
            await world.verifier.verify(bearer)


async def test_a_new_jwks_has_each_signature_checked_again(world: ServedJwks, check: Mock) -> None:
    bearer = world.issuer.bearer()
    for _ in range(3):
        await world.verifier.verify(bearer)
        await world.verifier.verify(bearer)
        await world.cache.refresh()
    assert check.call_count == 3


async def test_known_token_without_kid_needs_a_jwks_with_one_key(world: ServedJwks) -> None:
    world.document = world.issuer.jwks(only_current=True)
    bearer = f"Bearer {world.issuer.signed({'alg': 'EdDSA'}, world.issuer.claims())}"
    await world.verifier.verify(bearer)
    world.document = world.issuer.jwks()
    await world.cache.refresh()
    with pytest.raises(InvalidToken):
        await world.verifier.verify(bearer)


async def test_known_token_is_no_verdict_when_the_jwks_is_too_old(world: ServedJwks) -> None:
    bearer = world.issuer.bearer(exp=NOW + 10_000)
    await world.verifier.verify(bearer)
    world.problem = JwksError("down")
    world.clock.now = NOW + 1001
    with pytest.raises(IssuerUnavailable):
        await world.verifier.verify(bearer)


async def test_refused_token_is_not_remembered(world: ServedJwks, check: Mock) -> None:
    good = world.issuer.bearer()
    bad = good[:-10] + ("A" if good[-10] != "A" else "B") + good[-9:]
    await world.verifier.verify(good)
    for _ in range(2):
        with pytest.raises(InvalidToken):
            await world.verifier.verify(bad)
    assert check.call_count == 3


async def test_odd_bytes_in_the_header(world: ServedJwks) -> None:
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


def test_no_token_is_kept(world: ServedJwks) -> None:
    token = world.issuer.token()
    assert token.encode() not in name_of(f"Bearer {token}")
    assert len(name_of(f"Bearer {token}")) == 32


async def test_one_token_has_one_name_however_it_is_spaced(world: ServedJwks, check: Mock) -> None:
    """A client can't push the tokens of others out by spelling its header anew."""
    token = world.issuer.token()
    for spaces in range(1, 200):
        await world.verifier.verify(f"bEaReR{' ' * spaces}{token}")
    assert len(world.verifier._verified._known) == 1
    assert check.call_count == 1
