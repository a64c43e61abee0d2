"""What can be checked of settings before anything is asked: one look for daemon and doctor."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

import structlog

from custody.auth.rules import TokenRules
from custody.auth.step_up import StepUp
from custody.db.dsn import Dsn
from custody.ops import transport
from custody.ops.checks.files import of_files
from custody.ops.remark import Remark
from custody.settings import ConfigurationError, Settings, unknown_names
from custody.sockets.addresses import refuse_impossible
from custody.sockets.listeners import Listeners, tls_context

T = TypeVar("T")

log = structlog.get_logger()


def check(settings: Settings, environ: Mapping[str, str]) -> None:
    """Log what is unwise in the settings, and refuse what can't work.

    Args:
        settings: of the daemon.
        environ: the variables of the process.

    Raises:
        ConfigurationError: all that is refused, in one line.
    """
    for name, hint in unknown_names(environ).items():
        log.warning("unknown_setting", name=name, cure=f"no such setting: {hint}")
    _say(_of_known(settings, environ))


def check_listeners(settings: Settings, listeners: Listeners) -> None:
    """Look at sockets as they are bound, and log or refuse as :func:`check` does.

    Args:
        settings: of the daemon.
        listeners: opened here, or handed over by the service manager or the supervisor.

    Raises:
        ConfigurationError: production does not serve on one of them.
    """
    _say(transport.of_listeners(settings, listeners))


def _say(remarks: Iterable[Remark]) -> None:
    found = list(remarks)
    for remark in found:
        if not remark.refused:
            log.warning("unsafe_setting", part=remark.part, problem=remark.message)
    if refused := [remark.message for remark in found if remark.refused]:
        raise ConfigurationError("; ".join(refused))


def remarks(settings: Settings, environ: Mapping[str, str]) -> Iterator[Remark]:
    """Return what is wrong with settings that could be read.

    Args:
        settings: of the daemon.
        environ: the variables of the process.
    """
    for name, hint in unknown_names(environ).items():
        yield Remark("settings", f"{name} is no setting: {hint}")
    yield from _of_known(settings, environ)


def _of_known(settings: Settings, environ: Mapping[str, str]) -> Iterator[Remark]:
    refused: set[object] = set()
    for ask in (database_dsn, jwt_issuer, _jwks, _tls, _listen, _admin_listen):
        try:
            ask(settings)
        except ConfigurationError as error:
            refused.add(ask)
            yield Remark("settings", str(error), refused=True)
    if settings.owner_database_url is not None and not settings.development:
        yield Remark(
            "settings",
            "CUSTODY_OWNER_DATABASE_URL is set here; the daemon needs no owner: give it to "
            "custody migrate alone",
        )
    if settings.data_key_ttl * 4 > settings.data_key_max_age:
        yield Remark(
            "settings",
            "CUSTODY_DATA_KEY_TTL is more than a quarter of CUSTODY_DATA_KEY_MAX_AGE: an outage of "
            "the KMS is survived for so much less; lower it",
        )
    yield from of_files(settings, environ)
    if _listen not in refused:
        yield from transport.of_listen(settings)
    if _admin_listen not in refused:
        yield from transport.of_admin_listen(settings)
    yield from _believed(settings)
    yield from transport.of_jwks(settings)
    yield from transport.of_traces(settings, environ)
    yield from transport.of_databases(settings, environ)


def database_dsn(settings: Settings) -> Dsn:
    """Return the URL of the daemon's database.

    Raises:
        ConfigurationError: it is not set.
    """
    return settings.dsn(_require(settings.database_url, "database_url"))


def jwt_issuer(settings: Settings) -> str:
    """Return what a token's ``iss`` must be.

    Raises:
        ConfigurationError: it is not set.
    """
    return _require(settings.jwt_issuer, "jwt_issuer")


def token_rules(settings: Settings) -> TokenRules:
    """Return what a token must be.

    Raises:
        ConfigurationError: the issuer is not set.
    """
    return TokenRules(
        issuer=jwt_issuer(settings),
        audience=settings.jwt_audience,
        max_lifetime=settings.jwt_max_lifetime,
    )


def step_up(settings: Settings) -> StepUp:
    """Return how a user must have logged in to lose or unlock a key for good."""
    return StepUp(settings.step_up_max_age, settings.step_up_acr)


def _require(value: T | None, name: str) -> T:
    if value is None:
        what = Settings.model_fields[name].description
        raise ConfigurationError(f"CUSTODY_{name.upper()} must be set: {what}")
    return value


def require_jwks(settings: Settings) -> None:
    """See that there is a place of the issuer's keys which may be asked.

    Raises:
        ConfigurationError: none is set, or it is refused.
    """
    if settings.jwks_file is None:
        jwks_url(settings)


def jwks_url(settings: Settings) -> str:
    """Return where the issuer's keys are, of settings without a file of them.

    Raises:
        ConfigurationError: it is not set, or would be asked in clear.
    """
    url = _jwks_url(settings)
    for remark in transport.of_jwks(settings):
        if remark.refused:
            raise ConfigurationError(remark.message)
    return url


def _jwks(settings: Settings) -> None:
    if settings.jwks_file is None:
        _jwks_url(settings)


def _jwks_url(settings: Settings) -> str:
    if settings.jwks_url is None:
        issuer = settings.jwt_issuer or "https://ISSUER"
        raise ConfigurationError(
            "CUSTODY_JWKS_URL or CUSTODY_JWKS_FILE must be set: where the issuer's keys are, for "
            f"example {issuer.rstrip('/')}/api/auth/jwks"
        )
    return settings.jwks_url


def _tls(settings: Settings) -> None:
    tls_context(settings.tls_cert, settings.tls_key)


def _listen(settings: Settings) -> None:
    refuse_impossible(settings.listen, "CUSTODY_LISTEN")


def _admin_listen(settings: Settings) -> None:
    refuse_impossible(settings.admin_listen, "CUSTODY_ADMIN_LISTEN")


def _believed(settings: Settings) -> Iterator[Remark]:
    """Say whom the daemon believes without reason."""
    for proxies in settings.trusted_proxies:
        if proxies.endswith("/0"):
            yield Remark(
                "settings",
                f"CUSTODY_TRUSTED_PROXIES has {proxies}: everybody may choose the address that "
                "the audit shows; name the proxies alone",
            )
