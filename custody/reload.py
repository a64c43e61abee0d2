"""SIGHUP: reads the settings again, and puts in force what can change while users are served.

All of it is made ready first. Where anything is wrong, nothing changes.
"""

import asyncio
import ssl
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import structlog

from custody.auth.jwk import JwksError
from custody.auth.jwks import JwksCache
from custody.auth.sources import Source
from custody.datakeys.ring import Ring
from custody.db.errors import DatabaseError
from custody.http.client_address import TrustedProxies
from custody.http.cors import Cors
from custody.http.frontend import Frontend
from custody.http.middleware import describe
from custody.http.rate import RateLimit
from custody.keks.keks import Keks
from custody.ops.logging import configure
from custody.settings import PREFIX, ConfigurationError, Settings, load
from custody.sockets.listeners import follow, tls_context
from custody.vault.brake import Brake
from custody.vault.canaries import Canaries
from kek_backends.errors import Misconfigured

_RELOADABLE = frozenset(
    {
        "jwks_url",
        "jwks_file",
        "tls_cert",
        "tls_key",
        "cors_origins",
        "trusted_proxies",
        "rate_limit",
        "unwrap_limit",
        "canary_users",
        "canary_answer",
        "log_level",
        "log_format",
        "old_keks",
    }
)

_KEPT = "all settings as they were"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Reloadable:
    """The parts of a running daemon that a reload changes.

    Args:
        frontend: proxies and limit.
        cors: origins.
        tls: the context of the vault's listener; None for plain HTTP.
        jwks: the issuer's keys.
        source: makes the source of a JWKS from settings.
        keks: all KEKs.
        ring: the data keys, opened by them.
        brake: its limit; whom it has seen stays.
        canaries: who they are, and what is answered.
    """

    frontend: Frontend
    cors: Cors
    tls: ssl.SSLContext | None
    jwks: JwksCache
    source: Callable[[Settings], Source]
    keks: Keks
    ring: Ring
    brake: Brake
    canaries: Canaries


class Reload:
    """Reloads, one at a time.

    Args:
        settings: those in force.
        environ: the variables of the process, which name the files to read again.
        parts: what it changes.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str], parts: Reloadable) -> None:
        self._settings = settings
        self._environ = environ
        self._parts = parts
        self._one_at_a_time = asyncio.Lock()
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

    async def _reload(self) -> None:
        parts, settings = self._parts, load(self._environ)
        restart = self._needs_restart(settings)
        tls = tls_context(settings.tls_cert, settings.tls_key)
        take_jwks = await self._read_jwks(settings)
        keyring = await parts.keks.prepare(settings, self._environ)
        proxies = TrustedProxies(settings.trusted_proxies)
        # From here on nothing fails.
        take_jwks()
        parts.keks.replace(keyring)
        parts.ring.follow()
        if parts.tls is not None and tls is not None:
            follow(parts.tls, tls)
        parts.cors.allow(settings.cors_origins)
        parts.frontend.proxies = proxies
        if settings.rate_limit != self._settings.rate_limit:
            parts.frontend.limit = RateLimit(settings.rate_limit)
        parts.brake.limit = settings.unwrap_limit
        parts.canaries.follow(settings.canary_users, settings.canary_answer)
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
