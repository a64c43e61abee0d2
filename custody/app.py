"""The composition root: settings → database → keyring → vault → HTTP, and the life of it all."""

import asyncio
import contextlib
import gc
import json
import signal
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import cast

import aiohttp
import structlog
from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.auth.http_source import http_source, name_of
from custody.auth.jwk import JwksError
from custody.auth.jwks import JwksCache
from custody.auth.sources import Source, file_source
from custody.auth.tokens import TokenVerifier
from custody.db.engine import POOL_SIZE, RESERVED_CONNECTIONS, Dsn, create_engine
from custody.db.errors import DatabaseError, Refused
from custody.http.admin import build_admin
from custody.http.client_address import TrustedProxies
from custody.http.cors import Cors
from custody.http.middleware import TopHandler
from custody.http.openapi import document
from custody.http.rate import RateLimit
from custody.http.response import Answer
from custody.http.server import SHUTDOWN_SECONDS, Frontend, Runner, build_application
from custody.keks.registry import KekRegistry
from custody.keks.watch import KekWatch, probe_keks
from custody.ops import preflight
from custody.ops.health import Health
from custody.ops.heartbeat import Heartbeat
from custody.ops.metrics import Metrics
from custody.ops.notify import Notifier
from custody.ops.report import Report, describe
from custody.ops.stray_errors import log_stray_error
from custody.reload import Reload, Reloadable
from custody.rewrap.background import BackgroundRewrap
from custody.settings import ConfigurationError, Settings
from custody.sockets.addresses import Listener
from custody.sockets.listeners import Listeners, open_listeners, tls_context
from custody.sockets.site import Site
from custody.vault.keys import MasterKeys
from custody.vault.rows import VaultRows
from custody.vault.service import VaultService
from kek_backends.errors import Misconfigured
from kek_backends.keyring import Keyring
from kek_backends.loader import load_keyring

_REWRAP_CONNECTIONS = 4
# Objects between two looks for garbage: some requests have 700, the default, at any moment, so it
# would look through what is in use and find nothing.
_GARBAGE = 10_000

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a running daemon listens, as clients write it."""

    vault: str
    admin: str


@dataclass(frozen=True, slots=True)
class Running:
    """A daemon that runs.

    Args:
        addresses: where it listens.
        watch: watches its health; ends only by raising ConfigurationError.
        report: tells the service manager how it is.
    """

    addresses: Addresses
    watch: "asyncio.Task[None]"
    report: Report


async def serve(
    settings: Settings,
    environ: Mapping[str, str],
    *,
    listeners: Listeners | None = None,
    notifier: Notifier | None = None,
    rewraps: bool = True,
    started: Callable[[Addresses], None] | None = None,
) -> None:
    """Run the daemon until SIGTERM or SIGINT, then drain and close. SIGHUP makes it reload.

    In development SIGHUP ends it, too: it means that the terminal is gone.

    Args:
        settings: all settings.
        environ: the variables that KEK backends may read.
        listeners: what to listen on; None: what the settings say.
        notifier: told how we are; None: nobody is.
        rewraps: whether this process has a re-wrap worker, where there is a role for it.
        started: called when the daemon answers.

    Raises:
        ConfigurationError: an unsafe or incomplete configuration, or an unsafe database.
        ListenError: an address can't be listened on.
    """
    stop, hangup = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(log_stray_error)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, stop.set if settings.development else hangup.set)
    notifier = notifier or Notifier()
    async with running(settings, environ, listeners, rewraps=rewraps) as daemon:
        log.info("serving", vault=daemon.addresses.vault, admin=daemon.addresses.admin)
        # What boot has made lives to the end: looking through it again and again for garbage, which
        # each failure leaves a little of, would hold up everybody for a tenth of a second.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_GARBAGE)
        if started is not None:
            started(daemon.addresses)
        stopping = asyncio.create_task(stop.wait())
        reporting = asyncio.create_task(daemon.report.keep_telling(notifier, hangup))
        await asyncio.wait({stopping, daemon.watch, reporting}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        reporting.cancel()
        for task in (daemon.watch, reporting):
            if task.done() and not task.cancelled():
                task.result()
        notifier.stopping()
        log.info("draining")
    log.info("stopped")


@asynccontextmanager
async def running(
    settings: Settings,
    environ: Mapping[str, str],
    listeners: Listeners | None = None,
    *,
    rewraps: bool = True,
) -> AsyncIterator[Running]:
    """Run the daemon inside the block, and drain it at its end.

    Args:
        settings: all settings.
        environ: the variables that KEK backends may read.
        listeners: what to listen on; None: what the settings say.
        rewraps: as for :func:`serve`.
    """
    dsn, issuer = Dsn(preflight.database_url(settings)), preflight.jwt_issuer(settings)
    tls = tls_context(settings.tls_cert, settings.tls_key)
    keyring = _load_keyring(settings, environ)
    metrics = Metrics()
    cors = Cors(settings.cors_origins)
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        source = partial(_jwks_source, session)
        jwks = await _open_jwks(settings, source, stack)
        engine, reserve, fresh = (
            _open_engine(dsn, size, stack) for size in (POOL_SIZE, RESERVED_CONNECTIONS, 1)
        )
        stack.push_async_callback(keyring.close)
        await probe_keks(keyring)
        registry = KekRegistry(engine, keyring)
        health = Health(engine, keyring, registry, jwks)
        await health.check()
        rewrapping = None
        if rewraps:
            rewrapping = await _open_rewrapping(settings, engine, keyring, metrics, stack)
        rows = VaultRows(engine, reserve)
        stack.push_async_callback(rows.close)
        frontend = Frontend(
            vault=VaultService(rows, MasterKeys(keyring, registry.admit)),
            verifier=TokenVerifier(jwks=jwks, issuer=issuer, audience=settings.jwt_audience),
            health=health,
            proxies=TrustedProxies(settings.trusted_proxies),
            limit=RateLimit(settings.rate_limit),
        )
        top_handler = TopHandler(cors, metrics, health)
        app = build_application(frontend)
        if settings.development:
            app.router.add_get("/openapi.json", _show_document)
        listeners = listeners or open_listeners(settings, {})
        stack.callback(listeners.close)
        admin_runner = await _set_up(
            web.AppRunner(
                build_admin(health, metrics), access_log=None, shutdown_timeout=SHUTDOWN_SECONDS
            ),
            stack,
        )
        runner = await _set_up(Runner(app, top_handler, frontend), stack)
        # What was pushed last is closed first: the vault drains while the admin listener still
        # says why it is not ready, and the database outlives both.
        admin = _open_site(admin_runner, listeners.admin, stack)
        vault = _open_site(runner, listeners.vault, stack, tls)
        health_watch = asyncio.create_task(health.watch())
        stack.callback(health_watch.cancel)
        kek_watch = KekWatch()
        kek_watch.follow(keyring)
        stack.push_async_callback(kek_watch.stop)
        stack.push_async_callback(health.forget)
        if rewrapping is not None:
            stack.push_async_callback(rewrapping.stop, asyncio.create_task(rewrapping.work()))
        parts = Reloadable(frontend, cors, tls, jwks, source, engine, keyring, kek_watch)
        reload = Reload(settings, environ, parts)
        stack.push_async_callback(reload.close)

        def status() -> str:
            return describe(vault.address, keyring, health, rewrapping, reload.problem)

        report = Report(health, Heartbeat(engine, fresh), reload.run, status)
        try:
            yield Running(Addresses(vault=vault.address, admin=admin.address), health_watch, report)
        finally:
            await _drain(health, vault, top_handler)


def _open_site(
    runner: web.AppRunner,
    listeners: Sequence[Listener],
    stack: contextlib.AsyncExitStack,
    tls: ssl.SSLContext | None = None,
) -> Site:
    site = Site(cast("web.Server", runner.server), listeners, tls)  # it was set up
    stack.push_async_callback(site.stop)
    return site


async def _drain(health: Health, site: Site, top_handler: TopHandler) -> None:
    """Take no more connections, and answer what is under way."""
    health.draining = True
    await site.stop()
    await top_handler.drain()


def _load_keyring(settings: Settings, environ: Mapping[str, str]) -> Keyring:
    try:
        return load_keyring(
            settings.kek, settings.old_keks, environ=environ, development=settings.development
        )
    except Misconfigured as error:
        raise ConfigurationError(str(error)) from None


def _open_engine(dsn: Dsn, pool_size: int, stack: contextlib.AsyncExitStack) -> AsyncEngine:
    engine = create_engine(dsn, pool_size=pool_size)
    stack.push_async_callback(engine.dispose)
    return engine


async def _open_rewrapping(
    settings: Settings,
    app: AsyncEngine,
    keyring: Keyring,
    metrics: Metrics,
    stack: contextlib.AsyncExitStack,
) -> BackgroundRewrap | None:
    """Return the re-wrap worker, where it has a database role and an interval.

    Raises:
        ConfigurationError: the role is not for this work.
    """
    if settings.rewrap_database_url is None or not settings.rewrap_interval:
        return None
    engine = create_engine(
        Dsn(settings.rewrap_database_url.get_secret_value()),
        pool_size=_REWRAP_CONNECTIONS,
        variable="CUSTODY_REWRAP_DATABASE_URL",
    )
    stack.push_async_callback(engine.dispose)
    worker = BackgroundRewrap(engine, app, keyring, settings.rewrap_interval, metrics)
    try:
        await worker.check_role()
    except Refused as error:
        raise ConfigurationError(str(error)) from None
    except DatabaseError as error:
        log.warning("rewrap_waits", reason=str(error))
    return worker


async def _set_up(runner: web.AppRunner, stack: contextlib.AsyncExitStack) -> web.AppRunner:
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    return runner


async def _open_jwks(
    settings: Settings, source: Callable[[Settings], Source], stack: contextlib.AsyncExitStack
) -> JwksCache:
    """Build the cache of the issuer's keys; a file must be right at once, a URL may be down."""
    fetch, name = source(settings)
    jwks = JwksCache(fetch=fetch, source=name)
    stack.push_async_callback(jwks.close)
    try:
        await jwks.refresh()
    except JwksError as error:
        if settings.jwks_file is not None:
            raise ConfigurationError(f"CUSTODY_JWKS_FILE: {error}") from None
        # Logged by the cache; requests try again.
    return jwks


def _jwks_source(session: aiohttp.ClientSession, settings: Settings) -> Source:
    if settings.jwks_file is not None:
        return file_source(settings.jwks_file), str(settings.jwks_file)
    url = preflight.jwks_url(settings)
    return http_source(session, url), name_of(url)


async def _show_document(_request: web.Request) -> Answer:
    return Answer(json.dumps(document()).encode())
