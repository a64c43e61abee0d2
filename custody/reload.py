"""SIGHUP: reads the settings again, and puts in force what can change while users are served.

All of it is made ready first. Where anything is wrong, nothing changes.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.auth.jwk import JwksError
from custody.auth.jwks import JwksCache
from custody.auth.sources import Source
from custody.db.errors import DatabaseError
from custody.http.client_address import TrustedProxies
from custody.http.cors import Cors
from custody.http.middleware import describe
from custody.http.rate import RateLimit
from custody.http.server import Frontend
from custody.keks.registry import KekRegistry
from custody.keks.watch import KekWatch, probe_keks
from custody.ops.logging import configure
from custody.settings import PREFIX, ConfigurationError, Settings, load
from custody.sockets.listeners import follow, tls_context
from custody.vault.keys import KEK_TIMEOUT_SECONDS
from kek_backends.base import KekBackend
from kek_backends.errors import Misconfigured
from kek_backends.keyring import Keyring
from kek_backends.loader import load as load_kek

_RELOADABLE = frozenset(
    {
        "jwks_url",
        "jwks_file",
        "tls_cert",
        "tls_key",
        "cors_origins",
        "trusted_proxies",
        "rate_limit",
        "log_level",
        "log_format",
        "old_keks",
    }
)

_KEPT = "all settings as they were"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Reloadable:
    """The parts of a running daemon that a reload reaches.

    Args:
        frontend: proxies and limit.
        cors: origins.
        tls: the context of the vault's listener; None for plain HTTP.
        jwks: the issuer's keys.
        source: makes the source of a JWKS from settings.
        engine: connections of the role custody_app.
        keyring: all KEKs.
        watch: keeps an eye on them.
    """

    frontend: Frontend
    cors: Cors
    tls: ssl.SSLContext | None
    jwks: JwksCache
    source: Callable[[Settings], Source]
    engine: AsyncEngine
    keyring: Keyring
    watch: KekWatch


class Reload:
    """Reloads, one at a time.

    Args:
        settings: those in force.
        environ: the variables of the process, which name the files to read again.
        parts: what is reached.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str], parts: Reloadable) -> None:
        self._settings = settings
        self._environ = environ
        self._parts = parts
        self._one_at_a_time = asyncio.Lock()
        self._ending = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()
        self.problem: str | None = None

    async def run(self) -> None:
        """Reload; what went wrong is logged, kept in ``problem``, and changes nothing."""
        async with self._one_at_a_time:
            try:
                await self._reload()
            except (ConfigurationError, DatabaseError, JwksError, Misconfigured) as error:
                self.problem = str(error)
                log.error("reload_failed", reason=self.problem, kept=_KEPT)  # noqa: TRY400
            except Exception as error:  # noqa: BLE001 - a backend of others may raise anything
                self.problem = type(error).__name__
                log.error(  # noqa: TRY400
                    "reload_failed", reason=self.problem, kept=_KEPT, **describe(error)
                )
            else:
                self.problem = None

    async def close(self) -> None:
        """Close at once what would be closed a little later."""
        # Not cancelled: a task that has not begun would close nothing.
        self._ending.set()
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def _reload(self) -> None:
        parts, settings = self._parts, load(self._environ)
        restart = self._needs_restart(settings)
        tls = tls_context(settings.tls_cert, settings.tls_key)
        take_jwks = await self._read_jwks(settings)
        keyring = await self._keyring_of(settings)
        proxies = TrustedProxies(settings.trusted_proxies)
        # From here on nothing fails.
        take_jwks()
        dropped = parts.keyring.replace(keyring)
        parts.watch.follow(parts.keyring)
        for backend in dropped:
            self._close_later(backend)
        if parts.tls is not None and tls is not None:
            follow(parts.tls, tls)
        parts.cors.allow(settings.cors_origins)
        parts.frontend.proxies = proxies
        if settings.rate_limit != self._settings.rate_limit:
            parts.frontend.limit = RateLimit(settings.rate_limit)
        configure(settings.log_level, settings.log_format)
        changed = self._changed(settings, _RELOADABLE)
        self._settings = self._settings.model_copy(
            update={name: getattr(settings, name) for name in _RELOADABLE}
        )
        log.info("reloaded", changed=changed)
        if restart:
            log.warning("restart_needed", changed=restart)

    async def _read_jwks(self, settings: Settings) -> Callable[[], None]:
        try:
            return await self._parts.jwks.read_from(*self._parts.source(settings))
        except JwksError as error:
            if settings.jwks_url is None or settings.jwks_url != self._settings.jwks_url:
                raise
            # An issuer that is down now: its keys stay, as they do at any other time.
            log.warning("jwks_refresh_failed", source="the same as before", error=str(error))
            return lambda: None

    async def _keyring_of(self, settings: Settings) -> Keyring:
        """Return the keyring with the old KEKs of these settings, each of them proved.

        A KEK that is in use stays as it is. The registry must know the new ones under their
        fingerprints, or take them up.
        """
        parts = self._parts
        present = {backend.uri.text: backend for backend in parts.keyring}
        wanted = list(settings.old_keks)
        if twice := sorted({uri for uri in wanted if [settings.kek, *wanted].count(uri) > 1}):
            raise ConfigurationError(f"KEK {twice[0]} is listed twice: remove one")
        if settings.kek in present:
            # Active after a restart. Instances that had theirs write under it already.
            wanted.append(settings.kek)
        old: list[KekBackend] = []
        fresh: list[KekBackend] = []
        try:
            for uri in wanted:
                if uri == parts.keyring.active.uri.text:
                    continue  # until a restart
                if uri not in present:
                    fresh.append(self._open(uri, settings))
                old.append(present.get(uri) or fresh[-1])
            keyring = Keyring(parts.keyring.active, old)
            if fresh:
                await probe_keks(keyring)
                await KekRegistry(parts.engine, keyring).check()
        except BaseException:
            for backend in fresh:
                await backend.close()
            raise
        return keyring

    def _open(self, uri: str, settings: Settings) -> KekBackend:
        return load_kek(uri, environ=self._environ, development=settings.development)

    def _close_later(self, backend: KekBackend) -> None:
        async def close() -> None:
            with contextlib.suppress(TimeoutError):
                # What was called before the change has this long at most.
                await asyncio.wait_for(self._ending.wait(), KEK_TIMEOUT_SECONDS)
            await backend.close()

        task = asyncio.create_task(close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _needs_restart(self, settings: Settings) -> list[str]:
        """Name what has changed and stays as it was; TLS can't begin or end under a listener."""
        found = self._changed(settings, Settings.model_fields.keys() - _RELOADABLE)
        if (self._parts.tls is None) != (settings.tls_cert is None):
            found.append(f"{PREFIX}TLS_CERT")
        return found

    def _changed(self, settings: Settings, names: Collection[str]) -> list[str]:
        return [
            f"{PREFIX}{name.upper()}"
            for name in sorted(names)
            if getattr(settings, name) != getattr(self._settings, name)
        ]
