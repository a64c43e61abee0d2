"""Concurrent calls of a transit key share calls to a real OpenBao, and nothing of each other."""

import asyncio
import base64
from collections.abc import Sequence
from typing import Any

import pytest

from kek_backends.base import Wrap
from kek_backends.call_batcher import CALLS_AT_ONCE
from kek_backends.errors import (
    Denied,
    KekError,
    KeyMissing,
    Misconfigured,
    Tampered,
    Transient,
    VersionRetired,
)
from kek_backends.transit import tokens
from kek_backends.transit.batches import MOST_ITEMS
from kek_backends.transit.kek import TransitKek
from tests.bao_server import Bao, least_policy
from tests.bindings import of
from tests.kek.kit import assert_silent, chain, counted, held_token, transit

pytestmark = pytest.mark.usefixtures("known_backends", "patient_calls")


def key_of(user_id: str) -> bytes:
    return user_id.encode().rjust(32, b"-")[-32:]


async def wrapped(kek: TransitKek, users: Sequence[str]) -> dict[str, Wrap]:
    made = await asyncio.gather(*(kek.wrap(of(user), key_of(user)) for user in users))
    return dict(zip(users, made, strict=True))


async def opened(kek: TransitKek, asked: Sequence[tuple[str, Wrap]]) -> list[bytes | KekError]:
    found = await asyncio.gather(
        *(kek.unwrap(of(user), wrap) for user, wrap in asked), return_exceptions=True
    )
    assert all(isinstance(one, bytes | KekError) for one in found)
    return found  # type: ignore[return-value]


@pytest.mark.prove
async def test_concurrent_unwraps_share_calls(bao: Bao) -> None:
    users = [f"user-{n}-{'x' * 240}" for n in range(500)]
    async with transit(bao, bao.make_key()) as kek:
        wraps = await wrapped(kek, users)
        sizes = counted(kek, "_decrypt_batch")
        assert await opened(kek, list(wraps.items())) == [key_of(user) for user in users]
        assert sum(sizes) == 500
        # As many as a call may hold: the server takes that.
        assert max(sizes) == MOST_ITEMS == 240
        sizes.clear()
        for user in users[:3]:
            assert await kek.unwrap(of(user), wraps[user]) == key_of(user)
        assert sizes == [1, 1, 1]


@pytest.mark.prove
async def test_concurrent_wraps_share_calls(bao: Bao) -> None:
    users = [f"user-{n}" for n in range(300)]
    async with transit(bao, bao.make_key()) as kek:
        await kek.prove()
        sizes = counted(kek, "_encrypt_batch")
        wraps = await wrapped(kek, users)
        assert sum(sizes) == 300
        assert len(sizes) <= 2 + CALLS_AT_ONCE
        assert len({wrap.wrapped_mk for wrap in wraps.values()}) == 300
        assert await opened(kek, list(wraps.items())) == [key_of(user) for user in users]
        turned = zip(users, [*list(wraps.values())[1:], wraps[users[0]]], strict=True)
        assert {type(one) for one in await opened(kek, list(turned))} == {Tampered}


async def test_a_key_that_is_not_derived_is_asked_one_by_one(bao: Bao) -> None:
    """Nothing but a context is relied on in a batch."""
    async with transit(bao, bao.make_key(derived=False)) as kek:
        batches = [counted(kek, name) for name in ("_encrypt_batch", "_decrypt_batch")]
        wraps = await wrapped(kek, ["alice", "bob"])
        assert await opened(kek, list(wraps.items())) == [key_of("alice"), key_of("bob")]
        assert batches == [[], []]


async def test_a_key_that_stopped_being_derived_is_sent_in_no_batch(bao: Bao) -> None:
    async with transit(bao, bao.make_key(derived=False)) as kek:
        (wrap,) = (await wrapped(kek, ["alice"])).values()
        kek._goes_in_batches = lambda: asyncio.sleep(0, True)  # type: ignore[method-assign]
        with pytest.raises(Transient, match="the key was replaced at this moment"):
            await kek.unwrap(of("alice"), wrap)
        with pytest.raises(Transient, match="the key was replaced at this moment"):
            await kek.wrap(of("alice"), key_of("alice"))


async def test_the_form_that_is_proven_is_the_form_that_is_used(
    bao: Bao, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(TransitKek, "_encrypt", never)
    monkeypatch.setattr(TransitKek, "_decrypt", never)
    async with transit(bao, bao.make_key()) as kek:
        sizes = counted(kek, "_encrypt_batch"), counted(kek, "_decrypt_batch")
        await kek.prove()
        assert sizes == ([1], [1, 3])
        wraps = await wrapped(kek, ["alice"])
        assert await opened(kek, list(wraps.items())) == [key_of("alice")]


def assert_says_nothing(
    errors: Sequence[object], kek: TransitKek, wraps: dict[str, Wrap], log: str
) -> None:
    """No plaintext, ciphertext or token, of any user, in errors, what is below them, and logs."""
    secrets = [held_token(kek)]
    for user, wrap in wraps.items():
        secrets += [base64.b64encode(key_of(user)).decode(), key_of(user).decode(), wrap.wrapped_mk]
    failed = [error for error in errors if isinstance(error, KekError)]
    assert len(failed) == len(errors)
    assert all(list(chain(error)) == [error] for error in failed)
    assert_silent(secrets, *failed, log=log)


async def test_one_that_fails_fails_alone(bao: Bao, sdk_log: pytest.LogCaptureFixture) -> None:
    """The server answers such a call with 400, and with the keys of the others."""
    key = bao.make_key()
    async with transit(bao, key) as kek:
        old = await kek.wrap(of("old"), key_of("old"))
        bao.rotate(key)
        bao.configure(key, min_decryption_version=2)
        wraps = await wrapped(kek, [f"user-{n}" for n in range(5)])
        first = wraps["user-0"]
        text, stamp = first.wrapped_mk, f"vault:transit/{key}"
        await kek.refresh()
        sizes = counted(kek, "_decrypt_batch")
        bad: list[tuple[str, Wrap, type[KekError]]] = [
            ("mallory", first, Tampered),
            ("user-0", Wrap(text[:-8] + "AAAAAAAA", "", 3, first.kek_id), Tampered),
            ("user-0", Wrap("vault:v2:AAAA", "", 3, first.kek_id), Tampered),
            ("user-0", Wrap("nonsense", "", 3, first.kek_id), Tampered),
            (
                "user-0",
                Wrap(text.replace("v2", "v7"), "", 3, f"{stamp}:v7"),
                VersionRetired,
            ),
            ("old", old, VersionRetired),
        ]
        asked: list[tuple[str, Wrap]] = []
        for good, (user, wrap, _) in zip([*wraps.items(), *wraps.items()], bad, strict=False):
            asked += [good, (user, wrap)]
        found = await opened(kek, asked)
        assert sizes == [12]
        assert found[::2] == [key_of(user) for user, _ in asked[::2]]
        assert [type(one) for one in found[1::2]] == [kind for _, _, kind in bad]
        assert_says_nothing(found[1::2], kek, wraps, sdk_log.text)
        # And where all of them fail.
        everything = await opened(kek, [(user, wrap) for user, wrap, _ in bad])
        assert [type(one) for one in everything] == [kind for _, _, kind in bad]
        assert kek.problem is None


async def test_one_that_the_server_refuses_the_whole_call_for(bao: Bao) -> None:
    """Of format 2 an empty context is such a one: the others are asked for again, and answered."""
    async with transit(bao, bao.make_key()) as kek:
        wraps = await wrapped(kek, ["alice", "bob"])
        sizes = counted(kek, "_decrypt_batch")
        found = await opened(kek, [*wraps.items(), ("", wraps["bob"]._replace(format_version=2))])
        assert found[:2] == [key_of("alice"), key_of("bob")]
        assert isinstance(found[2], Misconfigured | Tampered)
        assert sizes == [3, 1, 1, 1]


async def test_a_version_that_is_allowed_again_is_noticed(bao: Bao) -> None:
    key = bao.make_key()
    async with transit(bao, key) as kek:
        wraps = await wrapped(kek, ["alice", "bob"])
        bao.rotate(key)
        bao.configure(key, min_decryption_version=2)
        await kek.refresh()
        assert kek.refusal(wraps["bob"].kek_id) is not None
        bao.configure(key, min_decryption_version=1)
        assert await opened(kek, list(wraps.items())) == [key_of("alice"), key_of("bob")]
        assert kek.refusal(wraps["bob"].kek_id) is None


async def test_what_holds_for_all_is_told_to_each(bao: Bao) -> None:
    key = bao.make_key()
    async with transit(bao, key) as kek:
        wraps = await wrapped(kek, [f"user-{n}" for n in range(20)])
        await kek.refresh()
        bao.write_policy(key, least_policy(key).replace("transit/decrypt", "transit/no-decrypt"))
        denied = await opened(kek, list(wraps.items()))
        assert {type(one) for one in denied} == {Denied}
        assert "permission denied" in (kek.problem or "")
        bao.write_policy(key)
        assert await opened(kek, list(wraps.items())) == [key_of(user) for user in wraps]
        assert kek.problem is None
        bao.delete_key(key)
        missing = await opened(kek, list(wraps.items()))
        assert {type(one) for one in missing} == {KeyMissing}


@pytest.mark.prove
async def test_a_token_that_dies_between_calls_costs_nobody_an_answer(
    bao: Bao, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = bao.make_key()
    role_id, secret_id = bao.app_role(bao.write_policy(key))
    environ = {"VAULT_ADDR": bao.address, "VAULT_ROLE_ID": role_id, "VAULT_SECRET_ID": secret_id}
    async with transit(bao, key, environ) as kek:
        wraps = await wrapped(kek, [f"user-{n}" for n in range(100)])
        first = held_token(kek)
        monkeypatch.setattr(tokens, "_BETWEEN_LOGINS_SECONDS", 0.0)
        calls = [asyncio.ensure_future(opened(kek, list(wraps.items()))) for _ in range(20)]
        await asyncio.to_thread(bao.revoke, first)
        for found in await asyncio.gather(*calls):
            assert found == [key_of(user) for user in wraps]
        assert held_token(kek) != first


@pytest.mark.prove
async def test_answers_that_make_no_sense(bao: Bao) -> None:
    """Each item is looked at; one that can't be read fails alone, and shows nothing."""
    async with transit(bao, bao.make_key()) as kek:
        wraps = await wrapped(kek, ["alice", "bob", "carol", "dave"])
        real = kek._batches._send

        def send(*args: Any) -> list[Any]:
            said = real(*args)
            if len(said) == 4:
                said[1:] = ["nonsense", {"plaintext": "not base64"}, {"plaintext": ""}]
            return said

        kek._batches._send = send  # type: ignore[method-assign, assignment]
        sizes = counted(kek, "_decrypt_batch")
        found = await opened(kek, list(wraps.items()))
        # The first two are tried again: such an answer may pass.
        assert found[:3] == [key_of("alice"), key_of("bob"), key_of("carol")]
        assert type(found[3]) is Tampered
        assert sizes[0] == 4
        kek._batches._send = lambda *_: [{"ciphertext": "vault:v1:"}]  # type: ignore[method-assign]
        with pytest.raises(Transient, match="answered with something that is no wrap"):
            await kek.wrap(of("alice"), key_of("alice"))
        kek._batches._send = lambda *args: real(*args)[1:]  # type: ignore[method-assign]
        short = await opened(kek, list(wraps.items()))
        assert {type(one) for one in short} == {Transient}
        assert_says_nothing(short, kek, wraps, "")
