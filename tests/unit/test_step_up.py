"""The rule of step-up to the second, under a clock that a test turns."""

import pytest

from custody.auth.refusals import Reason, StepUpRequired
from custody.auth.step_up import StepUp
from tests.clock import Clock
from tests.tokens import ABSENT, Issuer
from tests.unit.served_jwks import ServedJwks

NOW = 1_800_000_000.0
OF_NO_LOGIN = [ABSENT, None, str(int(NOW)), True, [NOW], {}, 10**400]


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
def world(clock: Clock) -> ServedJwks:
    return ServedJwks(Issuer(now=lambda: NOW), clock=clock)


async def reason(world: ServedJwks, step_up: StepUp, **claims: object) -> Reason | None:
    """Return why a login does not do; None where it does."""
    principal = await world.verifier.verify(world.issuer.bearer(**claims))
    try:
        step_up.check(principal.auth_time, principal.acr)
    except StepUpRequired as error:
        return error.reason
    return None


@pytest.mark.parametrize(
    ("auth_time", "refusal"),
    [
        (NOW, None),
        (NOW - 330, None),
        (NOW - 330.5, Reason.OLD_LOGIN),
        (NOW + 30, None),
        (NOW + 30.5, Reason.NO_LOGIN),
        (0, Reason.OLD_LOGIN),
        (-NOW, Reason.OLD_LOGIN),
    ],
)
async def test_age(
    world: ServedJwks, clock: Clock, auth_time: float, refusal: Reason | None
) -> None:
    assert await reason(world, StepUp(300, now=clock), auth_time=auth_time) is refusal


@pytest.mark.parametrize("auth_time", OF_NO_LOGIN)
async def test_what_is_no_time_is_no_login_and_signs_nobody_out(
    world: ServedJwks, clock: Clock, auth_time: object
) -> None:
    assert await reason(world, StepUp(300, now=clock), auth_time=auth_time) is Reason.NO_LOGIN
    assert await reason(world, StepUp(now=clock), auth_time=auth_time) is None


async def test_a_known_token_is_judged_at_each_request(world: ServedJwks, clock: Clock) -> None:
    step_up, bearer = StepUp(300, now=clock), world.issuer.bearer(auth_time=NOW)
    for now in (NOW, NOW + 330):
        clock.now = now
        known = await world.verifier.verify(bearer)
        step_up.check(known.auth_time, known.acr)
    clock.now = NOW + 330.5
    known = await world.verifier.verify(bearer)
    with pytest.raises(StepUpRequired):
        step_up.check(known.auth_time, known.acr)


@pytest.mark.parametrize("acr", ["phr", "urn:mace:incommon:iap:silver"])
async def test_one_acr_of_several(world: ServedJwks, acr: str) -> None:
    values = ("phr", "urn:mace:incommon:iap:silver")
    assert await reason(world, StepUp(acr_values=values), acr=acr) is None


@pytest.mark.parametrize("acr", [ABSENT, None, "", "PHR", "phr phrh", "ph", "0", 1, ["phr"], {}])
async def test_another_acr(world: ServedJwks, acr: object) -> None:
    step_up = StepUp(acr_values=("phr", "phrh"))
    assert await reason(world, step_up, acr=acr) is Reason.WEAK_LOGIN
    assert await reason(world, StepUp(), acr=acr) is None


async def test_both_are_asked_for(world: ServedJwks, clock: Clock) -> None:
    step_up = StepUp(300, ("phr",), now=clock)
    assert await reason(world, step_up, auth_time=NOW, acr="phr") is None
    assert await reason(world, step_up, auth_time=NOW) is Reason.WEAK_LOGIN
    assert await reason(world, step_up, acr="phr") is Reason.NO_LOGIN
