"""One look at the data keys as a process of its own, which may be told to kill itself on the way.

``python -m tests.db.first_data_key N``: it dies at the Nth step; 0 is never. Steps lie before and
behind all that it asks a KEK or the database, and within COMMIT. It prints how many there were.
With the path of a file behind it, it says that it is ready, and waits until there is that file.
"""

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

from custody.datakeys import check, records, ring
from custody.datakeys.check import DataKeyCheck
from custody.datakeys.ring import Ring
from custody.datakeys.sealer import Sealer
from custody.db import scope
from custody.db.engine import Dsn, open_engine
from custody.db.errors import DatabaseError
from custody.keks.keks import Keks, loaded_keks
from custody.settings import load
from kek_backends.base import KekBackend
from kek_backends.env import EnvKek
from kek_backends.errors import Transient
from tests.eventually import soon
from tests.kek.patience import CALL_SECONDS, be_patient

READY = "ready"
_TRIES = 20
_SECONDS = 200


class Steps:
    """Counts steps, and ends the process at one of them."""

    def __init__(self, last: int) -> None:
        self.taken = 0
        self._last = last

    def take(self) -> None:
        """Take a step."""
        self.taken += 1
        if self.taken == self._last:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: Any, *names: str) -> None:
        """Have a step before each call, one when it has begun to wait, and one behind it."""
        for name in names:
            setattr(owner, name, self._stepping(getattr(owner, name)))

    def _stepping(self, real: Any) -> Any:
        async def call(*arguments: Any, **options: Any) -> Any:
            self.take()
            waiting = asyncio.create_task(real(*arguments, **options))
            await asyncio.sleep(0)
            self.take()
            found = await waiting
            self.take()
            return found

        return call


async def get_ready(backend: KekBackend) -> None:
    """Have a KEK connected: while a hundred processes start on two cores, that takes a while."""
    for _ in range(_TRIES):
        with contextlib.suppress(Transient):
            await backend.refresh()
            return
    raise TimeoutError


async def main(steps: Steps, go: Path | None) -> None:
    """Look once."""
    # Calls are counted: on a busy machine one that is given up, and made again, would be two.
    be_patient(setattr)
    records._UNWRAP_SECONDS = CALL_SECONDS
    settings = load(os.environ)
    assert settings.database_url is not None
    async with (
        loaded_keks(settings, os.environ) as keyring,
        open_engine(Dsn(settings.database_url.get_secret_value()), pool_size=1) as engine,
    ):
        for backend in keyring:
            await get_ready(backend)
        if go is not None:
            print(READY, flush=True)  # noqa: T201
            soon(go.exists, _SECONDS)
        keys = Ring(engine, keyring, settings.data_key_ttl, settings.data_key_max_age)
        look = DataKeyCheck(engine, keyring, keys, Keks(keyring, engine, "a child", Sealer(keys)))
        steps.around(ring, "read_records")
        steps.around(check, "add_record")
        steps.around(Keks, "compare", "record")
        steps.around(EnvKek, "wrap", "unwrap")
        steps.around(scope, "commit")
        # A hundred ask one database, and record the same KEKs one by one: as a daemon does, look
        # again where it was busy.
        for _ in range(_TRIES):
            with contextlib.suppress(DatabaseError):
                await look.run()
                break
        assert keys.current is not None
    print(steps.taken)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(Steps(int(sys.argv[1])), Path(sys.argv[2]) if sys.argv[2:] else None))
