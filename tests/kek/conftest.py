"""Fixtures of the tests of KEKs."""

from collections.abc import AsyncIterator

import pytest

from kek_backends import remote
from tests.kek.fakes import FakeRemote
from tests.kek.remote_kit import Gate


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hardly any pause between the tries of a call."""
    monkeypatch.setattr(remote, "_PAUSE_SECONDS", 0.01)


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
