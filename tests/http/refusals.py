"""Why tokens were refused, as the metrics of a daemon count it."""

from tests.client import client_session
from tests.servers import Daemon


async def refused_tokens(daemon: Daemon) -> dict[str, float]:
    """Return how many tokens were refused, by reason."""
    async with client_session() as session, session.get(f"{daemon.admin}/metrics") as response:
        lines = (await response.text()).splitlines()
    name = 'custody_refused_tokens_total{reason="'
    found = (line.removeprefix(name).split('"} ') for line in lines if line.startswith(name))
    return {reason: float(number) for reason, number in found}


async def rises(daemon: Daemon, before: dict[str, float]) -> dict[str, float]:
    """Return by how much each count has risen."""
    after = await refused_tokens(daemon)
    return {one: after[one] - before.get(one, 0) for one in after if after[one] != before.get(one)}
