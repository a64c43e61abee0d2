"""custody serve."""

import asyncio
import os
import socket
import sys
from collections.abc import Mapping

import structlog
import uvloop

from custody import app
from custody.cli.commands.startup import prepare
from custody.db.dsn import parse
from custody.ops import preflight
from custody.ops.notify import Notifier, watchdog_seconds
from custody.ops.process import end_with_parent
from custody.settings import Settings
from custody.sockets.listeners import Listeners, adopt, open_listeners, take_handed_over
from custody.supervisor import Supervisor

# Of the service manager, for the process that it has started alone.
_FOR_THIS_PROCESS = frozenset(
    {
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
        "LISTEN_PID",
        "NOTIFY_SOCKET",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
    }
)

log = structlog.get_logger()


def serve() -> None:
    """Run the daemon. SIGTERM ends it, SIGHUP makes it read its files again."""
    settings = prepare()
    preflight.check(settings, os.environ)
    _name_ignored(settings)
    notifier = Notifier.from_environ(os.environ, os.getpid())
    listeners = open_listeners(settings, take_handed_over(os.environ, os.getpid()))
    if settings.workers == 1:
        uvloop.run(app.serve(settings, os.environ, listeners=listeners, notifier=notifier))
        return
    environ = {name: os.environ[name] for name in os.environ.keys() - _FOR_THIS_PROCESS}
    sys.exit(asyncio.run(_supervise(settings, environ, listeners, notifier)))


def serve_process(
    number: int, parent: int, vault: tuple[int, ...], admin: tuple[int, ...], notify: int
) -> None:
    """Run one of several processes, on sockets that `custody serve` hands over."""
    end_with_parent(parent)
    settings = prepare()
    listeners = Listeners(
        vault=tuple(adopt(one) for one in vault), admin=tuple(adopt(one) for one in admin)
    )
    channel = socket.socket(fileno=notify)
    channel.set_inheritable(False)
    notifier = Notifier(channel, watchdog_seconds(os.environ, os.getpid()))
    # One process re-wraps: more of them would share the same work.
    uvloop.run(
        app.serve(settings, os.environ, listeners=listeners, notifier=notifier, rewraps=number == 0)
    )


def _name_ignored(settings: Settings) -> None:
    """Log which parameters of the database URLs change nothing."""
    urls = {
        "CUSTODY_DATABASE_URL": settings.database_url,
        "CUSTODY_REWRAP_DATABASE_URL": settings.rewrap_database_url,
    }
    for name, url in urls.items():
        if url is not None and (ignored := parse(url.get_secret_value()).ignored):
            log.warning("url_parameters_ignored", setting=name, names=ignored)


async def _supervise(
    settings: Settings, environ: Mapping[str, str], listeners: Listeners, notifier: Notifier
) -> int:
    try:
        return await Supervisor(settings.workers, environ, listeners, notifier).run()
    finally:
        listeners.close()
