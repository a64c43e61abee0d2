"""The Python client against a real daemon: its whole life, each of the two opens the other's."""

from asyncio import to_thread
from pathlib import Path

import pytest

from custody.client import (
    AsyncVault,
    HttpTransport,
    Keys,
    RecoveryCodeNeeded,
    RolledBack,
    Vault,
    WrongRecoveryCode,
    make_code,
)
from custody.client.exchange import Request, Response
from custody.http.routes import BASE_PATH
from tests.leaks import remember
from tests.servers import ROOT, Database, daemon_here
from tests.tokens import Issuer


class Remembered:
    """A pin in memory."""

    generation: int | None = None

    def load(self) -> int | None:
        return self.generation

    def save(self, generation: int) -> None:
        self.generation = generation


def told(keys: Keys) -> Keys:
    remember(keys.master_key.hex())
    return keys


@pytest.mark.prove
async def test_each_client_opens_what_the_other_made(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    async with daemon_here(database, issuer, tmp_path) as daemon:
        transport = HttpTransport(daemon.base.removesuffix(BASE_PATH))

        def token() -> str:
            return remember(issuer.token("alice"))

        pin = Remembered()
        here = AsyncVault(transport, token, pin)
        there = Vault(transport, token, Remembered())
        first = told(await here.unlock())
        assert (await to_thread(there.unlock)).master_key == first.master_key

        with pytest.raises(RuntimeError, match="crash"):
            await here.rotate(crash)
        pending = told(await to_thread(there.unlock))
        assert pending.previous_master_key == first.master_key
        seen: list[Keys] = []
        keys = await to_thread(there.rotate, seen.append)
        assert seen == [pending]
        assert keys == await here.unlock()
        assert keys.previous_master_key is None

        code = remember(make_code())
        await to_thread(there.enable_zero_knowledge, keys, code)
        with pytest.raises(RecoveryCodeNeeded):
            await here.unlock()
        with pytest.raises(WrongRecoveryCode):
            await here.unlock(make_code())
        assert (await here.unlock(code.lower().replace("-", " "))).master_key == keys.master_key
        await here.disable_zero_knowledge(keys)
        assert await to_thread(there.unlock) == keys

        pin.generation = keys.generation + 1
        with pytest.raises(RolledBack):
            await here.unlock()


def crash(_keys: Keys) -> None:
    raise RuntimeError("crash")


@pytest.mark.prove
async def test_the_page_shows_what_runs(database: Database, issuer: Issuer, tmp_path: Path) -> None:
    page = (ROOT / "docs/how-to/python-client.md").read_text("utf-8")
    shown = page.partition("```python\n")[2].partition("```")[0]
    async with daemon_here(database, issuer, tmp_path) as daemon:
        seen: list[Keys] = []
        names = {
            "address": daemon.base.removesuffix(BASE_PATH),
            "token": lambda: remember(issuer.token("bob")),
            "pin": Remembered(),
            "reencrypt": seen.append,
        }
        await to_thread(exec, compile(shown, "python-client.md", "exec"), names)
    assert len(seen) == 1


class Overtaken(HttpTransport):
    """Between the wrap and its use another device stores one of its own."""

    other: Vault
    keys: Keys

    def send(self, request: Request) -> Response:
        if request.path == "/zero-knowledge" and b"true" in (request.body or b""):
            self.other.set_recovery_code(self.keys, remember(make_code()))
        return super().send(request)


@pytest.mark.prove
async def test_zero_knowledge_is_undone_where_the_code_does_not_open_what_is_stored(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    async with daemon_here(database, issuer, tmp_path) as daemon:
        transport = Overtaken(daemon.base.removesuffix(BASE_PATH))

        def token() -> str:
            return remember(issuer.token("dora"))

        transport.other = Vault(transport, token, Remembered())
        transport.keys = told(await to_thread(transport.other.unlock))
        vault = AsyncVault(transport, token, Remembered())
        with pytest.raises(WrongRecoveryCode):
            await vault.enable_zero_knowledge(transport.keys, remember(make_code()))
        assert await vault.unlock() == transport.keys
