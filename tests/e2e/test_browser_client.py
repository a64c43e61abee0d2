"""The browser client in a real Chromium, against a real daemon over TLS, beside the Python one."""

import base64
import json
from asyncio import to_thread
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Page, Route

from custody.client import Keys, RecoveryCodeNeeded, make_code
from tests import shown
from tests.e2e.test_client_life import crash, told
from tests.e2e.web_app import until
from tests.e2e.web_place import Place, failure, placed, run
from tests.leaks import forms, remember
from tests.servers import ROOT, Database
from tests.tokens import Issuer

pytestmark = [pytest.mark.prove, pytest.mark.asyncio(loop_scope="module")]
BINARY = ("keyIv", "wrappedKey", "iv", "content")
RECORDS = shown.records()
OK = '{"ok": true}'
PAIR = json.dumps(dict.fromkeys(("masterKey", "previousMasterKey"), "A" * 43 + "="))
SAID_BY_ANYBODY = (
    ("rotate(() => {})", PAIR, "{}"),
    ("setRecoveryCode(given[1])", PAIR, '{"ok": 1}'),
    ("enableZeroKnowledge(given[1])", PAIR, OK, OK),
    ("enableZeroKnowledge(given[1])", PAIR, OK, '{"ok": true, "zeroKnowledge": false}'),
    ("disableZeroKnowledge(given[1])", PAIR, '{"ok": true, "zeroKnowledge": true}'),
    ("reset()", OK),
    ("status()", '{"vaultExists": 1}'),
    ("audit()", '{"events": [1], "next": null}'),
    ("audit()", '{"events": [], "next": 1}'),
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(
    module_database: Database, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Place]:
    async with placed(module_database, issuer, tmp_path_factory.mktemp("app")) as running:
        yield running


def parsed(record: dict[str, Any]) -> dict[str, Any]:
    return record | {name: base64.b64decode(record[name]) for name in BINARY}


def sent(record: dict[str, Any]) -> dict[str, Any]:
    return record | {name: base64.b64encode(record[name]).decode() for name in BINARY}


async def agree(page: Page, user: str, keys: Keys) -> None:
    """See that a page and Python have one key: each opens the other's record."""
    program = """
        const content = new TextEncoder().encode("from the browser");
        return app.sent(await app.records.seal(app.keys, app.user, {id: "a", version: 1, content}));
    """
    made = parsed(await run(page, program))
    assert RECORDS["open_record"](keys, user, made) == b"from the browser"
    record = {"id": "b", "version": 2, "content": b"from Python"}
    program = """
        const record = app.taken(given[0]);
        return new TextDecoder().decode(await app.records.open(app.keys, app.user, record));
    """
    here = sent(RECORDS["seal"](keys, user, record))
    assert await run(page, program, here) == "from Python"


async def test_the_whole_life_and_each_client_opens_what_the_other_made(place: Place) -> None:
    there = place.python("alice")
    codes = [remember(make_code()) for _ in range(3)]
    async with place.tab("alice") as page:
        nothing = {"vaultExists": False, "hasRecoveryWrap": False, "zeroKnowledge": False}
        assert await run(page, "return app.vault.status()") == nothing | {"recoverySetAt": None}
        first = await run(page, "return app.unlock()")
        keys = told(await to_thread(there.unlock))
        assert first == {"generation": keys.generation, "pending": False}
        await agree(page, "alice", keys)
        assert await run(page, "return app.fill(3)") is None

        # The browser turns zero-knowledge mode on; each sets a new code in it.
        made = remember(await run(page, "return app.custody.makeCode()"))
        await run(page, "await app.vault.setRecoveryCode(given[0])", made)
        await run(page, "await app.vault.enableZeroKnowledge(given[0])", made)
        status = await run(page, "return app.vault.status()")
        assert status.pop("recoverySetAt").endswith("Z")
        assert status == dict.fromkeys(nothing, True)
        with pytest.raises(RecoveryCodeNeeded):
            await to_thread(there.unlock)
        assert await to_thread(there.unlock, made) == keys
        assert await failure(page, "await app.unlock()") == "RecoveryCodeNeeded"
        assert await failure(page, "await app.unlock(given[0])", codes[0]) == "WrongRecoveryCode"
        assert await failure(page, "await app.unlock('0001')") == "MalformedRecoveryCode"
        wrong = "await app.vault.setRecoveryCode(given[0])"
        assert await failure(page, wrong, codes[0]) == "WrongRecoveryCode"
        await run(page, "await app.vault.setRecoveryCode(given[0], given[1])", codes[0], made)
        assert await to_thread(there.unlock, codes[0]) == keys
        await to_thread(there.set_recovery_code, keys, codes[1])
        spoken = codes[1].lower().replace("-", " ")
        assert await run(page, "return app.unlock(given[0])", spoken) == first
        await agree(page, "alice", keys)
        # The mode is on already, and the code opens: nothing to undo.
        assert await run(page, "await app.vault.enableZeroKnowledge(given[0])", codes[1]) is None
        wrong = "await app.vault.disableZeroKnowledge(given[0])"
        assert await failure(page, wrong, made) == "WrongRecoveryCode"
        assert await failure(page, "await app.rotate()") == "RecoveryCodeNeeded"
        await run(page, "await app.vault.disableZeroKnowledge(given[0])", codes[1])
        assert await to_thread(there.unlock) == keys

        # Python turns it on, the browser off.
        await to_thread(there.enable_zero_knowledge, keys, codes[2])
        await run(page, "await app.vault.disableZeroKnowledge(given[0])", codes[2])
        assert await run(page, "return app.unlock()") == first

        # Each finishes the other's rotation.
        with pytest.raises(RuntimeError, match="crash"):
            await to_thread(there.rotate, crash)
        assert (await run(page, "return app.unlock()"))["pending"]
        second = await run(page, "return app.rotate()")
        keys = told(await to_thread(there.unlock))
        assert second == {"generation": keys.generation, "pending": False}
        assert keys.generation > first["generation"]
        await agree(page, "alice", keys)
        broken = "await app.vault.rotate(() => Promise.reject(new Error('crash')))"
        assert await failure(page, broken) == "Error: crash"
        seen: list[Keys] = []
        await to_thread(there.rotate, seen.append)
        assert seen[0].previous_master_key == keys.master_key
        # It has rotated past the records of this page, as a device that forgets them would.
        assert "Error" in await failure(page, "await app.unlock(); return app.read()")

        rows = await place.daemon.database.audit("alice")
        assert [tuple(row) for row in await run(page, "return app.log()")] == rows
        last = await run(page, "app.keys = await app.vault.reset(); return app.told(app.keys)")
        keys = told(await to_thread(there.unlock))
        assert last == {"generation": keys.generation, "pending": False}
        await agree(page, "alice", keys)


async def test_no_key_is_where_a_script_could_find_it(place: Place) -> None:
    there = place.python("nora")
    async with place.tab("nora") as page:
        await run(page, "await app.unlock(); await app.fill(2)")
        keys = told(await to_thread(there.unlock))
        code = remember(make_code())
        await run(page, "await app.vault.enableZeroKnowledge(given[0])", code)
        await run(page, "await app.unlock(given[0])", code)
        await run(page, "await app.vault.disableZeroKnowledge(given[0])", code)
        await run(page, "app.held = app.rotate({held: true})")
        await until(page, "app.goOn")
        pending = told(await to_thread(there.unlock))
        await run(page, "app.pair = await app.vault.unlock(); app.goOn(); await app.held")
        for key in ("app.keys.masterKey", "app.pair.masterKey", "app.pair.previousMasterKey"):
            for form in ("raw", "jwk"):
                export = f"await crypto.subtle.exportKey('{form}', {key})"
                assert (await failure(page, export)).startswith("InvalidAccessError"), key
            wrap = f"await crypto.subtle.wrapKey('raw', {key}, app.keys.masterKey, given[0])"
            by = {"name": "AES-GCM"}
            assert "Error" in await failure(page, wrap, by)
            assert not await run(page, f"return {key}.extractable")
        there_is = await run(page, "return app.everything()")
        assert "note-1" in there_is
        for secret in (keys.master_key, pending.master_key):
            for form in forms(base64.b64encode(secret).decode()):
                assert form not in there_is
        assert code not in there_is


async def test_bytes_are_overwritten_before_a_call_returns(place: Place) -> None:
    code = remember(make_code())
    async with place.tab("otto") as page:
        await run(page, "app.keepSecrets()")
        await run(page, "await app.unlock()")
        await run(page, "await app.vault.enableZeroKnowledge(given[0])", code)
        await run(page, "await app.vault.setRecoveryCode(given[0], given[0])", code)
        await run(page, "await app.vault.disableZeroKnowledge(given[0])", code)
        await run(page, "await app.rotate(); await app.vault.reset()")
        seen = await run(page, "return app.seen.map((bytes) => [bytes.length, Math.max(...bytes)])")
    assert len(seen) > 15
    # What is wrapped is as long as a wrap; all else was a secret of 32 bytes.
    assert {length for length, _ in seen} == {32}
    assert {largest for _, largest in seen} == {0}


async def test_what_the_page_shows_runs(place: Place) -> None:
    async with place.tab("paul") as page:
        given = "Object.assign(globalThis, {address: app.address, pin: app.store.pin"
        given += ", token: async () => (await fetch('/token?user=paul')).text()"
        given += ", reencrypt: () => { app.reencrypts += 1; }})"
        assert await run(page, f"{given}; await import('/usage.js')") is None
        assert await run(page, "return app.reencrypts") == 1


async def test_a_server_that_the_browser_does_not_trust_gets_no_token(place: Place) -> None:
    context = await place.chromium.new_context()
    try:
        page = await place.app.open(context, "tess", place.vault)
        assert await failure(page, "await app.unlock()") == "Unreachable"
    finally:
        await context.close()
    assert await place.daemon.database.audit("tess") == []


async def test_it_sends_what_it_must_and_nothing_else(place: Place) -> None:
    """No cookies, no cache, no referrer, no redirects; a bound on what comes back."""
    async with place.tab("rosa") as page:
        (sent,) = await run(
            page,
            "return app.asks(given[0])",
            {"status": 200, "body": " " * (1 << 20) + "x", "ETag": '"1"'},
        )
        assert sent["error"] == "BadAnswer"
        assert sent["address"] == "https://vault.example/under/api/v1/me/encryption-vault/key"
        assert sent["headers"] == {"Accept": "application/json", "Authorization": "Bearer a.b"}
        assert sent["options"] == {
            "method": "GET",
            "credentials": "omit",
            "cache": "no-store",
            "redirect": "error",
            "referrerPolicy": "no-referrer",
        }
        for token in ("a\r\nX: y", "", "a b", "ä", None, 5):
            program = "await app.open({token: () => given[0]}).unlock()"
            assert (await failure(page, program, token)).startswith("TypeError: the token"), token
        for address in ("http://vault.example", "ftp://h", "https://u:p@h", "https://h/?q", "h:1"):
            program = "app.open({address: given[0]})"
            assert (await failure(page, program, address)).startswith("TypeError"), address


async def test_a_200_of_somebody_in_between_is_no_ok(place: Place) -> None:
    async with place.tab("sven") as page:
        for call, *answers in SAID_BY_ANYBODY:
            program = f"""
                const fetch = async () => new Response(given[0].shift(), {{headers: given[2]}});
                await app.open({{fetch, token: () => "t"}}).{call};
            """
            given = (answers, make_code(), {"ETag": '"1"'})
            assert await failure(page, program, *given) == "BadAnswer", (call, answers)


async def test_a_vault_that_goes_back_or_away_is_seen(place: Place) -> None:
    database = place.daemon.database
    async with place.tab("hugo") as page:
        generation = (await run(page, "return app.unlock()"))["generation"]
        await run(page, "await app.store.pin.save(given[0])", generation + 1)
        await run(page, "await app.store.pin.save(given[0])", generation)
        for call in ("unlock()", "rotate(() => {})", "setRecoveryCode(given[0])"):
            assert await failure(page, f"await app.vault.{call}", make_code()) == "RolledBack", call
        # Nothing is destroyed but what this device has seen.
        assert await failure(page, "await app.vault.reset()") == "StaleGeneration"
        await database.execute("DELETE FROM auth.encryption_vaults WHERE user_id = 'hugo'")
        outcome = await run(page, "await app.vault.unlock()")
        assert (outcome["error"], outcome["code"]) == ("Failed", "VAULT_NOT_INITIALISED")
        assert await database.vault("hugo") == {}
    async with place.tab("hugo") as page:
        text = "await app.open({pin: {load: () => '7', save() {}}}).unlock()"
        assert (await failure(page, text)).startswith("TypeError")


async def test_zero_knowledge_is_undone_where_another_device_was_faster(place: Place) -> None:
    other = place.python("ivan")

    async def overtake(route: Route) -> None:
        if '"enable":true' in (route.request.post_data or ""):
            await to_thread(other.set_recovery_code, keys, remember(make_code()))
        await route.continue_()

    async with place.device() as context:
        page = await place.app.open(context, "ivan", place.vault)
        first = await run(page, "return app.unlock()")
        keys = told(await to_thread(other.unlock))
        await context.route(f"{place.vault}/**", overtake)
        enable = "await app.vault.enableZeroKnowledge(given[0])"
        assert await failure(page, enable, make_code()) == "WrongRecoveryCode"
        assert await run(page, "return app.unlock()") == first
        assert not (await run(page, "return app.vault.status()"))["zeroKnowledge"]


async def test_the_vectors_hold_in_a_browser(place: Place) -> None:
    vectors = json.loads((ROOT / "tests/vectors/client.json").read_text("utf-8"))
    async with place.tab("vera") as page:
        program = "return (await import('/vectors.js')).check(given[0])"
        found = await run(page, program, vectors)
    assert found["wrong"] == []
    assert found["checked"] > 150
