"""The composition root: settings → database → keyring → vault → HTTP, and the life of it all."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import aiohttp
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.audit.events import event_id
from custody.audit.row_seal import RowSeals
from custody.audit.sealer import AuditSealer
from custody.auth.http_source import http_source, name_of
from custody.auth.jwk import NO_KEY, JwksError
from custody.auth.jwks import JwksCache
from custody.auth.sources import Source, file_source
from custody.auth.tokens import TokenVerifier
from custody.console.listener import open_admin
from custody.datakeys.envelope import UserKeyring
from custody.datakeys.ring import Ring
from custody.datakeys.sealer import Sealer
from custody.db.engine import RESERVED_CONNECTIONS, Dsn, open_engine
from custody.db.erasure_record import RecordError
from custody.db.erasures import Erasures
from custody.db.errors import DatabaseError, Refused
from custody.http.client_address import TrustedProxies
from custody.http.cors import Cors
from custody.http.frontend import Frontend, vault_server
from custody.http.rate import RateLimit
from custody.http.router import Table
from custody.http.server import HttpServer
from custody.http.shares import Shares
from custody.keks.keks import Keks, loaded_keks
from custody.keks.legacy import Door
from custody.keks.second import second_root
from custody.ops import preflight, tracing
from custody.ops.ages import Ages
from custody.ops.alarms import Alarms
from custody.ops.garbage import look_seldom
from custody.ops.gauges import Gauges
from custody.ops.health import Health
from custody.ops.heartbeat import Heartbeat
from custody.ops.metrics import Metrics
from custody.ops.notify import Notifier
from custody.ops.refused_tokens import RefusedTokens
from custody.ops.report import Report, describe
from custody.ops.stray_errors import log_stray_error
from custody.reload import Reload, Reloadable
from custody.rewrap.background import BackgroundRewrap, RewrapMetrics
from custody.settings import ConfigurationError, Settings
from custody.settings.types import Reset
from custody.sockets.listeners import Listeners, open_listeners, tls_context
from custody.vault.brake import Brake
from custody.vault.canaries import Canaries
from custody.vault.keys import MasterKeys
from custody.vault.rows import VaultRows
from custody.vault.seals import Seals
from custody.vault.service import VaultService
from kek_backends.base import KekBackend
from kek_backends.keyring import Keyring

_REWRAP_CONNECTIONS = 4

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
        report: to the service manager.
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
    more: Table | None = None,
) -> None:
    """Run the daemon until SIGTERM or SIGINT, then drain and close. SIGHUP makes it reload.

    In development SIGHUP ends it, too: it means that the terminal is gone.

    Args:
        settings: all settings.
        environ: the variables that KEK backends may read.
        listeners: what to listen on; None: what the settings say.
        notifier: to the service manager; None: there is none.
        rewraps: whether this process has a re-wrap worker, where there is a role for it.
        started: called when the daemon answers.
        more: endpoints beside the vault's, on its listener: the page of ``custody dev``.

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
    async with running(settings, environ, listeners, rewraps=rewraps, more=more) as daemon:
        log.info("serving", vault=daemon.addresses.vault, admin=daemon.addresses.admin)
        look_seldom()
        if started is not None:
            started(daemon.addresses)
        stopping = asyncio.create_task(stop.wait())
        reporting = asyncio.create_task(daemon.report.keep_reporting(notifier, hangup))
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
    more: Table | None = None,
) -> AsyncIterator[Running]:
    """Run the daemon inside the block, and drain it at its end.

    Args:
        settings: all settings.
        environ: the variables that KEK backends may read.
        listeners: what to listen on; None: what the settings say.
        rewraps: as for :func:`serve`.
        more: as there.
    """
    dsn, rules = preflight.database_dsn(settings), preflight.token_rules(settings)
    tls = tls_context(settings.tls_cert, settings.tls_key)
    metrics, cors = Metrics(), Cors(settings.cors_origins)
    async with AsyncExitStack() as stack:
        # What is opened last is closed first.
        enter = stack.enter_async_context
        tracer = await enter(tracing.opened(settings))
        configured = await enter(loaded_keks(settings, environ))
        session = await enter(aiohttp.ClientSession())
        source = partial(_jwks_source, session)
        jwks = await enter(_open_jwks(settings, source))
        engine, reserve = await enter(_open_pools(dsn, metrics))
        fresh = await enter(open_engine(dsn, pool_size=1))
        ring = Ring(engine, configured, settings.data_key_ttl, settings.data_key_max_age)
        keyring = UserKeyring(configured, ring)
        legacy = settings.accepts_legacy_rows
        keks = Keks(
            keyring,
            engine,
            event_id(),
            Sealer(ring),
            legacy=legacy,
            observe=partial(_observe, metrics, tracer),
        )
        await keks.prove()
        erasures = await enter(_open_erasures(settings))
        door = Door(engine, is_open=legacy)
        ages = Ages(engine, keks, metrics, settings)
        health = Health(
            engine, keks, ring, door, jwks, reserve=reserve, erasures=erasures, ages=ages
        )
        gauges = Gauges(
            metrics,
            keyring.keks,
            ring,
            door,
            jwks,
            pools={"requests": engine, "refusals": reserve},
        )
        await health.check()
        rewrap = (
            await enter(
                _open_rewrap(settings, environ, engine, keyring, ring, metrics=metrics.rewrap)
            )
            if rewraps
            else None
        )
        rows = await enter(
            _closing(VaultRows(engine, reserve, RowSeals(ring), erasures, metrics.database.served))
        )
        alarms = Alarms(metrics)
        seals = Seals(ring, legacy=legacy, alarms=alarms)
        brake = Brake(
            settings.unwrap_limit, newcomer=alarms.newcomer, refused=alarms.unwrap_refused
        )
        canaries = Canaries(settings.canary_users, settings.canary_answer)
        frontend = Frontend(
            vault=VaultService(
                rows, seals, MasterKeys(keyring, keks.admit, seals), brake, canaries
            ),
            verifier=TokenVerifier(jwks, rules),
            step_up=preflight.step_up(settings),
            refused_tokens=RefusedTokens(metrics),
            health=health,
            proxies=TrustedProxies(settings.trusted_proxies),
            limit=RateLimit(settings.rate_limit),
            shares=Shares(settings.user_concurrency),
            canaries=canaries,
            alarms=alarms,
        )
        listeners = listeners or open_listeners(settings, {})
        stack.callback(listeners.close)
        preflight.check_listeners(settings, listeners)
        # The vault drains while the admin listener still says why it is not ready.
        admin = await enter(
            open_admin(
                settings,
                environ,
                listeners.admin,
                health=health,
                metrics=metrics,
                gauges=gauges,
                keyring=keyring,
                ring=ring,
                engine=engine,
            )
        )
        vault = await enter(
            vault_server(
                frontend,
                cors,
                metrics,
                listeners.vault,
                tls,
                development=settings.development,
                tracer=tracer,
                with_reset=settings.reset is Reset.ON,
                more=more,
            )
        )
        await enter(gauges.shown(vault=vault.connections, admin=admin.connections))
        await enter(keks.watched())
        await enter(ring.kept())
        if settings.audit_seal_interval:
            await enter(
                AuditSealer(
                    engine, ring, settings.audit_seal_interval, alarms, metrics.audit
                ).sealing()
            )
        health_watch = await enter(health.watched())
        if rewrap is not None:
            await enter(rewrap.working())
        parts = Reloadable(frontend, cors, tls, jwks, source, keks, ring, brake, canaries)
        reload = Reload(settings, environ, parts)
        status = partial(_status, vault.address, keks, health, rewrap, reload)
        report = Report(health, Heartbeat(engine, fresh), reload.run, status)
        await enter(_drained(health, vault))
        yield Running(Addresses(vault=vault.address, admin=admin.address), health_watch, report)


@asynccontextmanager
async def _open_pools(dsn: Dsn, metrics: Metrics) -> AsyncIterator[tuple[AsyncEngine, AsyncEngine]]:
    """Return the connections for requests, and those kept for the audit rows of refusals."""
    waited = metrics.database.waited
    async with (
        open_engine(dsn, waited=waited("requests")) as engine,
        open_engine(dsn, pool_size=RESERVED_CONNECTIONS, waited=waited("refusals")) as reserve,
    ):
        yield engine, reserve


def _observe(metrics: Metrics, tracer: tracing.OpenTelemetry | None, kek: KekBackend) -> None:
    """Have each call of a KMS counted, and traced."""
    name = kek.uri.key_text
    called = metrics.keks.called(name)
    kek.observe(called if tracer is None else tracer.called(name, called))


class _Closable(Protocol):
    async def close(self) -> None: ...


PartT = TypeVar("PartT", bound=_Closable)


@asynccontextmanager
async def _closing(part: PartT) -> AsyncIterator[PartT]:
    try:
        yield part
    finally:
        await part.close()


@asynccontextmanager
async def _drained(health: Health, vault: HttpServer) -> AsyncIterator[None]:
    """At its end take no more connections, and respond to what is under way."""
    try:
        yield
    finally:
        health.draining = True
        await vault.drain()


@asynccontextmanager
async def _open_rewrap(
    settings: Settings,
    environ: Mapping[str, str],
    app: AsyncEngine,
    keyring: Keyring,
    ring: Ring,
    *,
    metrics: RewrapMetrics,
) -> AsyncIterator[BackgroundRewrap | None]:
    """Return the re-wrap worker, where it has a database role and an interval.

    Raises:
        ConfigurationError: the role is not for this work, or the second root can't be loaded.
    """
    if settings.rewrap_database_url is None or not settings.rewrap_interval:
        yield None
        return
    dsn = settings.dsn(settings.rewrap_database_url)
    variable = "CUSTODY_REWRAP_DATABASE_URL"
    async with (
        open_engine(dsn, pool_size=_REWRAP_CONNECTIONS, variable=variable) as engine,
        second_root(settings, environ, engine, keyring.keks, Sealer(ring)) as second,
    ):
        rewrap = BackgroundRewrap(
            engine,
            app,
            keyring,
            ring,
            interval=settings.rewrap_interval,
            metrics=metrics,
            legacy=settings.accepts_legacy_rows,
            second=second,
        )
        try:
            await rewrap.check_role()
        except Refused as error:
            raise ConfigurationError(str(error)) from None
        except DatabaseError as error:
            log.warning("rewrap_waits", reason=str(error))
        yield rewrap


@asynccontextmanager
async def _open_erasures(settings: Settings) -> AsyncIterator[Erasures]:
    """Read who was erased, and follow the record.

    Raises:
        ConfigurationError: the record is not there, or not to be relied on.
    """
    erasures = Erasures(settings.erasure_record)
    try:
        await erasures.read()
    except RecordError as error:
        raise ConfigurationError(str(error)) from None
    async with erasures.followed():
        yield erasures


@asynccontextmanager
async def _open_jwks(
    settings: Settings, source: Callable[[Settings], Source]
) -> AsyncIterator[JwksCache]:
    """Build the cache of the issuer's keys; a file must be right at once, a URL may be down."""
    fetch, name = source(settings)
    async with _closing(JwksCache(fetch=fetch, source=name)) as jwks:
        try:
            await jwks.refresh()
        except JwksError as error:
            if settings.jwks_file is not None:
                raise ConfigurationError(f"CUSTODY_JWKS_FILE: {error}") from None
            # Logged by the cache; requests try again.
        if settings.jwks_file is not None and not jwks.keys:
            raise ConfigurationError(f"CUSTODY_JWKS_FILE: JWKS {name} {NO_KEY}")
        yield jwks


def _jwks_source(session: aiohttp.ClientSession, settings: Settings) -> Source:
    if settings.jwks_file is not None:
        return file_source(settings.jwks_file), str(settings.jwks_file)
    url = preflight.jwks_url(settings)
    return http_source(session, url), name_of(url)


def _status(
    address: str, keks: Keks, health: Health, rewrap: BackgroundRewrap | None, reload: Reload
) -> str:
    return describe(address, keks.keyring, health, rewrap, reload.problem)
