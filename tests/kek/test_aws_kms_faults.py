"""AWS KMS when it fails: each fault on a KMS of our own, and the way back."""

import asyncio
import base64
import logging
import re
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from custody.settings import LogFormat, LogLevel
from kek_backends import calls as kms_calls
from kek_backends.aws.client import AwsClient
from kek_backends.aws.errors import CredentialsRefused
from kek_backends.aws.kek import AwsKmsKek
from kek_backends.base import OwnedWrap, Wrap
from kek_backends.errors import (
    Denied,
    KekError,
    KeyMissing,
    Misconfigured,
    Tampered,
    Throttled,
    Transient,
)
from kek_backends.findings import Verdict
from kek_backends.remote import ATTEMPT_SECONDS, CALL_SECONDS, CONCURRENT_CALLS
from kek_backends.uri import KekUri
from tests.bindings import of
from tests.eventually import eventually
from tests.http_servers import Asked
from tests.kek import kms_stub as stubs
from tests.kek.kit import assert_silent, chain, failure, no_thread_waits, opens
from tests.kek.kms_stub import KmsStub, kms_stub
from tests.leaks import forms, remember
from tests.logs import logging_to_memory
from tests.moto_server import REGION
from tests.proofs import some

pytestmark = pytest.mark.usefixtures("known_backends", "no_aws_environ")

# More than the machine of a busy test run should need.
SLACK = 4.0
OTHER_ARN = f"arn:aws:kms:{REGION}:{stubs.ACCOUNT}:key/{'0' * 8}-0000-0000-0000-{'0' * 12}"

Build = Callable[..., AwsKmsKek]


@pytest.fixture
def stub() -> Iterator[KmsStub]:
    with kms_stub() as running:
        running.make_key("alias/custody")
        yield running


@pytest.fixture
def build(aws_kek: Callable[..., AwsKmsKek]) -> Build:
    """Builds a backend of a stub; variables given go over those of the stub."""
    return lambda stub, name="alias/custody", **environ: aws_kek(
        name, **{**stub.environ, **environ}
    )


def all_forms(*secrets: bytes) -> set[str]:
    return set().union(*(forms(base64.b64encode(one).decode()) for one in secrets))


def assert_clean(error: KekError, secret: set[str]) -> None:
    """See that neither an error nor anything that hangs on it shows a secret."""
    modules = {type(one).__module__.split(".")[0] for one in chain(error)}
    assert modules <= {"kek_backends", "builtins", "asyncio"}
    assert_silent(secret, error)
    assert "\n" not in str(error)


CALLS: dict[str, Callable[[AwsKmsKek, bytes, Wrap], Awaitable[object]]] = {
    "Decrypt": lambda backend, _, wrap: backend.unwrap(of("alice"), wrap),
    "Encrypt": lambda backend, key, _: backend.wrap(of("alice"), key),
    "DescribeKey": lambda backend, *_: backend.refresh(),
}
FAULTS = {
    "throttled": (stubs.refuse("ThrottlingException"), Throttled, "too many calls"),
    "429": (stubs.raw(b"slow down", 429, "text/plain"), Throttled, "too many calls"),
    "denied": (stubs.refuse("AccessDeniedException"), Denied, "lacks a right"),
    "expired": (stubs.refuse("ExpiredTokenException"), CredentialsRefused, "expired"),
    "unknown": (stubs.refuse("UnrecognizedClientException"), CredentialsRefused, "credentials"),
    "signature": (stubs.refuse("InvalidSignatureException"), CredentialsRefused, "credentials"),
    "disabled": (stubs.refuse("DisabledException"), KeyMissing, "aws kms enable-key"),
    "not found": (stubs.refuse("NotFoundException"), KeyMissing, "no such key"),
    "state": (stubs.refuse("KMSInvalidStateException"), KeyMissing, "to be deleted"),
    "usage": (stubs.refuse("InvalidKeyUsageException"), Misconfigured, "not a symmetric key"),
    "internal": (stubs.refuse("KMSInternalException", 500), Transient, "KMSInternalException"),
    "dependency": (stubs.refuse("DependencyTimeoutException", 503), Transient, "Dependency"),
    "unavailable": (stubs.refuse("KeyUnavailableException", 500), Transient, "KeyUnavailable"),
    "what is it": (stubs.refuse("NeverHeardOfException"), Transient, "does not know"),
    "no code": (stubs.refuse("{Plaintext}\n{CiphertextBlob}"), Transient, "(no readable code)"),
    "page": (stubs.raw(b"<html>busy</html>", 503, "text/html"), Transient, "(503)"),
    "empty": (stubs.raw(b"", 502), Transient, "(502)"),
    "reset": (stubs.reset, Transient, "can't be reached (ConnectionClosedError)"),
    "garbage": (stubs.raw(b"{nonsense"), Transient, "makes no sense"),
    "a list": (stubs.raw(b"[1]"), Transient, "makes no sense"),
    "flood": (stubs.flood, Transient, "can't be reached"),
}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("fault", some([*FAULTS], *[*FAULTS][::2]))
async def test_a_fault_has_its_type_and_shows_nothing(
    stub: KmsStub, build: Build, sdk_log: pytest.LogCaptureFixture, fault: str
) -> None:
    backend, key = build(stub), secrets.token_bytes(32)
    remember(base64.b64encode(key).decode())
    await backend.refresh()
    made = await backend.wrap(of("alice"), key)
    assert await backend.unwrap(of("alice"), made) == key
    secret = {
        *all_forms(key, base64.b64decode(made.wrapped_mk)),
        stub.environ["AWS_SECRET_ACCESS_KEY"],
    }
    action, kind, phrase = FAULTS[fault]
    stub.faults["*"] = action
    for call, use in CALLS.items():
        error = await failure(use(backend, key, made), CALL_SECONDS + SLACK)
        assert type(error) is kind
        assert str(error).removeprefix("KEK ").startswith("aws-kms:alias/custody: ")
        if call != "DescribeKey" or fault != "not found":
            assert phrase in str(error)
        assert_clean(error, secret)
        assert str(error) in (backend.problem or "") or call == "Encrypt"
    # Cured: one refresh, and nothing is wrong any more.
    stub.faults.clear()
    await backend.refresh()
    assert backend.problem is None
    assert await backend.unwrap(of("alice"), made) == key
    assert not [form for form in secret if form in sdk_log.text]


@pytest.mark.prove
@pytest.mark.usefixtures("quick")
async def test_no_answer_names_another_key_or_another_size(stub: KmsStub, build: Build) -> None:
    backend, key = build(stub, stub.make_key().id), secrets.token_bytes(32)
    made = await backend.wrap(of("alice"), key)
    short = base64.b64encode(key[:31]).decode()
    for fields, call, kind, phrase in (
        ({"KeyId": OTHER_ARN}, "Encrypt", Misconfigured, "another key answered"),
        ({"KeyId": OTHER_ARN}, "Decrypt", Misconfigured, "another key answered"),
        ({"KeyMetadata": {"Arn": OTHER_ARN}}, "DescribeKey", Misconfigured, "another key"),
        ({"KeyId": "alias/custody"}, "Encrypt", Transient, "without the ARN"),
        ({"KeyId": None}, "Encrypt", Transient, "makes no sense"),
        ({"CiphertextBlob": ""}, "Encrypt", Transient, "without a ciphertext"),
        ({"Plaintext": short}, "Decrypt", Tampered, "that is no key"),
        ({"Plaintext": ""}, "Decrypt", Tampered, "that is no key"),
        ({"Plaintext": "A"}, "Decrypt", Transient, "makes no sense"),
    ):
        stub.faults[call] = stub.changed(**fields)
        error = await failure(CALLS[call](backend, key, made), CALL_SECONDS + SLACK)
        assert type(error) is kind
        assert phrase in str(error)
        assert_clean(error, all_forms(key, key[:31]))
        stub.faults.clear()
    moved = Wrap(made.wrapped_mk, "", 3, f"aws-kms:{stub.make_key().arn}")
    with pytest.raises(Tampered, match="IncorrectKeyException"):
        await build(stub).unwrap(of("alice"), moved)


async def test_a_kms_that_does_not_bind_is_not_used(stub: KmsStub, build: Build) -> None:
    def unbound(asked: Asked, operation: str, request: stubs.Request) -> None:
        stubs.say(asked, stub.answer(operation, {**request, "EncryptionContext": {}}))

    stub.faults |= {"Encrypt": unbound, "Decrypt": unbound}
    with pytest.raises(Misconfigured, match="opens for another user"):
        await build(stub).wrap(of("alice"), bytes(32))
    seen, *_ = await build(stub).examine(active=True)
    assert seen.verdict is Verdict.FINDING
    assert "opens for another user" in seen.message


async def test_a_kms_that_opens_nothing_raises_no_alarm_about_rows(
    stub: KmsStub, build: Build
) -> None:
    backend = build(stub)
    stub.faults["Decrypt"] = stubs.refuse("InvalidCiphertextException")
    for call in (lambda: backend.wrap(of("alice"), bytes(32)), backend.prove):
        with pytest.raises(Misconfigured, match="does not open again"):
            await call()
    stub.faults.clear()
    await backend.refresh()
    assert not backend.problem


@pytest.mark.parametrize(
    "fields", [{"usage": "GENERATE_VERIFY_MAC"}, {"spec": "RSA_2048"}], ids=["usage", "spec"]
)
async def test_a_key_for_something_else_is_refused(
    stub: KmsStub, build: Build, fields: dict[str, str]
) -> None:
    backend = build(stub, stub.make_key(**fields).arn)
    with pytest.raises(Misconfigured, match="aws kms create-key"):
        await backend.refresh()


@pytest.mark.parametrize("state", ["Creating", "PendingImport", "PendingReplicaDeletion", "a\nb"])
async def test_a_key_in_another_state_is_missing(stub: KmsStub, build: Build, state: str) -> None:
    key = stub.make_key()
    key.key_state = state
    backend = build(stub, key.arn)
    with pytest.raises(KeyMissing, match=r"the key can't be used: it is [A-Za-z ]+$"):
        await backend.refresh()


@pytest.mark.prove
@pytest.mark.parametrize(
    ("attempt", "call"),
    [(ATTEMPT_SECONDS, CALL_SECONDS)],
)
async def test_what_hangs_or_drips_is_cut_and_gives_its_threads_back(
    build: Build, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, attempt: float, call: float
) -> None:
    async with AsyncExitStack() as stack:

        def faulty(fault: stubs.Fault) -> KmsStub:
            stub = stack.enter_context(kms_stub())
            stub.make_key("alias/custody")
            stub.faults["*"] = fault
            return stub

        direct: list[tuple[KmsStub, AwsKmsKek, Wrap]] = []
        for fault in (stubs.silence, stubs.drip_headers, stubs.drip_body):
            stub = faulty(fault)
            stub.faults.clear()
            backend = build(stub)
            direct.append((stub, backend, await backend.wrap(of("alice"), bytes(32))))
            stub.faults["*"] = fault
        # Connections to a proxy are of another kind, and those to STS belong to another client.
        proxy, sts = faulty(stubs.drip_body), faulty(stubs.drip_body)
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        (tmp_path / "config").write_text(
            "[profile own]\naws_access_key_id = A\naws_secret_access_key = S\n"
            "[profile custody]\nsource_profile = own\nrole_arn = arn:aws:iam::111122223333:role/r\n"
        )
        profile = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_PROFILE": "custody"}
        through_proxy = build(proxy, AWS_ENDPOINT_URL_KMS="http://kms.invalid")
        by_role = build(sts, **profile)
        monkeypatch.setattr(kms_calls, "ATTEMPT_SECONDS", attempt)
        monkeypatch.setattr(kms_calls, "CALL_SECONDS", call)
        started = time.monotonic()
        errors = await asyncio.gather(
            through_proxy.refresh(),
            by_role.refresh(),
            *(backend.unwrap(of("alice"), made) for _, backend, made in direct for _ in range(3)),
            *(direct[-1][1].unwrap(of("alice"), direct[-1][2]) for _ in range(CONCURRENT_CALLS)),
            return_exceptions=True,
        )
        assert time.monotonic() - started < CALL_SECONDS + SLACK
        monkeypatch.setattr(kms_calls, "ATTEMPT_SECONDS", ATTEMPT_SECONDS)
        monkeypatch.setattr(kms_calls, "CALL_SECONDS", CALL_SECONDS)
        assert {type(error) for error in errors} == {Transient}
        assert [name for name, _ in proxy.requests] == ["DescribeKey"]
        assert {name for name, _ in sts.requests} == {"STS"}
        for backend in (through_proxy, by_role, *(one for _, one, _ in direct)):
            await eventually(partial(no_thread_waits, backend), SLACK)
        for stub, backend, made in direct:
            stub.faults.clear()
            await backend.refresh()
            calls = (backend.unwrap(of("alice"), made) for _ in range(CONCURRENT_CALLS))
            assert set(await asyncio.gather(*calls)) == {bytes(32)}


async def test_threads_and_connections_end_with_the_backend(stub: KmsStub, build: Build) -> None:
    before = set(threading.enumerate())
    backend = build(stub)
    await asyncio.gather(*(backend.wrap(of("alice"), bytes(32)) for _ in range(8)))
    mine = [one for one in threading.enumerate() if one.name.startswith("kek-aws-kms")]
    assert set(mine) - before
    pools = backend._client.get()._endpoint.http_session._manager.pools
    assert len(pools) == 1
    await backend.close()
    assert len(pools) == 0
    for one in set(mine) - before:
        await asyncio.to_thread(one.join, SLACK)
        assert not one.is_alive()
    with pytest.raises(Transient, match="closed"):
        await backend.refresh()


@pytest.mark.prove
async def test_service_is_back_soon_after_the_cure(stub: KmsStub, build: Build) -> None:
    backend = build(stub)
    await backend.refresh()
    made = await backend.wrap(of("alice"), bytes(32))
    stub.faults["*"] = stubs.reset
    calls = (backend.unwrap(of("alice"), made) for _ in range(8))
    errors = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(error) for error in errors} == {Transient}
    asked = len(stub.requests)
    for _ in range(20):
        with pytest.raises(Transient) as caught:
            await backend.unwrap(of("alice"), made)
    assert "not asked: its last calls failed" in str(caught.value)
    assert len(stub.requests) - asked <= 3  # the breaker let one call through at most
    assert "ConnectionClosedError" in (backend.problem or "")
    stub.faults.clear()
    await eventually(lambda: opens(backend, made, bytes(32)), 5)


@pytest.mark.usefixtures("quick")
async def test_a_broken_row_says_nothing_of_the_kms(stub: KmsStub, build: Build) -> None:
    backend = build(stub)
    await backend.refresh()
    made = await backend.wrap(of("alice"), bytes(32))
    stub.faults["*"] = stubs.refuse("KMSInternalException", 500)
    for _ in range(2):
        with pytest.raises(Transient):
            await backend.unwrap(of("alice"), made)
    with pytest.raises(Tampered):
        await backend.unwrap(of("alice"), Wrap("?", "", 3, made.kek_id))
    assert "KMSInternalException" in (backend.problem or "")
    assert backend._calls._breaker._failures == 2


@pytest.mark.prove
@pytest.mark.usefixtures("quick")
async def test_each_item_of_a_rewrap_fails_alone(stub: KmsStub, build: Build) -> None:
    target, source = build(stub), build(stub, stub.make_key().arn)
    await target.prove()
    users = ["fine", "throttled", "denied", "gone", "odd", "fine too"]
    items = [OwnedWrap(of(user), await source.wrap(of(user), bytes(32))) for user in users]
    answers = {
        "throttled": "ThrottlingException",
        "denied": "AccessDeniedException",
        "gone": "NotFoundException",
    }

    def sometimes(asked: Asked, operation: str, request: stubs.Request) -> None:
        user = request["SourceEncryptionContext"]["custody:user"]
        for side in ("Source", "Destination"):
            assert request[f"{side}EncryptionContext"] == of(user).context
        if user in answers:
            raise stubs.Refused(answers[user])
        answer = stub.answer(operation, request)
        stubs.say(asked, answer | ({"SourceKeyId": OTHER_ARN} if user == "odd" else {}))

    stub.faults["ReEncrypt"] = sometimes
    done = await target.rewrap(items)
    assert [type(one) for one in done] == [Wrap, Throttled, Denied, KeyMissing, Misconfigured, Wrap]
    for at in (0, 5):
        wrap = done[at]
        assert isinstance(wrap, Wrap)
        assert await target.unwrap(of(users[at]), wrap) == bytes(32)


# Logs


async def test_no_library_logs_what_it_carries(
    stub: KmsStub, build: Build, sdk_log: pytest.LogCaptureFixture
) -> None:
    backend, key = build(stub), secrets.token_bytes(32)
    text = base64.b64encode(key).decode()
    botocore = logging.getLogger("botocore")
    assert await backend.unwrap(of("alice"), await backend.wrap(of("alice"), key)) == key
    assert text not in sdk_log.text
    # That the search would see it, and that custody's own configuration holds it back too:
    try:
        botocore.setLevel(logging.DEBUG)
        await backend.wrap(of("alice"), key)
        assert text in sdk_log.text
        botocore.setLevel(logging.NOTSET)
        with logging_to_memory(LogLevel.DEBUG, LogFormat.JSON) as stream:
            await backend.wrap(of("alice"), key)
        assert text not in stream.getvalue()
    finally:
        botocore.setLevel(logging.ERROR)


# What an operator is told


@pytest.mark.parametrize(
    ("right", "active"),
    [
        ("DescribeKey", True),
        ("DescribeKey", False),
        ("Encrypt", True),
        ("Decrypt", True),
        ("Decrypt", False),
        ("ReEncryptFrom", True),
        ("ReEncryptTo", True),
    ],
)
async def test_the_doctor_names_a_missing_right(
    stub: KmsStub, build: Build, right: str, active: bool
) -> None:
    stub.denied = {right}
    (seen,) = await build(stub).examine(active=active)
    assert seen.verdict is Verdict.FINDING
    assert re.search(rf"; grant (.* and )?kms:{right}( and .*)? on the key$", seen.message)


async def test_a_decrypt_only_key_needs_no_more(stub: KmsStub, build: Build) -> None:
    stub.denied = {"Encrypt", "ReEncryptTo"}
    (seen,) = await build(stub).examine(active=False)
    assert seen.verdict is Verdict.OK
    assert [one["DryRun"] for name, one in stub.requests if name == "Decrypt"] == [True]


async def test_the_doctor_does_not_ask_for_rights_when_credentials_are_wrong(
    stub: KmsStub, build: Build
) -> None:
    stub.faults["*"] = stubs.refuse("UnrecognizedClientException")
    (seen,) = await build(stub).examine(active=True)
    assert seen.verdict is Verdict.FINDING
    assert "credentials" in seen.message
    assert "grant" not in seen.message


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("operation", ["DescribeKey", "Encrypt", "Decrypt", "ReEncrypt"])
async def test_the_doctor_sees_what_is_down(stub: KmsStub, build: Build, operation: str) -> None:
    stub.faults[operation] = stubs.refuse("KMSInternalException", 500)
    seen = await build(stub).examine(active=True)
    assert Verdict.DOWN in {one.verdict for one in seen}
    assert Verdict.OK not in {one.verdict for one in seen}


async def test_nobody_waits_long_for_who_waits_for_credentials() -> None:
    class Session:
        def create_client(self) -> None: ...

        def get_component(self, _name: str) -> SimpleNamespace:
            return SimpleNamespace(providers=())

    client = AwsClient(
        KekUri.parse("aws-kms:alias/x"),
        Session(),
        region=REGION,
        endpoint=None,
        give_up_after=0.01,
    )
    started = time.monotonic()
    with client._making, pytest.raises(Transient, match="waiting for credentials"):
        client.get()
    assert time.monotonic() - started < 2
