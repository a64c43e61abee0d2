"""The admin listener, with the console on it."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.console.history import History
from custody.console.reading import Reader, Sources
from custody.console.routes import Console
from custody.datakeys.ring import Ring
from custody.db.engine import open_engine
from custody.http.access import Access
from custody.http.admin import admin_server
from custody.http.server import HttpServer
from custody.ops.doctor import examine
from custody.ops.gauges import Gauges
from custody.ops.health import Health
from custody.ops.metrics import Metrics
from custody.settings import Settings
from custody.sockets.addresses import Listener
from kek_backends.keyring import Keyring


@asynccontextmanager
async def open_admin(
    settings: Settings,
    environ: Mapping[str, str],
    listeners: Sequence[Listener],
    *,
    health: Health,
    metrics: Metrics,
    gauges: Gauges,
    keyring: Keyring,
    ring: Ring,
    engine: AsyncEngine,
) -> AsyncIterator[HttpServer]:
    """Serve what operators ask for inside the block; its end ends the console's streams first.

    The console has a connection of its own for rows and runs: while all rows are counted, requests
    and the worker have theirs to themselves.

    Args:
        settings: all settings.
        environ: the variables that the doctor reads.
        listeners: at least one.
        health: asked by /readyz.
        metrics: shown by /metrics.
        gauges: brought up to date for that.
        keyring: what users' keys are wrapped under.
        ring: the data keys.
        engine: connections of the role custody_app.
    """
    async with AsyncExitStack() as stack:
        rewrap: AsyncEngine | None = None
        if settings.rewrap_database_url is not None:
            dsn = settings.dsn(settings.rewrap_database_url)
            variable = "CUSTODY_REWRAP_DATABASE_URL"
            opened = open_engine(dsn, pool_size=1, variable=variable)
            rewrap = await stack.enter_async_context(opened)
        history = History(metrics.collect)
        await stack.enter_async_context(history.kept())
        sources = Sources(
            health=health,
            keyring=keyring,
            ring=ring,
            history=history,
            engine=engine,
            rewrap=rewrap,
            examine=partial(examine, environ),
            seals=settings.audit_seal_interval > 0,
        )
        access = Access(settings.admin_token)
        console = Console(Reader(sources), access)
        server = await stack.enter_async_context(
            admin_server(health, metrics, gauges, listeners, access=access, more=console.table())
        )
        await stack.enter_async_context(console.open())
        yield server
