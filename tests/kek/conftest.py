"""Fixtures of the tests of KEKs."""

from collections.abc import AsyncIterator, Iterator
from functools import cache
from importlib.metadata import entry_points

import pytest

from kek_backends import calls, loader
from kek_backends.aws import kek as aws_kek
from kek_backends.aws import session as aws_session
from kek_backends.transit import http as transit_http
from kek_backends.transit import state as transit_state
from kek_backends.transit import tokens as transit_tokens
from tests.kek.fakes import FakeRemote
from tests.kek.remote_kit import Gate


@pytest.fixture(scope="module")
def known_backends() -> Iterator[None]:
    """What is installed is looked up once: these tests build backends by the dozen."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader, "entry_points", cache(entry_points))
        yield


@pytest.fixture(scope="module")
def patient_calls() -> Iterator[None]:
    """A call may take long, on a busy machine: for tests that are not about time."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (calls, aws_kek, aws_session, transit_http, transit_tokens, transit_state):
            patch.setattr(module, "ATTEMPT_SECONDS", 20.0)
        patch.setattr(aws_session, "_CONNECT_SECONDS", 20.0)
        patch.setattr(calls, "CALL_SECONDS", 60.0)
        yield


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hardly any pause between the tries of a call."""
    monkeypatch.setattr(calls, "_PAUSE_SECONDS", 0.01)


@pytest.fixture
async def kms() -> AsyncIterator[FakeRemote]:
    """A KMS that was reached and proven, with no calls counted yet."""
    made = FakeRemote()
    await made.refresh()
    await made.prove()
    made.calls.clear()
    yield made
    await made.close()


@pytest.fixture
async def fresh() -> AsyncIterator[FakeRemote]:
    """A KMS that nobody has called yet."""
    made = FakeRemote()
    yield made
    await made.close()


@pytest.fixture
def gate() -> Gate:
    """A fault that waits."""
    return Gate()
