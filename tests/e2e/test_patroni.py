"""A real Patroni whose primary goes while users are served, by both ways to it."""

import asyncio

import pytest

from tests.bench.failover import USERS, scene, summary
from tests.ledger import going_on
from tests.patroni import QUICK

pytestmark = [pytest.mark.timeout(300), pytest.mark.prove]


async def test_what_was_acknowledged_outlives_the_primary() -> None:
    """As planned, and killed; the other faults are ``make chaos-failover``'s."""
    async with scene(QUICK) as played:
        async with going_on(played.ledger, USERS[:4]):
            await asyncio.sleep(1)
            seen = [await played.suffer(fault) for fault in ("switchover", "kill")]
        found = await played.findings()
    assert all(one.moved for one in seen)
    assert found == [], summary(seen, ["hosts", "haproxy"])
    # Users had noticed, or nothing was tried.
    assert all(seconds > 0 for one in seen for seconds in one.seconds.values())
