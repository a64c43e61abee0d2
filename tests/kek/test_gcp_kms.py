"""``gcp-kms:`` against a stub of ours that speaks Google's REST protocol."""

import base64
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from kek_backends import calls, rest
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
from kek_backends.gcp.kek import GcpKmsKek
from kek_backends.testing import CHECKS, Check, Subject
from kek_backends.uri import KekUri
from tests.http_servers import Asked
from tests.kek.gcp_stub import Fault, GcpStub, Key, gcp_stub, refuse, say
from tests.leaks import remember
from tests.proofs import some

ALICE = Binding("alice", 7)
KEY = bytes(range(32))

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def stub() -> Iterator[GcpStub]:
    with gcp_stub() as made:
        yield made


@pytest.fixture
def key(stub: GcpStub) -> Key:
    return stub.make_key()


def made(stub: GcpStub, key: Key, folder: Path) -> GcpKmsKek:
    uri = KekUri.parse(f"gcp-kms:{key.name}")
    return GcpKmsKek.from_uri(uri, environ=stub.environ(folder), development=False)


@pytest.fixture
async def kek(stub: GcpStub, key: Key, tmp_path: Path) -> AsyncIterator[GcpKmsKek]:
    kek = made(stub, key, tmp_path)
    await kek.refresh()
    yield kek
    await kek.close()


@pytest.mark.parametrize(
    "check",
    some(CHECKS, wraps.check_stamp, wraps.check_purposes_are_apart, ids=lambda one: one.__name__),
)
async def test_conformance(check: Check, stub: GcpStub, key: Key, tmp_path: Path) -> None:
    environ = stub.environ(tmp_path)

    async def open_() -> GcpKmsKek:
        uri = KekUri.parse(f"gcp-kms:{key.name}")
        return GcpKmsKek.from_uri(uri, environ=environ, development=False)

    await check(Subject(open_))


async def test_rows_are_stamped_with_the_version(kek: GcpKmsKek, key: Key) -> None:
    old = await kek.wrap(ALICE, KEY)
    assert old.kek_id == f"gcp-kms:{key.version(1)}" == kek.kek_id
    key.rotate()
    await kek.refresh()
    new = await kek.wrap(ALICE, KEY)
    assert new.kek_id == f"gcp-kms:{key.version(2)}" == kek.kek_id
    assert await kek.unwrap(ALICE, old) == await kek.unwrap(ALICE, new) == KEY
    # The name of the version is bound, too: a row says truly what has wrapped it.
    with pytest.raises(Tampered):
        await kek.unwrap(ALICE, old._replace(kek_id=new.kek_id))


async def test_a_version_that_is_not_there_any_more(kek: GcpKmsKek, key: Key) -> None:
    wrap = await kek.wrap(ALICE, KEY)
    key.rotate()
    key.states[1] = "DESTROYED"
    await kek.refresh()
    with pytest.raises(VersionRetired, match="versions enable"):
        await kek.unwrap(ALICE, wrap)
    assert kek.problem is None


FAULTS: list[tuple[Fault, type[KekError], str]] = [
    (refuse(403, "PERMISSION_DENIED"), Denied, "cryptoKeyEncrypterDecrypter"),
    (refuse(404, "NOT_FOUND"), KeyMissing, "key ring"),
    (refuse(429, "RESOURCE_EXHAUSTED"), Throttled, "quota"),
    (refuse(503, "UNAVAILABLE"), Transient, "for now"),
    (refuse(500, "INTERNAL"), Transient, "for now"),
    (refuse(401, "UNAUTHENTICATED"), Denied, "credentials"),
    (lambda asked: asked.say(b"<html>", 502, "text/html"), Transient, "no readable code"),
    (lambda asked: asked.say(b"[]"), Transient, "an answer"),
    (lambda asked: asked.say(b"", 302, Location="http://127.0.0.1:1/"), Transient, "302"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault[2])
@pytest.mark.parametrize("operation", ["encrypt", "decrypt"])
async def test_errors(
    kek: GcpKmsKek, stub: GcpStub, operation: str, fault: tuple[Fault, type[KekError], str]
) -> None:
    does, error, says = fault
    wrap = await kek.wrap(ALICE, KEY)
    stub.faults[operation] = does
    with pytest.raises(error) as caught:
        await (kek.unwrap(ALICE, wrap) if operation == "decrypt" else kek.wrap(ALICE, KEY))
    assert type(caught.value) is error
    assert says in str(caught.value)
    assert base64.b64encode(KEY).decode() not in str(caught.value)
    stub.faults.clear()
    await kek.refresh()
    assert await kek.unwrap(ALICE, wrap) == KEY
    assert kek.problem is None


async def test_a_row_that_was_touched_is_no_outage(kek: GcpKmsKek) -> None:
    """Whoever writes rows must not be able to shut the KEK."""
    wrap = await kek.wrap(ALICE, KEY)
    blob = bytearray(base64.b64decode(wrap.wrapped_mk))
    blob[-1] ^= 1
    touched = wrap._replace(wrapped_mk=base64.b64encode(blob).decode())
    for _ in range(20):
        with pytest.raises(Tampered):
            await kek.unwrap(ALICE, touched)
    assert not kek.is_not_asked
    assert kek.problem is None
    assert await kek.unwrap(ALICE, wrap) == KEY


async def test_what_is_damaged_on_the_way_is_not_stored(kek: GcpKmsKek, stub: GcpStub) -> None:
    for name, value in (
        ("ciphertextCrc32c", "1"),
        ("verifiedPlaintextCrc32c", False),
        ("verifiedAdditionalAuthenticatedDataCrc32c", None),
        ("ciphertext", "AAAA"),
    ):

        def damaged(asked: Asked, name: str = name, value: object = value) -> None:
            answer = stub._encrypt(asked.path, json.loads(asked.body))
            say(asked, answer | {name: value})

        stub.faults["encrypt"] = damaged
        with pytest.raises(Transient, match="whole"):
            await kek.wrap(ALICE, KEY)


async def test_another_version_than_was_asked(kek: GcpKmsKek, stub: GcpStub, key: Key) -> None:
    other = stub.make_key("other")

    def another(asked: Asked) -> None:
        answer = stub._encrypt(asked.path, json.loads(asked.body))
        say(asked, answer | {"name": other.version(1)})

    stub.faults["encrypt"] = another
    with pytest.raises(Misconfigured, match="another key answered"):
        await kek.wrap(ALICE, KEY)


async def test_tokens_are_renewed(
    kek: GcpKmsKek, stub: GcpStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that the server forgets is asked for again; so is one that ends."""
    wrap = await kek.wrap(ALICE, KEY)
    stub.tokens.clear()
    with pytest.raises(Denied):
        await kek.unwrap(ALICE, wrap)
    assert await kek.unwrap(ALICE, wrap) == KEY
    assert stub.asked.count("token") == 2
    for token in stub.tokens:
        stub.tokens[token] = time.monotonic() - 1
    kek._credentials._credentials.expiry = kek._credentials._credentials.expiry.replace(year=2020)
    assert await kek.unwrap(ALICE, wrap) == KEY
    assert stub.asked.count("token") == 3


async def test_a_primary_that_is_disabled(kek: GcpKmsKek, key: Key) -> None:
    wrap = await kek.wrap(ALICE, KEY)
    key.rotate()
    key.states[2] = "DISABLED"
    with pytest.raises(KeyMissing, match="set-primary-version"):
        await kek.refresh()
    assert await kek.unwrap(ALICE, wrap) == KEY
    key.states[2] = "ENABLED"
    await kek.refresh()
    assert kek.problem is None


def hang(asked: Asked) -> None:
    asked.server.closing.wait(5)


@pytest.mark.parametrize("operation", ["get", "encrypt", "decrypt", "token"])
async def test_a_server_that_says_nothing(
    stub: GcpStub, key: Key, tmp_path: Path, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (calls, rest):
        monkeypatch.setattr(module, "ATTEMPT_SECONDS", 0.2)
    monkeypatch.setattr(calls, "CALL_SECONDS", 0.5)
    kek = made(stub, key, tmp_path)
    try:
        asks: Callable[[], Awaitable[object]] = kek.refresh
        if operation not in {"token", "get"}:
            wrap = await kek.wrap(ALICE, KEY)
            unwraps = operation == "decrypt"
            asks = partial(kek.unwrap, ALICE, wrap) if unwraps else partial(kek.wrap, ALICE, KEY)
        stub.faults[operation] = hang
        with pytest.raises(Transient):
            await asks()
    finally:
        stub.closing.set()
        await kek.close()


@pytest.mark.parametrize(
    ("path", "environ", "says"),
    [
        ("projects/p/cryptoKeys/k", {}, "is not the name of a key"),
        (
            f"{'projects/p/locations/l/keyRings/r/cryptoKeys/k'}/cryptoKeyVersions/1",
            {},
            "a version",
        ),
        ("projects/p/locations/l/keyRings/r/cryptoKeys/k?id=x", {}, "remove ?id="),
        (
            "projects/p/locations/l/keyRings/r/cryptoKeys/k",
            {"CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDKMS": "kms.example.org"},
            "URL of the API",
        ),
        (
            "projects/p/locations/l/keyRings/r/cryptoKeys/k",
            {"GOOGLE_APPLICATION_CREDENTIALS": "/nowhere/file"},
            "can't be read: No such file",
        ),
    ],
)
def test_mistakes(path: str, environ: dict[str, str], says: str) -> None:
    uri = KekUri.parse(f"gcp-kms:{path}")
    with pytest.raises(Misconfigured) as caught:
        GcpKmsKek.from_uri(uri, environ=environ, development=False)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("info", "says"),
    [
        ({"type": "authorized_user", "refresh_token": "s3cret-s3cret"}, "a service account"),
        (
            {
                "type": "external_account",
                "credential_source": {"executable": {"command": "/bin/true"}},
            },
            "of a kind",
        ),
        ({"type": "service_account", "private_key": "s3cret-s3cret"}, "as Google writes them"),
        ([], "as Google writes them"),
    ],
)
def test_files_of_credentials_that_are_refused(info: object, says: str, tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text(json.dumps(info))
    remember("s3cret-s3cret")
    environ = {"GOOGLE_APPLICATION_CREDENTIALS": str(file)}
    uri = KekUri.parse("gcp-kms:projects/p/locations/l/keyRings/r/cryptoKeys/k")
    with pytest.raises(Misconfigured) as caught:
        GcpKmsKek.from_uri(uri, environ=environ, development=False)
    assert says in str(caught.value)
    assert "s3cret" not in str(caught.value)
