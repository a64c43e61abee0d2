"""Keys in tokens of SoftHSM 2: the conformance suite, what is refused, and what the doctor says."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kek_backends.base import Wrap
from kek_backends.errors import KeyMissing, Misconfigured, Tampered
from kek_backends.findings import Verdict
from kek_backends.loader import load
from kek_backends.pkcs11.kek import Pkcs11Kek
from kek_backends.testing import CHECKS, Check, Subject
from tests.bindings import of
from tests.kek.kit import KEY, failure
from tests.leaks import remember
from tests.proofs import some
from tests.softhsm import OddModule, SoftHsm, SoftToken, odd_module, soft_hsm

pytestmark = pytest.mark.usefixtures("known_backends", "patient_calls")


@pytest.fixture(scope="module")
def hsm(tmp_path_factory: pytest.TempPathFactory) -> SoftHsm:
    return soft_hsm(tmp_path_factory.mktemp("hsm"))


@pytest.fixture(scope="module")
def token(hsm: SoftHsm) -> SoftToken:
    made = hsm.make_token()
    made.make_key("custody", "01")
    return made


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[OddModule]:
    with odd_module(tmp_path) as made:
        yield made


@asynccontextmanager
async def opened(
    token: SoftToken, label: str = "custody", odd: OddModule | None = None, more: str = ""
) -> AsyncIterator[Pkcs11Kek]:
    environ = token.hsm.environ | ({} if odd is None else odd.environ)
    uri = token.uri(label, None if odd is None else odd.path) + more
    kek = load(uri, environ=environ, development=False)
    assert isinstance(kek, Pkcs11Kek)
    try:
        yield kek
    finally:
        await kek.close()


QUICK = ("check_round_trip", "check_diagnostics", "check_damaged_ciphertext_is_tampering")
NAMES = [check.__name__ for check in CHECKS]


@pytest.mark.parametrize("name", some(NAMES, *QUICK))
async def test_conformance(name: str, token: SoftToken) -> None:
    check: Check = dict(zip(NAMES, CHECKS, strict=True))[name]
    uri = token.uri()
    await check(Subject.named(uri, environ=token.hsm.environ, secrets=[remember(token.pin)]))


@pytest.mark.prove
async def test_rows_name_the_serial_and_the_id(token: SoftToken) -> None:
    token.make_key("named", "0a0b")
    async with opened(token, "named") as kek:
        assert kek.kek_id is None
        wrap = await kek.wrap(of("alice"), KEY)
        assert wrap.kek_id == kek.kek_id == f"pkcs11:{token.serial}/0a0b"
        fingerprint = kek.fingerprint(wrap.kek_id)
        assert fingerprint is not None
        assert kek.fingerprint("pkcs11:x/01") is None
    async with opened(token, "named", more=f"&id={wrap.kek_id}") as kek:
        assert kek.kek_id == wrap.kek_id
        assert await kek.unwrap(of("alice"), wrap) == KEY
    # Under another stamp it is the same key, and the wrap is bound to the one that it has.
    async with opened(token, "named", more="&id=pkcs11:other/01") as kek:
        assert kek.holds("pkcs11:other/01")
        await kek.refresh()
        assert kek.fingerprint("pkcs11:other/01") == fingerprint
        moved = wrap._replace(kek_id="pkcs11:other/01")
        assert isinstance(await failure(kek.unwrap(of("alice"), moved)), Tampered)


@pytest.mark.prove
async def test_before_the_key_was_seen_records_say_what_is_held(token: SoftToken) -> None:
    async with opened(token) as kek:
        stamp = f"pkcs11:{token.serial}/01"
        assert not kek.holds(stamp)
        kek.trust(frozenset({stamp, "pkcs11:other/02", "vault:transit/x:v1"}))
        assert kek.holds(stamp)
        assert kek.holds("pkcs11:other/02")
        assert not kek.holds("vault:transit/x:v1")
        await kek.refresh()
        assert kek.holds(stamp)
        assert not kek.holds("pkcs11:other/02")


def end_process(kek: Pkcs11Kek) -> None:
    assert kek._token._process is not None
    kek._token._process.end()


@pytest.mark.prove
async def test_a_label_that_moves_to_another_key(token: SoftToken) -> None:
    """What is asked of one life of the process is never answered by the key of another."""
    token.make_key("moves", "11")
    async with opened(token, "moves") as kek:
        before = await kek.wrap(of("alice"), KEY)
        token.tool("--delete-object", "--type", "secrkey", "--id", "11")
        token.make_key("moves", "12")
        end_process(kek)
        wrap = await kek.wrap(of("alice"), KEY)
        assert wrap.kek_id == kek.kek_id == f"pkcs11:{token.serial}/12"
        assert await kek.unwrap(of("alice"), wrap) == KEY
        assert not kek.holds(before.kek_id)
        assert isinstance(await failure(kek.unwrap(of("alice"), before)), KeyMissing)


@pytest.mark.prove
async def test_a_key_made_again_has_another_fingerprint(token: SoftToken) -> None:
    token.make_key("again", "0c")
    async with opened(token, "again") as kek:
        wrap = await kek.wrap(of("alice"), KEY)
        first = kek.fingerprint(wrap.kek_id)
        token.delete_key("0c")
        token.make_key("again", "0c")
        # In the process of before the old handle may still do; in a new one nothing does.
        end_process(kek)
        await kek.refresh()
        assert kek.kek_id == wrap.kek_id
        assert kek.fingerprint(wrap.kek_id) not in (first, None)
        assert isinstance(await failure(kek.unwrap(of("alice"), wrap)), Tampered)


@pytest.mark.prove
@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        (("--private",), "AES:32", "CKA_SENSITIVE is false"),
        (("--sensitive",), "AES:16", "not one of AES with 256 bits"),
        (("--sensitive",), "GENERIC:32", "not one of AES with 256 bits"),
    ],
)
async def test_a_key_that_is_none_for_this(
    token: SoftToken, options: tuple[str, ...], kind: str, says: str
) -> None:
    token.make_key("wrong", "0d", *options, kind=kind)
    try:
        async with opened(token, "wrong") as kek:
            error = await failure(kek.refresh())
            assert isinstance(error, Misconfigured)
            assert str(error).startswith(f"KEK {kek.uri.text}: ")
            assert says in str(error)
    finally:
        token.delete_key("0d")


@pytest.mark.prove
async def test_not_exactly_one_key(token: SoftToken) -> None:
    async with opened(token, "none") as kek:
        error = await failure(kek.refresh())
        assert isinstance(error, KeyMissing)
        assert "no such key" in str(error)
    token.make_key("two", "0e")
    token.make_key("two", "0f")
    async with opened(token, "two") as kek:
        assert "more than one key is like this: add its id=" in str(await failure(kek.refresh()))


@pytest.mark.prove
async def test_an_extractable_key_is_a_warning(token: SoftToken) -> None:
    token.make_key("leaves", "10", "--sensitive", "--private", "--extractable")
    async with opened(token, "leaves") as kek:
        found = await kek.examine(active=True)
    assert [one.verdict for one in found] == [Verdict.WARNING, Verdict.OK]
    assert "extractable" in found[0].message


@pytest.mark.prove
async def test_what_is_no_module(token: SoftToken, tmp_path: Path) -> None:
    for content in (b"", b"no library"):
        file = tmp_path / "m.so"
        file.write_bytes(content)
        uri = token.uri(module_path=str(file))
        kek = load(uri, environ=token.hsm.environ, development=False)
        error = await failure(kek.refresh())
        assert isinstance(error, Misconfigured)
        assert "can't be loaded as a PKCS#11 module" in str(error)
        await kek.close()


async def test_a_token_without_gcm(token: SoftToken, odd: OddModule) -> None:
    odd.do("no-gcm")
    async with opened(token, odd=odd) as kek:
        error = await failure(kek.refresh())
        assert isinstance(error, Misconfigured)
        assert "has no AES-GCM" in str(error)


async def test_a_token_that_does_not_bind(token: SoftToken, odd: OddModule) -> None:
    odd.do("unbound")
    async with opened(token, odd=odd) as kek:
        await kek.refresh()
        error = await failure(kek.prove())
        assert isinstance(error, Misconfigured)
        assert "opens for another user too" in str(error)
        assert isinstance(await failure(kek.wrap(of("alice"), KEY)), Misconfigured)


@pytest.mark.prove
async def test_a_token_that_makes_its_own_ivs(token: SoftToken, odd: OddModule) -> None:
    odd.do("own-iv")
    async with opened(token, odd=odd) as kek:
        await kek.prove()
        wraps = [await kek.wrap(of("alice"), KEY) for _ in range(3)]
        assert kek.fingerprint(wraps[0].kek_id) is None
    assert len({wrap.wrap_iv for wrap in wraps}) == 3
    async with opened(token) as kek:
        assert [await kek.unwrap(of("alice"), wrap) for wrap in wraps] == [KEY] * 3


@pytest.mark.prove
async def test_an_iv_of_another_size(token: SoftToken) -> None:
    async with opened(token) as kek:
        await kek.refresh()
        wrap = await kek.wrap(of("alice"), KEY)
        for damaged in (wrap._replace(wrap_iv=""), wrap._replace(format_version=2)):
            assert isinstance(await failure(kek.unwrap(of("alice"), damaged)), Tampered)
        assert kek.problem is None
        other = Wrap(wrap.wrapped_mk, wrap.wrap_iv, 3, "pkcs11:other/01")
        assert isinstance(await failure(kek.unwrap(of("alice"), other)), KeyMissing)


@pytest.mark.prove
async def test_calls_at_once_do_each_other_no_harm(token: SoftToken) -> None:
    """The module is told that no two threads call it; where two did, honest wraps were refused."""
    async with opened(token) as kek:
        await kek.refresh()
        wraps = [await kek.wrap(of(f"user-{number}"), KEY) for number in range(20)]
        asked = [number % 20 for number in range(400)]
        for _ in range(4):
            got = await asyncio.gather(*(kek.unwrap(of(f"user-{n}"), wraps[n]) for n in asked))
            assert set(got) == {KEY}
            made = await asyncio.gather(*(kek.wrap(of("alice"), KEY) for _ in range(50)))
            assert {await kek.unwrap(of("alice"), one) for one in made} == {KEY}
