"""``vault:MOUNT/KEY`` on a real OpenBao: stamps, binding, versions, re-wraps on the server."""

import asyncio
import base64
from collections.abc import Callable
from typing import Any

import pytest

from kek_backends.base import OwnedWrap, Wrap
from kek_backends.binding import Binding
from kek_backends.checks.life import check_diagnostics
from kek_backends.errors import (
    Denied,
    KeyMissing,
    Misconfigured,
    Tampered,
    Transient,
    VersionRetired,
)
from kek_backends.findings import Verdict
from kek_backends.keyring import Keyring
from kek_backends.testing import CHECKS, Check, Subject
from kek_backends.transit.key import TransitKey
from tests.bao_server import Bao, least_policy, to_the_next_second
from tests.bindings import of
from tests.http_servers import HttpServer, serving
from tests.kek.kit import (
    KEY,
    counted,
    failure,
    refusal,
    transit,
    transit_kek,
    transit_wrap_of_before,
)
from tests.leaks import remember

pytestmark = pytest.mark.usefixtures("known_backends", "patient_calls")


@pytest.mark.parametrize(
    "derived",
    [
        pytest.param(True, id="context"),
        pytest.param(False, id="associated-data", marks=pytest.mark.prove),
    ],
)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_conformance(bao: Bao, check: Check, derived: bool) -> None:
    key = bao.make_key(derived=derived)
    environ = bao.environ(key, period="24h")
    if check is check_diagnostics and not derived:
        # Such a key is a finding; what the check is about, it must do all the same.
        with pytest.raises(AssertionError, match="not derived"):
            await check(Subject.named(f"vault:transit/{key}", environ=environ))
        return
    await check(
        Subject.named(f"vault:transit/{key}", environ=environ, secrets=[environ["VAULT_TOKEN"]])
    )


async def test_the_stamp_is_the_version_that_the_server_used(bao: Bao) -> None:
    key = bao.make_key()
    async with transit(bao, key) as kek:
        assert kek.kek_id is None
        first = await kek.wrap(of("alice"), KEY)
        assert (first.kek_id, first.wrap_iv, first.format_version) == (
            f"vault:transit/{key}:v1",
            "",
            3,
        )
        assert first.wrapped_mk.startswith("vault:v1:")
        bao.rotate(key)
        # Noticed by a refresh, and also by the next wrap alone.
        await kek.refresh()
        assert kek.kek_id == f"vault:transit/{key}:v2"
        bao.rotate(key)
        third = await kek.wrap(of("alice"), KEY)
        assert third.kek_id == kek.kek_id == f"vault:transit/{key}:v3"
        assert await kek.unwrap(of("alice"), first) == await kek.unwrap(of("alice"), third) == KEY


async def test_mount_with_slashes_and_a_namespace_of_its_own(bao: Bao) -> None:
    bao.ask("POST", "sys/mounts/crypto/transit", {"type": "transit"})
    bao.ask("POST", "crypto/transit/keys/users.mk", {"derived": True})
    bao.ask(
        "PUT",
        "sys/policies/acl/deep",
        {"policy": least_policy("users.mk").replace('"transit/', '"crypto/transit/')},
    )
    environ = {"VAULT_ADDR": bao.address, "VAULT_TOKEN": bao.token("deep")}
    async with transit(bao, "users.mk", environ, mount="crypto/transit") as kek:
        wrap = await kek.wrap(of("alice"), KEY)
        assert wrap.kek_id == "vault:crypto/transit/users.mk:v1"
        assert await kek.unwrap(of("alice"), wrap) == KEY


@pytest.mark.parametrize("count", [6, pytest.param(20, marks=pytest.mark.prove)])
@pytest.mark.parametrize("derived", [True, False], ids=["context", "associated-data"])
async def test_copied_wraps_never_open(bao: Bao, derived: bool, count: int) -> None:
    users = [f"user-{number}" for number in range(count)]
    async with transit(bao, bao.make_key(derived=derived)) as kek:
        wraps = {user: await kek.wrap(of(user), KEY) for user in users}
        for owner, wrap in wraps.items():
            for user in users:
                if user == owner:
                    assert await kek.unwrap(of(user), wrap) == KEY
                else:
                    assert type(await failure(kek.unwrap(of(user), wrap))) is Tampered


@pytest.mark.parametrize("derived", [True, False], ids=["context", "associated-data"])
async def test_a_wrap_of_format_2_is_read_for_its_user_and_comes_out_as_3(
    bao: Bao, derived: bool
) -> None:
    async with transit(bao, bao.make_key(derived=derived)) as kek:
        old = await asyncio.to_thread(transit_wrap_of_before, kek, "alice", derived=derived)
        for generation in (0, 7):
            assert await kek.unwrap(of("alice", generation), old) == KEY
        for binding in (of("bob"), Binding.of_data_key("alice")):
            assert type(await failure(kek.unwrap(binding, old))) is Tampered
        relabelled = old._replace(format_version=3)
        assert type(await failure(kek.unwrap(of("alice"), relabelled))) is Tampered
        sizes = counted(kek, "_rewrap_batch")
        (done,) = await Keyring(kek).rewrap([OwnedWrap(of("alice"), old)])
        assert isinstance(done, Wrap)
        assert sizes == []  # through the process
        assert done.format_version == 3
        assert await kek.unwrap(of("alice"), done) == KEY
        assert type(await failure(kek.unwrap(of("alice", 8), done))) is Tampered


async def test_holds_its_own_versions_and_nothing_else(bao: Bao) -> None:
    async with transit(bao, "a.b", {"VAULT_ADDR": bao.address, "VAULT_TOKEN": "x"}) as kek:
        assert kek.holds("vault:transit/a.b:v1")
        assert kek.holds("vault:transit/a.b:v999")
        for other in (
            "vault:transit/a.b",
            "vault:transit/a.b:v0",
            "vault:transit/a.b:v01",
            "vault:transit/a.b:v-1",
            "vault:transit/a.b:v1 ",
            "vault:transit/a.b:1",
            "vault:transit/aXb:v1",
            "vault:other/a.b:v1",
            "env-v1",
            "v1",
            "",
        ):
            assert not kek.holds(other)


async def test_damaged_wraps_are_tampering(bao: Bao) -> None:
    async with transit(bao, bao.make_key()) as kek:
        wrap = await kek.wrap(of("alice"), KEY)
        text, kek_id = wrap.wrapped_mk, wrap.kek_id
        body = text.removeprefix("vault:v1:")
        raw = bytearray(base64.b64decode(body))
        raw[20] ^= 1
        flipped = "vault:v1:" + base64.b64encode(raw).decode()
        texts = ["", "x", body, "vault:v1:", text[:-8], flipped, text + "\n", "vault:v2:" + body]
        texts += ["vault:v01:" + body, "vault:v1:" + "A" * 5000, "vault:v1:AAAA", text + "AAAA"]
        for broken in (
            *(Wrap(changed, "", 3, kek_id) for changed in texts),
            Wrap(text, "AAAA", 3, kek_id),
            *(Wrap(text, "", version, kek_id) for version in (0, 1, 2, 4)),
            Wrap(text, "", 3, kek_id[:-1] + "2"),
        ):
            assert type(await failure(kek.unwrap(of("alice"), broken))) is Tampered
        # None of it is the server's fault: it stays in use.
        await kek.refresh()
        assert kek.problem is None
        assert await kek.unwrap(of("alice"), wrap) == KEY


async def test_context_on_a_key_that_is_not_derived_would_bind_nothing(
    bao: Bao, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trap itself, and that the proof at boot would see it."""

    def always_context(_key: object, binding: Binding, _format: int = 3) -> dict[str, str]:
        return {"context": base64.b64encode(binding.encode()).decode()}

    monkeypatch.setattr(TransitKey, "bound_by", always_context)
    async with transit(bao, bao.make_key(derived=False)) as kek:
        error = await failure(kek.wrap(of("alice"), KEY))
        assert type(error) is Misconfigured
        assert "opens for another user too" in str(error)
        await kek.refresh()
        assert "it is not bound" in (kek.problem or "")


@pytest.mark.prove
async def test_key_that_is_replaced_is_noticed_by_the_wrap_itself(bao: Bao) -> None:
    """Deleted and made again, not derived: what the old key's state says would bind nothing."""
    key = bao.make_key()
    async with transit(bao, key) as kek:
        first = await kek.wrap(of("alice"), KEY)
        fingerprint = kek.fingerprint(first.kek_id)
        await asyncio.sleep(to_the_next_second())
        bao.delete_key(key)
        bao.make_key(key, derived=False)
        wrap = await kek.wrap(of("alice"), KEY)
        # The same stamp: the registry sees by its fingerprint that it must not be stored.
        assert wrap.kek_id == first.kek_id
        assert kek.fingerprint(wrap.kek_id) not in (None, fingerprint)
        assert await kek.unwrap(of("alice"), wrap) == KEY
        assert type(await failure(kek.unwrap(of("bob"), wrap))) is Tampered


@pytest.mark.prove
async def test_replaced_key_sets_no_row_aside(bao: Bao) -> None:
    """Its rows do not open, and that is not their fault."""
    key = bao.make_key()
    async with transit(bao, key) as kek:
        wrap = await kek.wrap(of("alice"), KEY)
        await asyncio.sleep(to_the_next_second())
        bao.delete_key(key)
        bao.make_key(key)
        with pytest.raises(KeyMissing, match="the key was replaced by another of its name"):
            await kek.rewrap([OwnedWrap(of("alice"), wrap)])


async def test_version_that_a_restored_key_lacks_is_named(bao: Bao) -> None:
    async with transit(bao, bao.make_key()) as kek:
        await kek.refresh()
        stamp = f"{str(kek.kek_id)[:-1]}3"
        assert "rows carry version 3, and the key has 1: restore" in (kek.refusal(stamp) or "")


async def test_token_goes_nowhere_else() -> None:
    """A server that sends its clients elsewhere, as a standby does, gets no token there."""
    received: list[str] = []
    elsewhere = HttpServer(lambda asked: received.append(asked.path))
    redirecting = HttpServer(
        lambda asked: asked.say(status=307, Location=elsewhere.url + asked.path)
    )
    with serving(elsewhere), serving(redirecting) as server:
        environ = {"VAULT_ADDR": server.url, "VAULT_TOKEN": remember("s.token-that-stays-here")}
        kek = transit_kek("key", environ)
        error = await failure(kek.refresh())
        await kek.close()
        assert type(error) is Transient
        assert "a token goes nowhere else" in str(error)
    assert received == []


async def test_rewrap_on_the_server_in_batches(bao: Bao) -> None:
    key = bao.make_key()
    async with transit(bao, key) as kek:
        wraps = [OwnedWrap(of(f"user-{n}"), await kek.wrap(of(f"user-{n}"), KEY)) for n in range(5)]
        bao.rotate(key)
        sizes = counted(kek, "_rewrap_batch")
        # Far more than the server takes at once: the first size is refused, and halved.
        kek._batch_size = 1200
        stranger = OwnedWrap(of("mallory"), wraps[0].wrap)
        broken = OwnedWrap(of("user-0"), Wrap("vault:v1:AAAA", "", 3, f"vault:transit/{key}:v1"))
        nonsense = OwnedWrap(of("user-0"), Wrap("nonsense", "", 3, f"vault:transit/{key}:v1"))
        items = [*wraps * 100, stranger, broken, nonsense, *wraps * 100]
        done = await kek.rewrap(items)
        assert sizes[:3] == [1003, 501, 250]
        assert set(sizes[3:]) <= {125, 3}
        assert [type(one) for one in done[500:503]] == [Tampered] * 3
        good = list(zip(items[:500] + items[503:], done[:500] + done[503:], strict=True))
        assert {wrap.kek_id for _, wrap in good if isinstance(wrap, Wrap)} == {kek.kek_id}
        assert kek.kek_id == f"vault:transit/{key}:v2"
        for item, wrap in good[:5] + good[-5:]:
            assert isinstance(wrap, Wrap)
            assert await kek.unwrap(item.binding, wrap) == KEY


async def test_only_a_derived_key_rewraps_on_the_server(bao: Bao) -> None:
    derived, plain = bao.make_key(), bao.make_key(derived=False)
    async with transit(bao, derived) as one, transit(bao, plain) as two:
        await one.refresh()
        await two.refresh()
        assert one.can_rewrap_from(one)
        assert not two.can_rewrap_from(two)
        assert not one.can_rewrap_from(two)
        # The keyring carries over what no server can: through this process, user by user.
        wrap = await two.wrap(of("alice"), KEY)
        done = await Keyring(one, [two]).rewrap(
            [OwnedWrap(of("alice"), wrap), OwnedWrap(of("bob"), wrap)]
        )
        assert isinstance(done[0], Wrap)
        assert done[0].kek_id == one.kek_id
        assert await one.unwrap(of("alice"), done[0]) == KEY
        assert type(done[1]) is Tampered


async def test_rewrap_asks_for_no_plaintext(bao: Bao) -> None:
    """With a policy that may neither decrypt: the server alone sees the key."""
    key = bao.make_key()
    async with transit(bao, key) as kek:
        wrap = await kek.wrap(of("alice"), KEY)
        bao.rotate(key)
        await kek.prove()
        bao.write_policy(key, least_policy(key).replace("transit/decrypt", "transit/no-decrypt"))
        (done,) = await kek.rewrap([OwnedWrap(of("alice"), wrap)])
        assert isinstance(done, Wrap)
        assert done.kek_id == f"vault:transit/{key}:v2"
        bao.write_policy(key)
        assert await kek.unwrap(of("alice"), done) == KEY


async def test_a_retired_version_is_named_and_comes_back(bao: Bao) -> None:
    key = bao.make_key()
    async with transit(bao, key) as kek:
        wrap = await kek.wrap(of("alice"), KEY)
        bao.rotate(key)
        bao.configure(key, min_decryption_version=2)
        assert type(await failure(kek.unwrap(of("alice"), wrap))) is VersionRetired
        (done,) = await kek.rewrap([OwnedWrap(of("alice"), wrap)])
        assert type(done) is VersionRetired
        await kek.refresh()
        refusal = kek.refusal(wrap.kek_id)
        assert refusal is not None
        assert "min_decryption_version is 2: lower it" in refusal
        assert kek.refusal(f"vault:transit/{key}:v2") is None
        bao.configure(key, min_decryption_version=1)
        assert await kek.unwrap(of("alice"), wrap) == KEY
        await kek.refresh()
        assert kek.refusal(wrap.kek_id) is None


async def test_a_key_made_again_has_another_fingerprint(bao: Bao) -> None:
    key = bao.make_key()
    async with transit(bao, key) as kek:
        assert kek.fingerprint(f"vault:transit/{key}:v1") is None
        wrap = await kek.wrap(of("alice"), KEY)
        first = kek.fingerprint(wrap.kek_id)
        assert first is not None
        await kek.refresh()
        assert kek.fingerprint(wrap.kek_id) == first
        bao.delete_key(key)
        assert type(await failure(kek.refresh())) is KeyMissing
        assert type(await failure(kek.unwrap(of("alice"), wrap))) is KeyMissing
        # OpenBao says no more than that to who may not create it.
        assert type(await failure(kek.wrap(of("alice"), KEY))) is Denied
        # Versions are told apart by the second they were made in: wait for the next one.
        await asyncio.sleep(to_the_next_second())
        bao.make_key(key)
        await kek.refresh()
        assert kek.fingerprint(wrap.kek_id) not in (None, first)
        assert type(await failure(kek.unwrap(of("alice"), wrap))) is Tampered


async def test_a_wrap_never_makes_a_key(bao: Bao) -> None:
    environ = bao.environ("never-made")
    async with transit(bao, "never-made", environ) as kek:
        assert type(await failure(kek.refresh())) is KeyMissing
        assert isinstance(await failure(kek.wrap(of("alice"), KEY)), KeyMissing | Denied)
    other = bao.make_key()
    keys = bao.ask("GET", "transit/keys?list=true")["data"]["keys"]
    assert other in keys
    assert "never-made" not in keys


async def test_key_types_that_cannot_bind_are_refused(bao: Bao) -> None:
    key = bao.make_key(derived=False, type="rsa-2048")
    async with transit(bao, key) as kek:
        error = await failure(kek.refresh())
        assert type(error) is Misconfigured
        assert f"bao write -f transit/keys/{key} derived=true" in str(error)


def less(call: str, right: str = "update") -> Callable[[str], str]:
    """Return the least policy without one of its lines."""
    return lambda key: least_policy(key).replace(
        f'path "transit/{call}/{key}" {{ capabilities = ["{right}"] }}', ""
    )


FINDINGS: dict[str, tuple[Callable[[str], str], dict[str, Any], str]] = {
    "policy may create keys": (
        lambda key: least_policy(key).replace(
            f'transit/encrypt/{key}" {{ capabilities = ["update"]',
            f'transit/encrypt/{key}" {{ capabilities = ["create", "update"]',
        ),
        {},
        'at the first wrap; take "create" from transit/encrypt/{key}',
    ),
    "policy may change the key": (
        lambda key: least_policy(key).replace('["read"]', '["read", "delete"]'),
        {},
        'the policy may change the key; leave only "read" on transit/keys/{key}',
    ),
    "no right to encrypt": (
        less("encrypt"),
        {},
        'the policy lacks "update" on transit/encrypt/{key}',
    ),
    "no right to decrypt": (
        less("decrypt"),
        {},
        'the policy lacks "update" on transit/decrypt/{key}',
    ),
    "no right to rewrap": (less("rewrap"), {}, 'the policy lacks "update" on transit/rewrap/{key}'),
    "no right to read": (less("keys", "read"), {}, 'the policy lacks "read" on transit/keys/{key}'),
    "key not derived": (least_policy, {"derived": False}, "the key is not derived"),
    "key exportable": (least_policy, {"exportable": True}, "may leave the server"),
}


@pytest.mark.parametrize("case", FINDINGS)
async def test_examination_finds(bao: Bao, case: str) -> None:
    policy, options, expected = FINDINGS[case]
    key = bao.make_key(**options)
    async with transit(bao, key, bao.environ(key, policy(key), period="24h")) as kek:
        found = await kek.examine(active=True)
    assert {one.verdict for one in found} == {Verdict.FINDING}
    assert any(expected.format(key=key) in one.message for one in found)


async def test_examination_of_a_token_that_dies(bao: Bao) -> None:
    key = bao.make_key()
    async with transit(bao, key, bao.environ(key, ttl="30m", explicit_max_ttl="30m")) as kek:
        (found,) = await kek.examine(active=True)
    assert found.verdict is Verdict.FINDING
    assert "the token expires in 1" in found.message
    assert "for good" in found.message


async def test_examination_of_a_root_token(bao: Bao) -> None:
    environ = {"VAULT_ADDR": bao.address, "VAULT_TOKEN": bao.root_token}
    async with transit(bao, bao.make_key(), environ) as kek:
        (found,) = await kek.examine(active=True)
    assert found.message == "the token is a root token; make one with the least policy"


async def test_examination_of_what_is_well(bao: Bao) -> None:
    key = bao.make_key()
    async with transit(bao, key, bao.environ(key, period="24h")) as kek:
        for active, use in ((True, "wraps and unwraps"), (False, "ready to unwrap")):
            (found,) = await kek.examine(active=active)
            assert found.verdict is Verdict.OK
            assert found.message == f"{use}; kek_id vault:transit/{key}:v1"


async def test_a_decrypt_only_policy_is_enough_for_an_old_kek(bao: Bao) -> None:
    key = bao.make_key()
    async with transit(bao, key) as kek:
        wrap = await kek.wrap(of("alice"), KEY)
    policy = less("encrypt")(key).replace(f"transit/rewrap/{key}", "transit/none")
    async with transit(bao, key, bao.environ(key, policy, period="24h")) as old:
        await old.refresh()
        assert old.problem is None
        assert await old.unwrap(of("alice"), wrap) == KEY
        assert [one.verdict for one in await old.examine(active=False)] == [Verdict.OK]
        assert type(await failure(old.wrap(of("alice"), KEY))) is Denied


@pytest.mark.parametrize(
    ("uri", "environ", "expected"),
    [
        ("vault:custody", {}, "write vault:MOUNT/KEY, for example vault:transit/custody"),
        ("vault:transit/a b", {}, "write vault:MOUNT/KEY"),
        ("vault:transit/../a", {"VAULT_ADDR": ""}, "VAULT_"),
        ("vault:transit/a?id=x", {}, "a transit key has no ?id="),
        ("vault:transit/a", {"VAULT_TOKEN": "x"}, "VAULT_ADDR must be set"),
        (
            "vault:transit/a",
            {"VAULT_TOKEN": "x", "VAULT_ADDR": "127.0.0.1:8200"},
            "VAULT_ADDR must be set to the server",
        ),
        (
            "vault:transit/a",
            {"VAULT_TOKEN": "x", "VAULT_ADDR": "http://127.0.0.1", "VAULT_CLIENT_TIMEOUT": "soon"},
            "VAULT_CLIENT_TIMEOUT is a number of seconds",
        ),
        ("vault:transit/a", {"VAULT_ADDR": "http://127.0.0.1"}, "no login is configured"),
        (
            "vault:transit/a",
            {"VAULT_ADDR": "http://127.0.0.1", "VAULT_TOKEN": "x", "VAULT_KUBERNETES_ROLE": "r"},
            "more than one login is configured",
        ),
        (
            "vault:transit/a",
            {"VAULT_ADDR": "http://127.0.0.1", "VAULT_ROLE_ID": "x"},
            "VAULT_ROLE_ID and VAULT_SECRET_ID go together",
        ),
        (
            "vault:transit/a",
            {"VAULT_ADDR": "http://127.0.0.1", "VAULT_TOKEN": "x", "VAULT_TOKEN_FILE": "/y"},
            "VAULT_TOKEN and VAULT_TOKEN_FILE are both set",
        ),
    ],
)
def test_configuration_errors_name_the_cure(
    uri: str, environ: dict[str, str], expected: str
) -> None:
    assert expected in refusal(uri, **environ)
