"""The alerts of ``docs/monitoring``, in a time that a test has.

Each expression keeps its shape. What is shortened, and nothing else:

- each ``for`` that is not 0 becomes half a second, two evaluations; that of a daemon that is not
  scraped five seconds: a busy machine misses some scrapes.
- each range becomes a hundred and twentieth: a quarter of an hour is 7.5 seconds, 15 scrapes.
- the ages of what can't be backdated in the database: five minutes without a seal and an hour
  without a JWKS become 15 seconds: a busy machine keeps a daemon waiting for some.

Daemons look at the issuer and the database once a second then, where they do every few minutes and
every ten seconds, and show each batch of audit rows, not one in eight; see :func:`hasty`. Rates,
shares and all other limits are those of the file.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from custody.auth.jwks import JwksCache
from custody.ops import health
from custody.ops.metrics import database
from tests.unit.test_monitoring import RULES

_SHORTER = 120
_WAITS = {"CustodyDown": "5s"}
_AGES = {"CustodyAuditUnsealed": ("> 300 ", "> 15 "), "CustodyJwksStale": ("> 3600", "> 15")}


def write_shortened(path: Path) -> None:
    """Write all rules, shortened, to a file."""
    path.write_text(json.dumps({"groups": [{"name": "all", "rules": [*map(_shortened, RULES)]}]}))


def _shortened(rule: dict[str, Any]) -> dict[str, Any]:
    expression = re.sub(
        r"\[(\d+)m\]", lambda found: f"[{int(found[1]) * 60_000 // _SHORTER}ms]", rule["expr"]
    )
    if rule["alert"] in _AGES:
        long, short = _AGES[rule["alert"]]
        assert expression.count(long) == 1, expression
        expression = expression.replace(long, short)
    waits = "0s" if rule["for"] == "0m" else _WAITS.get(rule["alert"], "500ms")
    return rule | {"expr": expression, "for": waits}


@contextmanager
def hasty() -> Iterator[None]:
    """Have daemons of this process look once a second at what they look at now and then."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vars(JwksCache)["__init__"].__kwdefaults__, "refresh_interval", 1.0)
        patch.setattr(health, "_AGAIN_SECONDS", 1.0)
        patch.setattr(database, "_SAMPLED", 1)
        yield
