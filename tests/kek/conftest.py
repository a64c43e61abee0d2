"""Fixtures of the tests of KEKs."""

import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from functools import cache
from importlib.metadata import entry_points

import botocore.session
import pytest
from botocore.loaders import create_loader

from kek_backends import calls, loader
from kek_backends.aws.kek import AwsKmsKek
from tests.kek.fakes import FakeRemote
from tests.kek.kit import aws_kms_kek
from tests.kek.patience import be_patient


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
        be_patient(patch.setattr)
        yield


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hardly any pause between the tries of a call."""
    monkeypatch.setattr(calls, "_PAUSE_SECONDS", 0.01)


@pytest.fixture(scope="module")
def no_aws_environ() -> Iterator[None]:
    """Hide what the machine says of AWS: variables, files, metadata service, proxies.

    The SDK's descriptions of services are read once here, not by every session: with a new
    backend for each test that would be most of the time.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", cache(create_loader))
        for name in list(os.environ):
            if name.startswith("AWS_") or name.lower().endswith("_proxy"):
                patch.delenv(name)
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            patch.setenv(name, os.devnull)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


@pytest.fixture
async def aws_kek() -> AsyncIterator[Callable[..., AwsKmsKek]]:
    """Builds KEKs of AWS KMS, by a key's name and variables; in the end they are closed."""
    async with AsyncExitStack() as stack:

        def make(name: str, **environ: str) -> AwsKmsKek:
            made = aws_kms_kek(name, **environ)
            stack.push_async_callback(made.close)
            return made

        yield make


@pytest.fixture
def sdk_log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What libraries log, at debug level where they do not set another for themselves."""
    for name in ("", "hvac", "requests", "urllib3"):
        caplog.set_level(logging.DEBUG, logger=name)
    return caplog


@pytest.fixture
async def fresh() -> AsyncIterator[FakeRemote]:
    """A KMS that nobody has called yet."""
    made = FakeRemote()
    yield made
    await made.close()


@pytest.fixture
async def kms(fresh: FakeRemote) -> FakeRemote:
    """A KMS that was reached and proven, with no calls counted yet."""
    await fresh.refresh()
    await fresh.prove()
    fresh.calls.clear()
    return fresh


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Its ``wait`` is a fault that waits until it is set."""
    made = threading.Event()
    yield made
    made.set()
