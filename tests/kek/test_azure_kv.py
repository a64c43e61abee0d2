"""``azure-kv:`` against a stub of ours that speaks Azure's REST protocol, over TLS."""

import base64
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest

from kek_backends import calls, rest
from kek_backends.azure import credentials
from kek_backends.azure.kek import AzureKek
from kek_backends.binding import Binding
from kek_backends.checks import wraps
from kek_backends.errors import (
    Denied,
    KekError,
    KeyMissing,
    Misconfigured,
    Tampered,
    Throttled,
    Transient,
    VersionRetired,
)
from kek_backends.testing import CHECKS, Check, Subject
from kek_backends.uri import KekUri
from tests.http_servers import Asked
from tests.kek.azure_stub import AzureStub, Fault, Key, azure_stub, refuse
from tests.leaks import remember
from tests.proofs import some

DATA_KEY = Binding.of_data_key("dk-0123456789abcdef0123456789abcdef")
ALICE = Binding("alice", 7)
KEY = bytes(range(32))
KINDS = ["RSA-HSM", "oct-HSM"]

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureStub]:
    with azure_stub(tmp_path_factory.mktemp("azure")) as made:
        yield made


@pytest.fixture
def stub(shared: AzureStub) -> AzureStub:
    shared.faults.clear()
    shared.asked.clear()
    return shared


@pytest.fixture
async def open_kek(stub: AzureStub) -> AsyncIterator[Callable[..., AzureKek]]:
    async with AsyncExitStack() as stack:

        def make(key: Key, mode: str = "?mode=envelope") -> AzureKek:
            uri = KekUri.parse(f"{key.uri}{mode}")
            kek = AzureKek.from_uri(uri, environ=stub.environ, development=False)
            stack.push_async_callback(kek.close)
            return kek

        yield make


Open = Callable[..., AzureKek]


@pytest.mark.parametrize("kty", KINDS)
@pytest.mark.parametrize(
    "check",
    some(CHECKS, wraps.check_stamp, wraps.check_purposes_are_apart, ids=lambda one: one.__name__),
)
async def test_conformance(check: Check, kty: str, stub: AzureStub) -> None:
    key = stub.make_key(kty=kty)

    async def open_() -> AzureKek:
        uri = KekUri.parse(f"{key.uri}?mode=envelope")
        return AzureKek.from_uri(uri, environ=stub.environ, development=False)

    await check(Subject(open_))


async def test_an_rsa_key_wraps_data_keys_alone(stub: AzureStub, open_kek: Open) -> None:
    """Who has its public key can make a wrap that opens: a user's key must not come by that way."""
    kek = open_kek(stub.make_key(), mode="")
    with pytest.raises(Misconfigured, match=r"add \?mode=envelope"):
        await kek.wrap(ALICE, KEY)
    with pytest.raises(Misconfigured, match=r"add \?mode=envelope"):
        await kek.prove()


async def test_a_symmetric_key_wraps_users_keys(stub: AzureStub, open_kek: Open) -> None:
    kek = open_kek(stub.make_key(kty="oct-HSM"), mode="")
    await kek.prove()
    assert await kek.unwrap(ALICE, await kek.wrap(ALICE, KEY)) == KEY


@pytest.mark.parametrize("kty", KINDS)
async def test_wraps_are_stamped_with_the_version(
    stub: AzureStub, open_kek: Open, kty: str
) -> None:
    key = stub.make_key(kty=kty)
    kek = open_kek(key)
    old = await kek.wrap(DATA_KEY, KEY)
    assert old.kek_id == f"{key.uri}/{key.current}" == kek.kek_id
    key.rotate()
    await kek.refresh()
    new = await kek.wrap(DATA_KEY, KEY)
    assert new.kek_id == f"{key.uri}/{key.current}" != old.kek_id
    assert await kek.unwrap(DATA_KEY, old) == await kek.unwrap(DATA_KEY, new) == KEY
    with pytest.raises(Tampered):
        await kek.unwrap(DATA_KEY, old._replace(kek_id=new.kek_id))


@pytest.mark.parametrize("kty", KINDS)
async def test_a_version_that_is_disabled(stub: AzureStub, open_kek: Open, kty: str) -> None:
    key = stub.make_key(kty=kty)
    kek = open_kek(key)
    wrap = await kek.wrap(DATA_KEY, KEY)
    key.disabled.add(key.current)
    with pytest.raises(VersionRetired, match="set-attributes"):
        await kek.unwrap(DATA_KEY, wrap)
    with pytest.raises(KeyMissing, match="disabled"):
        await kek.refresh()
    key.disabled.clear()
    await kek.refresh()
    assert await kek.unwrap(DATA_KEY, wrap) == KEY
    assert kek.problem is None


FAULTS: list[tuple[Fault, type[KekError], str]] = [
    (refuse(403, "Forbidden", "ForbiddenByPolicy"), Denied, "Crypto Service Encryption User"),
    (refuse(409, "Conflict"), KeyMissing, "recover"),
    (refuse(429, "Throttled"), Throttled, "too many calls"),
    (refuse(503, "ServiceUnavailable"), Transient, "for now"),
    (refuse(500, "InternalError"), Transient, "for now"),
    (refuse(401, "Unauthorized"), Denied, "credentials"),
    (lambda asked: asked.say(b"[]"), Misconfigured, "another key answered"),
    (lambda asked: asked.say(b"", 302, Location="https://127.0.0.1:1/"), Transient, "302"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault[2])
@pytest.mark.parametrize("operation", ["wrapkey", "unwrapkey"])
async def test_errors(
    stub: AzureStub,
    open_kek: Open,
    operation: str,
    fault: tuple[Fault, type[KekError], str],
) -> None:
    does, error, says = fault
    kek = open_kek(stub.make_key())
    wrap = await kek.wrap(DATA_KEY, KEY)
    stub.faults[operation] = does
    with pytest.raises(error) as caught:
        await (kek.unwrap(DATA_KEY, wrap) if operation == "unwrapkey" else kek.wrap(DATA_KEY, KEY))
    assert type(caught.value) is error
    assert says in str(caught.value)
    stub.faults.clear()
    await kek.refresh()
    assert await kek.unwrap(DATA_KEY, wrap) == KEY
    assert kek.problem is None


@pytest.mark.parametrize("kty", KINDS)
async def test_a_row_that_was_touched_is_no_outage(
    stub: AzureStub, open_kek: Open, kty: str
) -> None:
    kek = open_kek(stub.make_key(kty=kty))
    await kek.refresh()
    wrap = await kek.wrap(DATA_KEY, KEY)
    blob = bytearray(base64.b64decode(wrap.wrapped_mk))
    blob[-1] ^= 1
    touched = wrap._replace(wrapped_mk=base64.b64encode(blob).decode())
    for _ in range(20):
        with pytest.raises(Tampered):
            await kek.unwrap(DATA_KEY, touched)
    assert not kek.is_not_asked
    assert kek.problem is None


async def test_a_token_that_ends(stub: AzureStub, open_kek: Open) -> None:
    """azure-identity asks for another before it ends."""
    stub.lifetime = 200  # less than it wants to have left
    try:
        kek = open_kek(stub.make_key())
        wrap = await kek.wrap(DATA_KEY, KEY)
        stub.tokens = dict.fromkeys(stub.tokens, time.monotonic() - 1)
        assert await kek.unwrap(DATA_KEY, wrap) == KEY
    finally:
        stub.lifetime = 3600


async def test_a_token_that_is_refused_before_it_ends(stub: AzureStub, open_kek: Open) -> None:
    kek = open_kek(stub.make_key())
    wrap = await kek.wrap(DATA_KEY, KEY)
    stub.tokens.clear()
    with pytest.raises(Denied, match="credentials are refused"):
        await kek.unwrap(DATA_KEY, wrap)
    # By another one, and that is kept as the first was.
    asked = stub.asked.count("token")
    for _ in range(3):
        assert await kek.unwrap(DATA_KEY, wrap) == KEY
    assert stub.asked.count("token") == asked + 1


async def test_a_server_that_is_not_trusted(stub: AzureStub, tmp_path: Path) -> None:
    environ = {name: value for name, value in stub.environ.items() if "BUNDLE" not in name}
    uri = KekUri.parse(f"{stub.make_key().uri}?mode=envelope")
    kek = AzureKek.from_uri(uri, environ=environ, development=False)
    try:
        with pytest.raises(Transient):
            await kek.refresh()
    finally:
        await kek.close()


def hang(asked: Asked) -> None:
    asked.server.closing.wait(5)


@pytest.mark.parametrize("operation", ["get", "token", "wrapkey", "unwrapkey"])
async def test_a_server_that_says_nothing(
    tmp_path: Path, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (calls, rest, credentials):
        monkeypatch.setattr(module, "ATTEMPT_SECONDS", 0.3)
    monkeypatch.setattr(calls, "CALL_SECONDS", 0.8)
    with azure_stub(tmp_path) as stub:
        uri = KekUri.parse(f"{stub.make_key().uri}?mode=envelope")
        kek = AzureKek.from_uri(uri, environ=stub.environ, development=False)
        try:
            asks: Callable[[], Awaitable[object]] = kek.refresh
            if operation.endswith("key"):
                wrap = await kek.wrap(DATA_KEY, KEY)
                unwraps = operation == "unwrapkey"
                asks = partial(kek.unwrap, DATA_KEY, wrap)
                asks = asks if unwraps else partial(kek.wrap, DATA_KEY, KEY)
            stub.faults[operation] = hang
            with pytest.raises(Transient):
                await asks()
        finally:
            stub.closing.set()
            await kek.close()


async def test_what_a_careless_server_repeats_is_logged_nowhere(
    stub: AzureStub, open_kek: Open, caplog: pytest.LogCaptureFixture
) -> None:
    stub.faults["token"] = refuse(401, "invalid_client")
    with pytest.raises(Denied) as refused:
        await open_kek(stub.make_key()).refresh()
    assert stub.environ["AZURE_CLIENT_SECRET"] not in f"{caplog.text} {refused.value}"
    assert not [one for one in caplog.records if one.name.startswith(("azure", "msal"))]


async def test_a_secret_that_is_refused(stub: AzureStub, open_kek: Open) -> None:
    stub.faults["token"] = lambda asked: asked.say(
        b'{"error": "invalid_client", "error_description": "AADSTS7000215"}', 401
    )
    kek = open_kek(stub.make_key())
    with pytest.raises(Denied, match="no token"):
        await kek.refresh()
    # Once it is taken again, at once: azure-identity would say so for a minute more.
    stub.faults.clear()
    await kek.refresh()


@pytest.mark.parametrize(
    ("path", "environ", "says"),
    [
        ("kek", {}, "is not the identifier of a key"),
        ("http://v.vault.azure.net/keys/k", {}, "is not the identifier of a key"),
        (f"https://v.vault.azure.net/keys/k/{'0' * 32}", {}, "without a version"),
        ("https://v.vault.azure.net/keys/k?id=x", {}, "remove ?id="),
        (
            "https://v.vault.azure.net/keys/k",
            {"AZURE_CLIENT_SECRET": "s3cret-s3cret"},
            "AZURE_CLIENT_ID and AZURE_TENANT_ID must be set",
        ),
        (
            "https://v.vault.azure.net/keys/k",
            {
                "AZURE_CLIENT_SECRET": "s3cret-s3cret",
                "AZURE_CLIENT_ID": "c",
                "AZURE_TENANT_ID": "no tenant",
            },
            "AZURE_TENANT_ID",
        ),
    ],
)
def test_mistakes(path: str, environ: dict[str, str], says: str) -> None:
    remember("s3cret-s3cret")
    uri = KekUri.parse(f"azure-kv:{path}")
    with pytest.raises(Misconfigured) as caught:
        AzureKek.from_uri(uri, environ=environ, development=False)
    assert says in str(caught.value)
    assert "s3cret" not in str(caught.value)
