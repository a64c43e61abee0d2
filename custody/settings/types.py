"""The types of settings: what each takes, and the cure where it is something else."""

import ipaddress
import re
from enum import StrEnum
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr

from custody.db.dsn import parse
from custody.settings.export_target import ExportTarget

UNIX: Final = "unix:"
_MAX_PORT = 65535
_OPTION = r"(mode=0?[0-7]{3}|group=[A-Za-z_][\w.-]*)"
_SOCKET = rf"/[^?\0]+(\?{_OPTION}(&{_OPTION})?)?"


class Environment(StrEnum):
    """Where the daemon runs."""

    PRODUCTION = "production"
    DEVELOPMENT = "development"


class LogFormat(StrEnum):
    """How a log line looks."""

    JSON = "json"
    TEXT = "text"


class LogLevel(StrEnum):
    """The least level that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class CanaryAnswer(StrEnum):
    """What who asks for a canary gets."""

    REFUSE = "refuse"
    SERVE = "serve"


class LegacyRows(StrEnum):
    """Whether rows are believed that were never sealed, or have a wrap of an older format."""

    ACCEPT = "accept"
    REFUSE = "refuse"


class Tracing(StrEnum):
    """Whether requests are traced."""

    OFF = "off"
    OTEL = "otel"


class Reset(StrEnum):
    """Whether users may give up all that they have encrypted, and begin again."""

    ON = "on"
    OFF = "off"


class Plain(StrEnum):
    """What may cross a network in clear."""

    LISTEN = "listen"
    DATABASE = "database"
    JWKS = "jwks"
    KMS = "kms"
    SYSLOG = "syslog"
    OTLP = "otlp"


def _split(value: object) -> object:
    return tuple(re.findall(r"[^\s,]+", value)) if isinstance(value, str) else value


def _no_empty(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(value for value in values if value)


def _check_listen(value: str) -> str:
    if value.startswith(UNIX):
        if not re.fullmatch(_SOCKET, value.removeprefix(UNIX)):
            raise ValueError("write unix:/absolute/path, or unix:/path?mode=0660&group=NAME")
        return value
    if "://" in value:
        raise ValueError("write host:port, [address]:port or unix:/path, without a scheme")
    host, colon, port = value.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) <= _MAX_PORT):
        raise ValueError("write host:port, [address]:port or unix:/path")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        # ::1:3001 could be an address without a port.
        raise ValueError("write an IPv6 address in brackets: [::1]:3001")
    return value


def _check_acr_values(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        # What a challenge can hold in quotes, separated by spaces.
        if not re.fullmatch(r"[!#-\[\]-~]+", value):
            raise ValueError("a value is ASCII without spaces, quotes and backslashes")
    return values


def _check_origins(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not re.fullmatch(r"https?://[A-Za-z0-9.\-\[\]:]+", value):
            raise ValueError("an origin is scheme://host[:port] without a path, never *")
    return values


def _check_proxies(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if value == "unix":
            continue
        try:
            ipaddress.ip_network(value)
        except ValueError:
            raise ValueError(
                "write addresses or CIDR networks (host bits zero), or unix for a local socket"
            ) from None
    return values


def _check_jwks_url(value: str) -> str:
    if not re.match(r"https?://", value):
        raise ValueError("write it with its scheme: https://")
    if "@" in value:
        raise ValueError("write it without a user and a password")
    try:
        parts = urlsplit(value)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:
        has_host = False
    if not has_host or re.search(r"\s", value):
        raise ValueError("it is no URL of a host")
    return value


def _check_export_target(value: str) -> str:
    ExportTarget.parse(value)
    return value


def _check_admin_token(value: SecretStr) -> SecretStr:
    token = value.get_secret_value()
    if not re.fullmatch(r"[A-Za-z0-9._~+/=-]{32,512}", token):
        raise ValueError("it is 32 to 512 letters, digits or ._~+/=-: openssl rand -hex 32")
    return value


def _check_database_url(value: SecretStr) -> SecretStr:
    url = value.get_secret_value().strip().replace("postgresql+asyncpg://", "postgresql://", 1)
    parse(url)
    return SecretStr(url)


Words = Annotated[tuple[str, ...], BeforeValidator(_split), AfterValidator(_no_empty)]
AcrValues = Annotated[Words, AfterValidator(_check_acr_values)]
Listen = Annotated[str, AfterValidator(_check_listen)]
DatabaseUrl = Annotated[SecretStr, AfterValidator(_check_database_url)]
Origins = Annotated[Words, AfterValidator(_check_origins)]
Proxies = Annotated[Words, AfterValidator(_check_proxies)]
JwksUrl = Annotated[str, AfterValidator(_check_jwks_url)]
Plains = Annotated[tuple[Plain, ...], BeforeValidator(_split)]
AuditTarget = Annotated[str, AfterValidator(_check_export_target)]
AdminToken = Annotated[SecretStr, AfterValidator(_check_admin_token)]
