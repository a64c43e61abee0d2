"""Puts what the parts of a daemon say of themselves into the metrics; asks nobody else.

At each scrape, and every few seconds: of several processes on a listener only one is scraped, and
it shows what the others have put last.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.auth.jwks import JwksCache
from custody.datakeys.ring import Ring
from custody.db.engine import pool_use
from custody.keks.legacy import Door
from custody.ops.metrics import Metrics
from custody.sockets.connections import Connections
from kek_backends.keyring import Keyring

_AGAIN_SECONDS = 5.0


class Gauges:
    """What is shown as it is at this moment.

    Args:
        metrics: show it.
        keyring: the configured KEKs.
        ring: the data keys.
        door: for rows that are not sealed.
        jwks: the issuer's keys.
        pools: by name.
    """

    def __init__(
        self,
        metrics: Metrics,
        keyring: Keyring,
        ring: Ring,
        door: Door,
        jwks: JwksCache,
        *,
        pools: Mapping[str, AsyncEngine],
    ) -> None:
        self._metrics = metrics
        self._keyring = keyring
        self._ring = ring
        self._door = door
        self._jwks = jwks
        self._pools = pools
        self._listeners: dict[str, Connections] = {}

    def show(self) -> None:
        """Show all of it now."""
        metrics, now = self._metrics, time.time()
        age = self._ring.age
        metrics.keks.show_data_key(
            self._ring.seconds_left,
            0.0 if age is None else now - age,
            is_coasting=self._ring.is_coasting,
        )
        metrics.keks.show_breakers({kek.uri.key_text: kek.is_not_asked for kek in self._keyring})
        fetched = self._jwks.age
        metrics.tokens.show_jwks(0.0 if fetched is None else now - fetched)
        if self._door.unsealed is not None:
            metrics.readiness.show_unsealed(self._door.unsealed)
        for name, engine in self._pools.items():
            metrics.database.show_pool(name, *pool_use(engine))
        for listener, connections in self._listeners.items():
            metrics.connections.show(listener, connections.number, connections.bound)

    @asynccontextmanager
    async def shown(self, **listeners: Connections) -> AsyncIterator[None]:
        """Show it again and again for the length of the block.

        Args:
            listeners: whose connections are shown, too.
        """
        self._listeners = listeners
        task = asyncio.create_task(self._keep_showing())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _keep_showing(self) -> None:
        while True:
            self.show()
            await asyncio.sleep(_AGAIN_SECONDS)
