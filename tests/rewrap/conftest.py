"""Fixtures of the tests of re-wraps."""

import pytest

from custody.rewrap import backoff, storing, worker
from kek_backends import breaker, calls


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of this process try again soon; processes of their own wait as long as ever.

    How long a claim is left alone is tested in test_claims.
    """
    monkeypatch.setattr(worker, "_IDLE_SECONDS", 0.02)
    monkeypatch.setattr(backoff, "_PAUSES_SECONDS", (0.02, 0.05, 0.1))
    monkeypatch.setattr(storing, "_REST_SECONDS", 0.1)
    monkeypatch.setattr(calls, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(breaker, "OPEN_SECONDS", 0.1)
