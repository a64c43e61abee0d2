"""A transit key that is deleted and made again during a run: its rows are not to blame."""

import time

import pytest

from custody.rewrap.backoff import NotFinished
from custody.rewrap.options import Options
from custody.rewrap.runs import Run
from custody.rewrap.storing import Counts
from kek_backends.keyring import Keyring
from kek_backends.loader import load
from tests.bao_server import Bao, to_the_next_second
from tests.rewrap.kit import fill, rewrap_engine, rows_of, worker_of
from tests.servers import Database

pytestmark = pytest.mark.usefixtures("short_waits")


async def test_no_row_is_set_aside(bao: Bao, database: Database) -> None:
    key = bao.make_key()
    kek = load(f"vault:transit/{key}", environ=bao.environ(key), development=False)
    await fill(database, 6, kek=kek)
    bao.rotate(key)

    def replace(_run: Run, counts: Counts) -> None:
        if counts.done and not replaced:
            replaced.append(key)
            time.sleep(to_the_next_second())
            bao.delete_key(key)
            bao.make_key(key)
            bao.rotate(key)

    replaced: list[str] = []
    async with rewrap_engine(database) as engine:
        options = Options(batch=1, give_up_after=1.0)
        with pytest.raises(NotFinished, match=r"replaced|other key material"):
            await worker_of(engine, Keyring(kek), options, replace).run()
    await kek.close()
    rows = (await rows_of(database)).values()
    assert replaced
    assert [row["user_id"] for row in rows if row["quarantined_at"] is not None] == []
    # Those that were done before are lost with the key that is gone; nothing was added to them.
    assert {row["kek_id"] for row in rows} == {f"vault:transit/{key}:v{n}" for n in (1, 2)}
