"""The composition root: settings → database → keyring → vault → HTTP, and the life of it all."""

import asyncio
import contextlib
import gc
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
import structlog
from aiohttp import web
from yarl import URL

from custody.auth.jwk import JwksError
from custody.auth.jwks import JwksCache
from custody.auth.sources import file_source, http_source
from custody.auth.tokens import TokenVerifier
from custody.db.engine import RESERVED_CONNECTIONS, Dsn, create_engine
from custody.http.admin import build_admin
from custody.http.client_address import TrustedProxies
from custody.http.cors import Cors
from custody.http.listeners import listen, tls_context
from custody.http.middleware import Outermost
from custody.http.openapi import document
from custody.http.rate import RateLimit
from custody.http.server import Frontend, Runner, build_application
from custody.ops.health import Health
from custody.ops.keks import reach, watch_kek
from custody.ops.metrics import Metrics
from custody.ops.rewrapping import Rewrapping
from custody.settings import ConfigurationError, Settings
from custody.vault.keys import MasterKeys
from custody.vault.registry import KekRegistry
from custody.vault.rows import VaultRows
from custody.vault.service import VaultService
from kek_backends.errors import Misconfigured
from kek_backends.keyring import Keyring
from kek_backends.loader import load_keyring

T = TypeVar("T")

_REWRAP_CONNECTIONS = 4

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a running daemon listens, as clients write it."""

    vault: str
    admin: str


async def serve(
    settings: Settings,
    environ: Mapping[str, str],
    started: Callable[[Addresses], Awaitable[None]] | None = None,
) -> None:
    """Run the daemon until SIGTERM or SIGINT, then drain and close.

    Args:
        settings: all settings.
        environ: the variables that KEK backends may read.
        started: called when the listeners are open.

    Raises:
        ConfigurationError: an unsafe or incomplete configuration, or an unsafe database.
        ListenError: an address can't be listened on.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_stray_error)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(settings, environ) as (addresses, watch):
        log.info("serving", vault=addresses.vault, admin=addresses.admin)
        # What boot has made lives to the end: looking through it again and again for garbage, which
        # each failure leaves a little of, would hold up everybody for a tenth of a second.
        gc.collect()
        gc.freeze()
        if started is not None:
            await started(addresses)
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({stopping, watch}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if watch.done():
            watch.result()
        log.info("draining")
    log.info("stopped")


@asynccontextmanager
async def running(
    settings: Settings, environ: Mapping[str, str]
) -> AsyncIterator[tuple[Addresses, "asyncio.Task[None]"]]:
    """Run the daemon inside the block, and drain it at its end.

    Yields:
        Where it listens, and the task that watches its health; that one ends only by raising
        ConfigurationError.
    """
    database_url = _require(settings.database_url, "DATABASE_URL")
    issuer = _require(settings.jwt_issuer, "JWT_ISSUER")
    tls = tls_context(settings.tls_cert, settings.tls_key)
    try:
        keyring = load_keyring(
            settings.kek, settings.old_keks, environ=environ, development=settings.development
        )
    except Misconfigured as error:
        raise ConfigurationError(str(error)) from None
    metrics = Metrics()
    cors = Cors(settings.cors_origins)
    async with contextlib.AsyncExitStack() as stack:
        jwks = await _open_jwks(settings, stack)
        dsn = Dsn(database_url.get_secret_value())
        engine, reserve = create_engine(dsn), create_engine(dsn, pool_size=RESERVED_CONNECTIONS)
        stack.push_async_callback(engine.dispose)
        stack.push_async_callback(reserve.dispose)
        stack.push_async_callback(keyring.close)
        await reach(keyring)
        registry = KekRegistry(engine, keyring)
        health = Health(engine, keyring, registry, jwks)
        await health.judge()
        frontend = Frontend(
            vault=VaultService(VaultRows(engine, reserve), MasterKeys(keyring, registry.admit)),
            verifier=TokenVerifier(jwks=jwks, issuer=issuer, audience=settings.jwt_audience),
            health=health,
            proxies=TrustedProxies(settings.trusted_proxies),
            limit=RateLimit(settings.rate_limit),
        )
        outermost = Outermost(cors, metrics, health)
        app = build_application(frontend, cors, outermost)
        if settings.development:
            app.router.add_get("/openapi.json", _show_document)
        admin_runner = await _set_up(
            web.AppRunner(build_admin(health, metrics), access_log=None), stack
        )
        runner = await _set_up(Runner(app), stack)
        # What was pushed last is closed first: the vault drains while the admin listener still
        # says why it is not ready, and the database outlives both.
        admin = await listen(admin_runner, settings.admin_listen, "CUSTODY_ADMIN_LISTEN")
        vault = await listen(runner, settings.listen, "CUSTODY_LISTEN", tls)
        watch = asyncio.create_task(health.watch())
        stack.callback(watch.cancel)
        for backend in keyring:
            stack.callback(asyncio.create_task(watch_kek(backend)).cancel)
        stack.push_async_callback(health.forget)
        await _start_rewrapping(settings, keyring, metrics, stack)
        try:
            yield Addresses(vault=vault, admin=admin), watch
        finally:
            health.draining = True
            for site in runner.sites:
                await site.stop()
            await outermost.drain()


async def _start_rewrapping(
    settings: Settings, keyring: Keyring, metrics: Metrics, stack: contextlib.AsyncExitStack
) -> None:
    """Start the re-wrap worker, where it has a database role and an interval."""
    if settings.rewrap_database_url is None or not settings.rewrap_interval:
        return
    engine = create_engine(
        Dsn(settings.rewrap_database_url.get_secret_value()),
        pool_size=_REWRAP_CONNECTIONS,
        variable="CUSTODY_REWRAP_DATABASE_URL",
    )
    stack.push_async_callback(engine.dispose)
    worker = Rewrapping(engine, keyring, settings.rewrap_interval, metrics)
    stack.push_async_callback(worker.stop, asyncio.create_task(worker.work()))


async def _set_up(runner: web.AppRunner, stack: contextlib.AsyncExitStack) -> web.AppRunner:
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    return runner


async def _open_jwks(settings: Settings, stack: contextlib.AsyncExitStack) -> JwksCache:
    """Build the cache of the issuer's keys; a file must be right at once, a URL may be down."""
    if settings.jwks_file is not None:
        jwks = JwksCache(fetch=file_source(settings.jwks_file), source=str(settings.jwks_file))
        stack.push_async_callback(jwks.close)
        try:
            await jwks.refresh()
        except JwksError as error:
            raise ConfigurationError(f"CUSTODY_JWKS_FILE: {error}") from None
        return jwks
    if settings.jwks_url is None:
        issuer = settings.jwt_issuer or "https://ISSUER"
        raise ConfigurationError(
            "CUSTODY_JWKS_URL or CUSTODY_JWKS_FILE must be set: where the issuer's keys are, for "
            f"example {issuer.rstrip('/')}/api/auth/jwks"
        )
    session = await stack.enter_async_context(aiohttp.ClientSession())
    # What is logged of the URL has no password or query.
    name = str(URL(settings.jwks_url).with_user(None).with_query(None))
    jwks = JwksCache(fetch=http_source(session, settings.jwks_url), source=name)
    stack.push_async_callback(jwks.close)
    with contextlib.suppress(JwksError):  # logged by the cache; requests try again
        await jwks.refresh()
    return jwks


def _log_stray_error(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what nobody waited for, by type: asyncio would show its text and its task's arguments."""
    error = context.get("exception")
    # A connection that was thrown away leaves such an error behind: nothing is wrong then.
    expected = type(error).__module__.startswith("asyncpg.") or isinstance(error, OSError)
    (log.debug if expected else log.error)(
        "stray_error", what=context["message"], error=type(error).__name__
    )


async def _show_document(_request: web.Request) -> web.Response:
    return web.json_response(document())


def _require(value: T | None, name: str) -> T:
    if value is None:
        what = Settings.model_fields[name.lower()].description
        raise ConfigurationError(f"CUSTODY_{name} must be set: {what}")
    return value
