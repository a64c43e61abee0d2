"""Credentials of AWS that are renewed: web identity, Pod Identity and SSO, whose tokens change."""

import asyncio
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from botocore.credentials import SSOProvider
from botocore.utils import ContainerMetadataFetcher

from kek_backends import breaker
from kek_backends.aws.errors import CredentialsRefused
from kek_backends.aws.kek import AwsKmsKek
from kek_backends.base import Wrap
from kek_backends.errors import KekError, Transient
from kek_backends.remote import CALL_SECONDS
from tests.bindings import of
from tests.eventually import eventually
from tests.http_servers import serving
from tests.kek import kms_stub as stubs
from tests.kek.credential_stub import CredentialStub
from tests.kek.kit import KEY, failure, no_thread_waits, opens, short_limits
from tests.kek.kms_stub import KmsStub, kms_stub
from tests.leaks import remember
from tests.moto_server import REGION
from tests.proofs import some

pytestmark = pytest.mark.usefixtures("known_backends", "no_aws_environ")

WAYS = ("web identity", "Pod Identity", "SSO")
START = "https://company.awsapps.test/start"
# Of a run at full length: CUSTODY_TEST_MINUTE=60, which takes ten minutes.
MINUTE = float(os.environ.get("CUSTODY_TEST_MINUTE", "0"))

Build = Callable[..., AwsKmsKek]


@pytest.fixture
def kms() -> Iterator[KmsStub]:
    with kms_stub() as running:
        running.make_key("alias/custody")
        yield running


@pytest.fixture
def issuer(kms: KmsStub) -> Iterator[CredentialStub]:
    with serving(CredentialStub(life=max(20.0, 1.5 * MINUTE))) as running:
        kms.faults["*"] = running.guard(kms)
        yield running


@pytest.fixture
def renew(
    request: pytest.FixtureRequest,
    issuer: CredentialStub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[], str]:
    """Sets a way up; returns what puts a fresh token where it belongs, the only good one."""
    file = tmp_path / "token"
    way, is_sso = request.param, request.param == "SSO"
    if way == "web identity":
        monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/custody")
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(file))
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", issuer.url)
    elif way == "Pod Identity":
        monkeypatch.setattr(ContainerMetadataFetcher, "SLEEP_TIME", 0.05)
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{issuer.url}/v1/credentials")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(file))
    else:
        file = tmp_path / f"{hashlib.sha1(START.encode()).hexdigest()}.json"  # noqa: S324 - its name
        config = tmp_path / "config"
        config.write_text(
            f"[profile custody]\nsso_start_url = {START}\nsso_region = {REGION}\n"
            "sso_account_id = 111122223333\nsso_role_name = custody\n"
        )
        monkeypatch.setattr(SSOProvider, "_SSO_TOKEN_CACHE_DIR", str(tmp_path))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
        monkeypatch.setenv("AWS_PROFILE", "custody")
        monkeypatch.setenv("AWS_ENDPOINT_URL_SSO", issuer.url)

    def put() -> str:
        token = remember(secrets.token_hex(16))
        fresh = file.with_suffix(".new")
        ends = datetime.now(UTC) + timedelta(hours=1)
        fresh.write_text(
            json.dumps({"accessToken": token, "expiresAt": ends.isoformat()}) if is_sso else token
        )
        fresh.replace(file)
        issuer.good = token
        return token

    put()
    return put


@pytest.fixture
def kek(kms: KmsStub, aws_kek: Build, renew: object) -> AwsKmsKek:
    given = {"AWS_REGION": REGION, "AWS_ENDPOINT_URL_KMS": kms.url}
    return aws_kek("alias/custody", **given, AWS_PROFILE=os.environ.get("AWS_PROFILE", ""))


@pytest.mark.timeout(700)
@pytest.mark.parametrize("renew", some(WAYS, "Pod Identity", "SSO"), indirect=True)
async def test_ten_tokens_in_ten_minutes(
    kek: AwsKmsKek, issuer: CredentialStub, renew: Callable[[], str]
) -> None:
    """Each is the only good one for its minute, and no call ever fails."""
    wrap = await kek.wrap(of("alice"), KEY)
    for _ in range(10):
        token, until = renew(), time.monotonic() + MINUTE
        while True:
            assert await kek.unwrap(of("alice"), wrap) == KEY
            await kek.refresh()
            if time.monotonic() >= until:
                break
            await asyncio.sleep(1.0)
        assert issuer.shown[-1] == token
    assert kek.problem is None


@pytest.mark.parametrize("renew", some(WAYS, "web identity"), indirect=True)
async def test_a_token_that_is_refused_and_one_that_is_not(
    kek: AwsKmsKek, issuer: CredentialStub, renew: Callable[[], str]
) -> None:
    wrap = await kek.wrap(of("alice"), KEY)
    issuer.good = "another"
    error = await failure(kek.unwrap(of("alice"), wrap))
    # A container's agent says no more than a status.
    assert type(error) in (CredentialsRefused, Transient)
    assert not [token for token in issuer.shown if token in str(error)]
    renew()
    await eventually(lambda: is_back(kek, wrap), 5.0)


FAULTS = {
    "down": stubs.reset,
    "silent": stubs.silence,
    "slow": stubs.drip_body,
    "headers without an end": stubs.drip_headers,
    "body without an end": stubs.flood,
}


@pytest.mark.prove
@pytest.mark.parametrize(
    ("renew", "fault"),
    [
        *(("web identity", fault) for fault in FAULTS),
        ("Pod Identity", "down"),
        ("Pod Identity", "slow"),
        ("SSO", "silent"),
    ],
    indirect=["renew"],
)
async def test_where_they_come_from_fails(
    kek: AwsKmsKek, issuer: CredentialStub, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In time, no thread is kept, and it is back by itself."""
    monkeypatch.setattr(breaker, "OPEN_SECONDS", 0.2)
    wrap = await kek.wrap(of("alice"), KEY)
    issuer.fault = FAULTS[fault]
    with short_limits():
        error = await failure(kek.unwrap(of("alice"), wrap), CALL_SECONDS)
        assert type(error) is Transient
        # A container's agent is asked three times, which goes on without its caller.
        await eventually(lambda: no_thread_waits(kek), 15.0)
    issuer.fault = None
    await eventually(lambda: is_back(kek, wrap), 5.0)
    await kek.refresh()
    assert kek.problem is None


async def is_back(kek: AwsKmsKek, wrap: Wrap) -> bool:
    try:
        return await opens(kek, wrap)
    except KekError:
        return False
