"""The process that attacks: it is told how on standard input, and says on its output what it did.

A process of its own, so that the honest users' event loop is not what is measured, and one that
steps back at once where anybody else wants a processor: out there, attackers have their own. To be
nice is not enough: the scheduler lets who is nice finish a slice of some milliseconds first.
"""

import json
import resource
import sys
from collections.abc import Mapping

import uvloop

from tests.bench.chaos.attacks import ATTACKS
from tests.bench.chaos.swarm import Plan, Swarm
from tests.bench.processes import step_back

BEGUN = b"begun\n"


async def attack(plan: Plan) -> Mapping[str, int]:
    """Attack from this process, and return what was done and what came back."""
    (chosen,) = [one for one in ATTACKS if one.name == plan.attack]
    swarm = Swarm(chosen, plan)
    await swarm.run()
    return swarm.tally


def main() -> None:
    """Be that process."""
    plan = Plan(**json.load(sys.stdin))
    step_back()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    sys.stdout.buffer.write(BEGUN)
    sys.stdout.flush()
    json.dump(uvloop.run(attack(plan)), sys.stdout)


if __name__ == "__main__":
    main()
