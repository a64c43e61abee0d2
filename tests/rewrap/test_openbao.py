"""A re-wrap inside OpenBao: what its own audit log says of who decrypted what."""

import base64
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from custody.rewrap.options import Options, Verify
from kek_backends.binding import Binding
from kek_backends.keyring import Keyring
from kek_backends.transit.kek import TransitKek
from kek_backends.uri import KekUri
from tests import bao_server as bao_module
from tests.bao_server import Bao, bao_server
from tests.bench.bao_wraps import context
from tests.bindings import of
from tests.rewrap import kit
from tests.rewrap.kit import opened, rewrap, rewrap_engine, stamps, worker_of
from tests.servers import Database

pytestmark = pytest.mark.usefixtures("short_waits")

FEW_ROWS = 500
LARGEST_BATCH = 240
# With the braces of its configuration, which is a template.
_AUDIT = """
audit "file" "requests" {{
  options {{
    file_path = "FILE"
    log_raw = "true"
  }}
}}
"""


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bao, Path]]:
    """An OpenBao of these tests' own, which logs each request with all that is in it."""
    folder = tmp_path_factory.mktemp("audited")
    log = folder / "requests.log"
    with pytest.MonkeyPatch.context() as patch:
        # OpenBao takes audit devices from its configuration only.
        config = bao_module._CONFIG + _AUDIT.replace("FILE", str(log))
        patch.setattr(bao_module, "_CONFIG", config)
        with bao_server(folder) as bao:
            yield bao, log


def kek_of(bao: Bao, key: str) -> TransitKek:
    uri = KekUri.parse(f"vault:transit/{key}")
    return TransitKek.from_uri(uri, environ=bao.environ(key), development=False)


async def fill(bao: Bao, key: str, database: Database, count: int) -> dict[str, bytes]:
    """Make users whose keys OpenBao has wrapped."""
    # As the daemon that wrapped them did: what the key is, is on record, and needs no row as proof.
    keks = Keyring(kek_of(bao, key))
    await rewrap(database, keks)
    ledger = await kit.fill(database, count, kek=keks.active)
    await keks.close()
    return ledger


def requests(log: Path, begin: int, call: str) -> list[dict[str, Any]]:
    """Return the requests of a call of transit since an offset of the log."""
    with log.open() as stream:
        stream.seek(begin)
        entries = [json.loads(line) for line in stream]
    found = [entry["request"] for entry in entries if entry["type"] == "request"]
    return [request for request in found if request["path"].startswith(f"transit/{call}/")]


def context_of(user_id: str) -> str:
    """Return what a wrap of :func:`fill` is bound by."""
    return context(of(user_id))


def items_of(found: list[dict[str, Any]]) -> Counter[str]:
    """Count the contexts of the wraps that are in batches."""
    return Counter(item["context"] for request in found for item in request["data"]["batch_input"])


PROOF = {
    context(binding): 1
    for binding in (
        Binding("custody-proof-own"),
        Binding("custody-proof-other"),
        Binding("custody-proof-own", 1),
        Binding.of_data_key("custody-proof-own"),
    )
}


async def data_key_of(database: Database) -> str:
    """Return what the wrap of the data key is bound by."""
    key_id = await database.value("SELECT id FROM auth.encryption_data_keys")
    return context(Binding.of_data_key(key_id))


@pytest.mark.prove
@pytest.mark.timeout(300)
@pytest.mark.parametrize("count", [2_000, pytest.param(20_000, marks=pytest.mark.full)])
async def test_no_key_enters_this_process(
    audited: tuple[Bao, Path], database: Database, count: int
) -> None:
    bao, log = audited
    key = bao.make_key()
    ledger = await fill(bao, key, database, count)
    bao.rotate(key)
    begin = log.stat().st_size
    keks = Keyring(kek_of(bao, key))
    began = time.monotonic()
    run = await rewrap(database, keks, batch=480, verify=Verify.NONE)
    seconds = time.monotonic() - began
    assert (run.state, run.done, run.moved, run.failed) == ("done", count, 0, 0)
    # The proof that the key binds wraps to users is made of a random key, and of no user's.
    # The data key is: opened once, and once more before its new wrap is stored.
    data_key = await data_key_of(database)
    assert items_of(requests(log, begin, "decrypt")) == PROOF | {data_key: 2}
    assert len(requests(log, begin, "encrypt")) == 1
    rewraps = requests(log, begin, "rewrap")
    assert items_of(rewraps) == dict.fromkeys(map(context_of, ledger), 1) | {data_key: 1}
    assert len(rewraps) <= count // LARGEST_BATCH + 3
    assert await stamps(database) == {(f"vault:transit/{key}:v2", 3): count}
    print(f"{count / seconds:.0f} rows/s, {len(rewraps)} re-wrap calls")  # noqa: T201
    # Unwrapped by the server itself, in batches: all are what they were.
    rows = await database.fetch("SELECT user_id, wrapped_mk FROM auth.encryption_vaults")
    for at in range(0, count, LARGEST_BATCH):
        items = [
            {"ciphertext": row["wrapped_mk"], "context": context_of(row["user_id"])}
            for row in rows[at : at + LARGEST_BATCH]
        ]
        made = bao.ask("POST", f"transit/decrypt/{key}", {"batch_input": items})
        for row, result in zip(
            rows[at : at + LARGEST_BATCH], made["data"]["batch_results"], strict=True
        ):
            assert base64.b64decode(result["plaintext"]) == ledger[row["user_id"]]
    await keks.close()


@pytest.mark.prove
async def test_a_sample_is_verified(audited: tuple[Bao, Path], database: Database) -> None:
    bao, log = audited
    key = bao.make_key()
    ledger = await fill(bao, key, database, FEW_ROWS)
    bao.rotate(key)
    begin = log.stat().st_size
    keks = Keyring(kek_of(bao, key))
    run = await rewrap(database, keks, batch=100)
    assert (run.state, run.done) == ("done", FEW_ROWS)
    users = items_of(requests(log, begin, "decrypt"))
    users.subtract(PROOF | {await data_key_of(database): 2})
    # Three of each hundred, by the key check value: the old wrap is not opened.
    known = {context_of(user) for user in ledger}
    assert +users == {user: 1 for user in users if user in known}
    assert users.total() == 15
    await keks.close()


@pytest.mark.prove
async def test_a_version_that_is_made_meanwhile(bao: Bao, database: Database) -> None:
    key = bao.make_key()
    ledger = await fill(bao, key, database, 100)
    bao.rotate(key)
    keks = Keyring(kek_of(bao, key))
    await keks.active.refresh()
    await keks.active.prove()
    moved: list[str] = []

    def move(_run: object, _counts: object) -> None:
        if not moved:
            bao.rotate(key)
            moved.append(key)

    async with rewrap_engine(database) as engine:
        run = await worker_of(engine, keks, Options(batch=20), move).run()
    assert (run.state, run.target) == ("done", f"vault:transit/{key}:v3")
    assert await stamps(database) == {(f"vault:transit/{key}:v3", 3): 100}
    assert await opened(database, keks) == ledger
    await keks.close()
