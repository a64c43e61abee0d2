"""What crosses a network in clear, or is open to it: refused in production unless allowed by name.

Of databases only what is allowed is said here: what is not is refused where it would be connected
to, by every command alike.
"""

from collections.abc import Iterator, Mapping

from custody.db.dsn import BadUrl, parse
from custody.db.plain import in_clear, unverified
from custody.loopback import is_loopback
from custody.ops.remark import Remark
from custody.settings import UNIX, Plain, Settings, Tracing
from custody.sockets.listeners import Listeners, on_network
from kek_backends.plain import plain_address

_CURE = "set CUSTODY_TLS_CERT and CUSTODY_TLS_KEY, or listen on 127.0.0.1 behind a proxy with TLS"
# The first that is set counts.
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_CURE_OF_ADMIN = "set CUSTODY_ADMIN_TOKEN (openssl rand -hex 32), or listen on 127.0.0.1"


def of_listen(settings: Settings) -> Iterator[Remark]:
    """Say what is wrong with the vault's address as it is set."""
    if not _is_local(settings.listen):
        yield from _vault(settings, f"CUSTODY_LISTEN is {settings.listen}")


def of_admin_listen(settings: Settings) -> Iterator[Remark]:
    """Say what is wrong with the admin listener's address as it is set."""
    if not _is_local(settings.admin_listen):
        yield from _admin(settings, f"CUSTODY_ADMIN_LISTEN is {settings.admin_listen}")


def of_listeners(settings: Settings, listeners: Listeners) -> Iterator[Remark]:
    """Say what is wrong with sockets as they are bound, whoever has opened them.

    Of an address that is allowed, and was set, :func:`of_listen` has said it.

    Args:
        settings: of the daemon.
        listeners: opened here by the settings, or handed over.
    """
    for place in on_network(listeners.vault):
        for remark in _vault(settings, f"a socket of the vault is bound to {place}"):
            if remark.refused or _is_local(settings.listen):
                yield remark
    for place in on_network(listeners.admin):
        for remark in _admin(settings, f"a socket of the admin listener is bound to {place}"):
            if remark.refused or _is_local(settings.admin_listen):
                yield remark


def of_jwks(settings: Settings) -> Iterator[Remark]:
    """Say what is wrong with the way to the issuer's keys."""
    if settings.jwks_url and (address := plain_address(settings.jwks_url)):
        problem = (
            f"CUSTODY_JWKS_URL: {address} is asked in clear: whoever is on the way can forge "
            "tokens; use https"
        )
        yield _remark(settings, Plain.JWKS, "jwks", problem)


def of_traces(settings: Settings, environ: Mapping[str, str]) -> Iterator[Remark]:
    """Say what is wrong with the way to the collector of traces.

    Args:
        settings: of the daemon.
        environ: the variables of the process; OpenTelemetry reads them by itself.
    """
    name = next((name for name in _ENDPOINTS if environ.get(name, "").strip()), None)
    if settings.tracing is Tracing.OFF or name is None:
        return  # by default it is on loopback
    if address := plain_address(environ[name].strip()):
        problem = (
            f"{name}: {address} gets traces in clear: whoever is on the way reads who asks when, "
            "and the collector's password; use https"
        )
        yield _remark(settings, Plain.OTLP, "traces", problem)


def of_databases(settings: Settings, environ: Mapping[str, str]) -> Iterator[Remark]:
    """Say what is unwise, and allowed, on the way to the databases.

    Args:
        settings: of the daemon.
        environ: the variables of the process; those of libpq's count.
    """
    urls = {
        "CUSTODY_DATABASE_URL": settings.database_url,
        "CUSTODY_REWRAP_DATABASE_URL": settings.rewrap_database_url,
        "CUSTODY_AUDIT_DATABASE_URL": settings.audit_database_url,
    }
    for name, url in urls.items():
        if url is None:
            continue
        try:
            target = parse(url.get_secret_value(), environ)
        except BadUrl:
            continue  # whoever connects says so
        problem = unverified(target)
        if settings.allows_plain(Plain.DATABASE):
            problem = in_clear(target) or problem
        if problem:
            yield Remark("database", f"{name}: {problem}")


def _vault(settings: Settings, what: str) -> Iterator[Remark]:
    if settings.tls_cert is None:
        problem = f"{what} without TLS: keys and tokens cross the network in clear; {_CURE}"
        yield _remark(settings, Plain.LISTEN, "listener", problem)


def _admin(settings: Settings, what: str) -> Iterator[Remark]:
    if settings.admin_token is None:
        problem = f"{what}: whoever reaches it reads metrics and what is wrong; {_CURE_OF_ADMIN}"
        yield Remark("listener", problem, refused=not settings.development)


def _remark(settings: Settings, plain: Plain, part: str, problem: str) -> Remark:
    if settings.allows_plain(plain):
        return Remark(part, problem)
    return Remark(part, f"{problem}, or allow it: CUSTODY_ALLOW_PLAIN={plain}", refused=True)


def _is_local(listen: str) -> bool:
    return listen.startswith(UNIX) or is_loopback(listen.rpartition(":")[0].strip("[]"))
