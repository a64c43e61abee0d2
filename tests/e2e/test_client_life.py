"""The Python client against a real daemon: its whole life, each of the two opens the other's."""

import sys
from asyncio import create_subprocess_exec, sleep, to_thread
from asyncio.subprocess import PIPE
from pathlib import Path
from random import Random

import pytest
from cryptography.exceptions import InvalidTag

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
from tests.e2e import rotating_client
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


@pytest.mark.prove
async def test_a_client_that_is_killed_in_a_rotation_loses_nothing(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    chance = Random(19)  # noqa: S311 - when to kill is no secret
    async with daemon_here(database, issuer, tmp_path) as daemon:
        address = daemon.base.removesuffix(BASE_PATH)
        token = remember(issuer.token("carol"))
        device = rotating_client.vault(address, token, tmp_path)
        first = await to_thread(device.unlock)
        records = [tmp_path / f"{number}.record" for number in range(rotating_client.RECORDS)]
        for path in records:
            rotating_client.write(first.master_key, path, b"note " + path.stem.encode())
        pending = 0
        for _ in range(20):
            child = await create_subprocess_exec(
                *(sys.executable, "-m", rotating_client.__name__, address, token, tmp_path),
                cwd=ROOT,
                stdout=PIPE,
            )
            assert child.stdout is not None
            await child.stdout.readline()
            await sleep(chance.random() * 0.2)
            child.kill()
            await child.wait()
            keys = await to_thread(device.unlock)
            pending += keys.previous_master_key is not None
            for path in records:
                assert _opens(keys, path) == b"note " + path.stem.encode()
        assert pending
        assert keys.generation > first.generation
        await to_thread(device.rotate, lambda keys: rotating_client.reencrypt(tmp_path, keys))
        last = await to_thread(device.unlock)
        assert last.previous_master_key is None
        for path in records:
            rotating_client.opened(last.master_key, path)


def _opens(keys: Keys, path: Path) -> bytes:
    try:
        return rotating_client.opened(keys.master_key, path)
    except InvalidTag:
        assert keys.previous_master_key is not None
        return rotating_client.opened(keys.previous_master_key, path)
