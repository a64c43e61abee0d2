"""SIGHUP: reads the settings again, and puts in force what can change while users are served.

All of it is made ready first. Where anything is wrong, nothing changes.
"""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.auth.jwk import JwksError
from custody.auth.jwks import JwksCache
from custody.auth.sources import Source
from custody.db.errors import DatabaseError
from custody.http.client_address import TrustedProxies
from custody.http.cors import Cors
from custody.http.listeners import load_certificate, tls_context
from custody.http.rate import RateLimit
from custody.http.server import Frontend
from custody.ops.keks import KekWatch, reach
from custody.ops.logging import configure
from custody.settings import PREFIX, ConfigurationError, Settings, load
from custody.vault.keys import KEK_TIMEOUT_SECONDS
from custody.vault.registry import KekRegistry
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
        self._closing: set[asyncio.Task[None]] = set()
        self.problem: str | None = None

    async def run(self) -> None:
        """Reload; what went wrong is logged, kept in ``problem``, and changes nothing."""
        async with self._one_at_a_time:
            try:
                await self._reload()
            except (ConfigurationError, DatabaseError, JwksError, Misconfigured) as error:
                self.problem = str(error)
                log.error("reload_failed", reason=self.problem, kept="all settings as they were")  # noqa: TRY400
            else:
                self.problem = None

    async def close(self) -> None:
        """Close at once what would be closed a little later."""
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def _reload(self) -> None:
        parts, settings = self._parts, load(self._environ)
        restart = _needs_restart(self._settings, settings)
        tls = (settings.tls_cert, settings.tls_key)
        # Into a context that nobody uses: one with half a certificate could not be taken back.
        tls_context(*tls)
        take_jwks = await parts.jwks.read_from(*parts.source(settings))
        keyring = await self._keyring_of(settings)
        proxies = TrustedProxies(settings.trusted_proxies)
        # From here on nothing fails.
        take_jwks()
        dropped = parts.keyring.take_over(keyring)
        parts.watch.follow(parts.keyring)
        for backend in dropped:
            self._close_later(backend)
        if parts.tls is not None and settings.tls_cert and settings.tls_key:
            load_certificate(parts.tls, settings.tls_cert, settings.tls_key)
        parts.cors.allow(settings.cors_origins)
        parts.frontend.proxies = proxies
        if settings.rate_limit != self._settings.rate_limit:
            parts.frontend.limit = RateLimit(settings.rate_limit)
        configure(settings.log_level, settings.log_format)
        changed = [name for name in sorted(_RELOADABLE) if _differ(name, self._settings, settings)]
        self._settings = self._settings.model_copy(
            update={name: getattr(settings, name) for name in _RELOADABLE}
        )
        log.info("reloaded", changed=changed)
        if restart:
            log.warning("restart_needed", changed=restart)

    async def _keyring_of(self, settings: Settings) -> Keyring:
        """Return the keyring with the old KEKs of these settings, each of them proved.

        A KEK that is in use stays as it is. The registry must know the new ones under their
        fingerprints, or take them up.
        """
        parts = self._parts
        present = {backend.uri.text: backend for backend in parts.keyring}
        old = [
            present.get(uri)
            or load_kek(uri, environ=self._environ, development=settings.development)
            for uri in settings.old_keks
            # After a restart, perhaps; until then it is the active one.
            if uri != parts.keyring.active.uri.text
        ]
        fresh = [backend for backend in old if backend.uri.text not in present]
        try:
            keyring = Keyring(parts.keyring.active, old)
            if fresh:
                await reach(keyring)
                await KekRegistry(parts.engine, keyring).check()
        except BaseException:
            for backend in fresh:
                await backend.close()
            raise
        return keyring

    def _close_later(self, backend: KekBackend) -> None:
        async def close() -> None:
            try:
                # What was called before the change has this long at most.
                await asyncio.sleep(KEK_TIMEOUT_SECONDS)
            finally:
                await backend.close()

        task = asyncio.create_task(close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _differ(name: str, before: Settings, after: Settings) -> bool:
    return bool(getattr(before, name) != getattr(after, name))


def _needs_restart(before: Settings, after: Settings) -> list[str]:
    """Name what has changed and stays as it was; TLS can't begin or end under a listener."""
    names = [name for name in Settings.model_fields if name not in _RELOADABLE]
    found = [f"{PREFIX}{name.upper()}" for name in names if _differ(name, before, after)]
    if (before.tls_cert is None) != (after.tls_cert is None):
        found.append(f"{PREFIX}TLS_CERT")
    return found
