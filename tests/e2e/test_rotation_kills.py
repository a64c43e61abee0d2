"""kill -9 in the middle of a rotation, of client and daemon: after it every record opens.

``CUSTODY_TEST_KILLS=200`` says how many kills there are; else there are few.
"""

import os
import sys
import threading
from asyncio import create_subprocess_exec, sleep, to_thread
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from signal import SIGKILL

import pytest
from cryptography.exceptions import InvalidTag

from custody.client import CustodyError, Keys, Vault
from custody.http.routes import BASE_PATH
from tests.db.command import custody
from tests.e2e import rotating_client
from tests.leaks import remember
from tests.ports import free_port
from tests.servers import ROOT, Daemon, Database, daemon_beside, daemon_here
from tests.tokens import Issuer

ASKED = os.environ.get("CUSTODY_TEST_KILLS")
CLIENT_KILLS, DAEMON_KILLS = (int(ASKED), int(ASKED)) if ASKED else (20, 6)
# So few that most kills meet a request, and not the work between two.
FEW = 20
IS_PENDING = "SELECT previous_wrapped_mk IS NOT NULL FROM auth.encryption_vaults"
BEGUN = (
    "SELECT count(*) FROM auth.encryption_vault_audit"
    " WHERE action = $1 AND context IS NULL AND status = 200"
)

pytestmark = [pytest.mark.prove, pytest.mark.timeout(900)]


def text_of(path: Path) -> bytes:
    return b"note " + path.stem.encode()


def make_records(folder: Path, key: bytes, number: int) -> list[Path]:
    records = [folder / f"{one}.record" for one in range(number)]
    for path in records:
        rotating_client.write(key, path, text_of(path))
    return records


def opened(keys: Keys, path: Path) -> bytes:
    """Open a record with the key that fits; the one before is there where it is needed."""
    try:
        return rotating_client.opened(keys.master_key, path)
    except InvalidTag:
        assert keys.previous_master_key is not None
        return rotating_client.opened(keys.previous_master_key, path)


async def test_a_client_that_is_killed_loses_nothing(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    chance = Random(19)  # noqa: S311 - when to kill is no secret
    async with daemon_here(database, issuer, tmp_path) as daemon:
        address = daemon.base.removesuffix(BASE_PATH)
        token = remember(issuer.token("carol"))
        device = rotating_client.vault(address, token, tmp_path)
        first = await to_thread(device.unlock)
        records = make_records(tmp_path, first.master_key, rotating_client.RECORDS)
        pending = 0
        for _ in range(CLIENT_KILLS):
            child = await create_subprocess_exec(
                *(sys.executable, "-m", rotating_client.__name__, address, token, tmp_path),
                cwd=ROOT,
                stdout=PIPE,
            )
            assert child.stdout is not None
            # At some record of this rotation or of the one after it, or between the two.
            await child.stdout.readexactly(chance.randint(1, 2 * rotating_client.RECORDS))
            await sleep(chance.random() * 0.01)
            child.kill()
            await child.wait()
            keys = await to_thread(device.unlock)
            pending += keys.previous_master_key is not None
            for path in records:
                assert opened(keys, path) == text_of(path)
        print(f"{CLIENT_KILLS} kills, {pending} in mid-rotation")  # noqa: T201
        assert pending
        assert keys.generation > first.generation
        await to_thread(device.rotate, lambda keys: rotating_client.reencrypt(tmp_path, keys))
        last = await to_thread(device.unlock)
        assert last.previous_master_key is None
        for path in records:
            rotating_client.opened(last.master_key, path)


class Rotator:
    """A device that rotates again and again, whatever becomes of the daemon.

    Args:
        device: the vault.
        folder: of the records.
    """

    def __init__(self, device: Vault, folder: Path) -> None:
        self._device = device
        self._folder = folder
        self._ends = threading.Event()
        self.rotations = 0
        self.failures = 0
        self.problem: BaseException | None = None

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Rotate for the length of the block, and then to the end of a rotation."""
        self._ends.clear()
        worker = threading.Thread(target=self._work, daemon=True)
        worker.start()
        try:
            yield
        finally:
            self._ends.set()
            worker.join(60)
            assert not worker.is_alive()

    def _work(self) -> None:
        try:
            while True:
                try:
                    self._device.rotate(lambda keys: rotating_client.reencrypt(self._folder, keys))
                    self.rotations += 1
                    if self._ends.is_set():
                        return
                except CustodyError:
                    self.failures += 1
        except Exception as error:  # noqa: BLE001 - the test shows it
            self.problem = error


async def test_a_daemon_that_is_killed_loses_nothing(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    chance = Random(20)  # noqa: S311
    address = f"127.0.0.1:{free_port()}"
    device = rotating_client.vault(f"http://{address}", remember(issuer.token("dave")), tmp_path)
    rotator = Rotator(device, tmp_path)
    pending = 0
    with ExitStack() as daemons:

        def start() -> Daemon:
            beside = daemon_beside(database, issuer, tmp_path, LISTEN=address)
            return daemons.enter_context(beside)

        daemon = await to_thread(start)
        first = await to_thread(device.unlock)
        records = make_records(tmp_path, first.master_key, FEW)
        for _ in range(DAEMON_KILLS):
            with rotator.at_work():
                await sleep(chance.random() * 0.3)
                daemon.running.send_signal(SIGKILL)
                assert await daemon.ended() == -SIGKILL
                pending += await database.value(IS_PENDING)
                daemon = await to_thread(start)
            # The rotation went on to its end.
            assert rotator.problem is None
            keys = await to_thread(device.unlock)
            assert keys.previous_master_key is None
            for path in records:
                assert rotating_client.opened(keys.master_key, path) == text_of(path)
        done = await database.value(BEGUN, "rotation_end")
        print(f"{DAEMON_KILLS} kills, {pending} in mid-rotation, {done} rotations")  # noqa: T201
        # No answer came of some, but each that was begun is a generation, and was ended.
        assert keys.generation - first.generation == await database.value(BEGUN, "rotation_begin")
        assert keys.generation - first.generation == done >= DAEMON_KILLS
        environ = {**daemon.settings, "CUSTODY_OWNER_DATABASE_URL": database.url("custody_owner")}
        for words in (("audit", "verify"), ("verify", "--all")):
            said = await to_thread(custody, environ, *words)
            assert said.code == 0, (words, said.out, said.err)
