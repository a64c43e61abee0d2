"""Settings: the only reader of environment variables and of the files that they name."""

import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from custody.db.dsn import parse
from custody.nearest import did_you_mean

PREFIX = "CUSTODY_"
CREDENTIALS_DIRECTORY = "CREDENTIALS_DIRECTORY"
_MAX_FILE_SIZE = 64 * 1024
_MAX_PORT = 65535
UNIX: Final = "unix:"
_OPTION = r"(mode=0?[0-7]{3}|group=[A-Za-z_][\w.-]*)"
_SOCKET = rf"/[^?\0]+(\?{_OPTION}(&{_OPTION})?)?"
_PLAIN: Final = {
    "int_parsing": "write a whole number",
    "int_from_float": "write a whole number",
    "greater_than_equal": "write {ge} or more",
    "less_than_equal": "write {le} or less",
    "enum": "write {expected}",
    "string_too_short": "it is empty",
}


class ConfigurationError(Exception):
    """The configuration can't be used. The message is one line that names the cure."""


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


def _split(value: object) -> object:
    return tuple(re.split(r"[\s,]+", value.strip())) if isinstance(value, str) else value


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


def _check_database_url(value: SecretStr) -> SecretStr:
    url = value.get_secret_value().strip().replace("postgresql+asyncpg://", "postgresql://", 1)
    parse(url)
    return SecretStr(url)


Words = Annotated[tuple[str, ...], BeforeValidator(_split), AfterValidator(_no_empty)]
Listen = Annotated[str, AfterValidator(_check_listen)]
DatabaseUrl = Annotated[SecretStr, AfterValidator(_check_database_url)]


class Settings(BaseModel):
    """All settings, frozen. Each is the variable ``CUSTODY_NAME``, or ``CUSTODY_NAME_FILE``.

    A variable wins over the systemd credential ``custody_name``, and that over the TOML file that
    ``CUSTODY_CONFIG`` names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    env: Environment = Field(
        Environment.PRODUCTION, description="production refuses every unsafe state"
    )
    listen: Listen = Field("127.0.0.1:3001", description="host:port or unix:/path of the vault")
    admin_listen: Listen = Field(
        "127.0.0.1:3002", description="host:port or unix:/path of /livez, /readyz and /metrics"
    )
    database_url: DatabaseUrl | None = Field(
        None, description="PostgreSQL, as a login role that is custody_app or a member of it"
    )
    rewrap_database_url: DatabaseUrl | None = Field(
        None, description="PostgreSQL, as a login role that is custody_rewrap or a member of it"
    )
    owner_database_url: DatabaseUrl | None = Field(
        None, description="PostgreSQL, as the owner of the schema: migrate and users erase only"
    )
    kek: str = Field("env:MANA_AUTH_KEK", description="URI of the active KEK, which wraps new keys")
    old_keks: Words = Field((), description="URIs of decrypt-only KEKs")
    jwks_url: Annotated[str, AfterValidator(_check_jwks_url)] | None = Field(
        None, description="the issuer's JWKS, for example https://HOST/api/auth/jwks"
    )
    jwks_file: Path | None = Field(None, description="the issuer's JWKS as a file")
    jwt_issuer: str | None = Field(None, min_length=1, description="what a token's iss must be")
    jwt_audience: str = Field("mana", min_length=1, description="what a token's aud must contain")
    trusted_proxies: Annotated[Words, AfterValidator(_check_proxies)] = Field(
        (), description="addresses or CIDR networks whose X-Forwarded-For is believed"
    )
    cors_origins: Annotated[Words, AfterValidator(_check_origins)] = Field(
        (), description="origins of browsers that may call the vault"
    )
    rate_limit: int = Field(
        0, ge=0, le=1_000_000, description="requests a second and user; 0 is no limit"
    )
    rewrap_interval: int = Field(
        300,
        ge=0,
        le=604_800,
        description="seconds from one look for stale rows to the next; 0 is no worker",
    )
    tls_cert: Path | None = Field(None, description="PEM file: certificate and its chain")
    tls_key: Path | None = Field(None, description="PEM file: the certificate's private key")
    log_level: LogLevel = Field(LogLevel.INFO, description="debug, info, warning or error")
    log_format: LogFormat = Field(LogFormat.JSON, description="json or text")
    workers: int = Field(
        1, ge=1, le=64, description="processes that serve the vault on one listener"
    )

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        if self.jwks_url and self.jwks_file:
            raise ValueError("CUSTODY_JWKS_URL and CUSTODY_JWKS_FILE are both set; unset one")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("CUSTODY_TLS_CERT and CUSTODY_TLS_KEY go together; set both")
        return self

    @property
    def development(self) -> bool:
        """Whether unsafe conveniences are allowed."""
        return self.env is Environment.DEVELOPMENT


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Read all settings.

    Args:
        environ: the variables; None reads those of the process.

    Raises:
        ConfigurationError: naming the setting and the cure, never a value that may be secret.
    """
    environ = os.environ if environ is None else environ
    values = _from_toml(environ) | _from_credentials(environ) | _from_variables(environ)
    try:
        return Settings(**values)
    except ValidationError as error:
        raise ConfigurationError(_explain(error)) from None


def unknown_names(environ: Mapping[str, str]) -> dict[str, str]:
    """Return variables and credentials that start like a setting and are none: misspelt, likely.

    Each with a hint at the right name. A variable counts in any case, a credential as it is.
    """
    names = {f"{PREFIX}{name}".upper() for name in Settings.model_fields}
    known = names | {f"{name}_FILE" for name in names} | {f"{PREFIX}CONFIG"}
    variables = sorted(n for n in environ if n.upper().startswith(PREFIX) and n not in known)
    of_credentials = {name.lower() for name in names}
    credentials = [name for name in _credentials(environ) if name not in of_credentials]
    return {name: did_you_mean(name, sorted(known)) for name in variables} | {
        name: did_you_mean(name, sorted(of_credentials)) for name in credentials
    }


def _from_variables(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in Settings.model_fields:
        variable = f"{PREFIX}{name.upper()}"
        value, file = environ.get(variable), environ.get(f"{variable}_FILE")
        if value and file:
            raise ConfigurationError(f"{variable} and {variable}_FILE are both set; unset one")
        if file:
            value = _read(Path(file), f"{variable}_FILE names {file}").strip()
        if value:
            values[name] = value
    return values


def _from_credentials(environ: Mapping[str, str]) -> dict[str, Any]:
    """Read what systemd hands over; of a setting that is a path, the credential is the file."""
    values: dict[str, Any] = {}
    credentials = _credentials(environ)
    for name, field in Settings.model_fields.items():
        path = credentials.get(f"{PREFIX}{name}".lower())
        if path is None:
            continue
        if field.annotation == Path | None:
            values[name] = path
        elif value := _read(path, f"the credential {path.name}").strip():
            values[name] = value
    return values


def _credentials(environ: Mapping[str, str]) -> dict[str, Path]:
    """Return the credentials that start like a setting, by name."""
    directory = environ.get(CREDENTIALS_DIRECTORY)
    if not directory:
        return {}
    try:
        found = sorted(Path(directory).iterdir())
    except OSError as error:
        raise ConfigurationError(
            f"{CREDENTIALS_DIRECTORY} names {directory}: {error.strerror}"
        ) from None
    return {path.name: path for path in found if path.name.startswith(PREFIX.lower())}


def _from_toml(environ: Mapping[str, str]) -> dict[str, Any]:
    path = environ.get(f"{PREFIX}CONFIG")
    if not path:
        return {}
    try:
        values = tomllib.loads(_read(Path(path), f"{PREFIX}CONFIG names {path}"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{PREFIX}CONFIG: {path} is not TOML: {error}") from None
    for name in values:
        if name not in Settings.model_fields:
            raise ConfigurationError(
                f"{PREFIX}CONFIG: {path} has an unknown name {name!r} "
                f"({did_you_mean(name, Settings.model_fields)}); known: "
                + ", ".join(Settings.model_fields)
            )
    return values


def _read(path: Path, source: str) -> str:
    try:
        with path.open("rb") as stream:
            text = stream.read(_MAX_FILE_SIZE + 1)
    except OSError as error:
        raise ConfigurationError(f"{source}: {error.strerror}") from None
    if len(text) > _MAX_FILE_SIZE:
        raise ConfigurationError(f"{source}: larger than {_MAX_FILE_SIZE} bytes")
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise ConfigurationError(f"{source}: not UTF-8 text") from None


def _plain(kind: str, bounds: Mapping[str, Any], message: str) -> str:
    """Return pydantic's message, or our own for what operators meet most."""
    if kind in _PLAIN:
        return _PLAIN[kind].format(**bounds)
    return message.removeprefix("Value error, ")


def _explain(error: ValidationError) -> str:
    """Say what is wrong without a value: pydantic's messages for our types hold none."""
    lines = []
    for item in error.errors(include_url=False, include_input=False):
        message = _plain(item["type"], item.get("ctx", {}), item["msg"])
        field = str(item["loc"][0]) if item["loc"] else None
        name = f"{PREFIX}{field.upper()}: " if field else ""
        what = Settings.model_fields[field].description if field in Settings.model_fields else None
        lines.append(f"{name}{message}" + (f" ({what})" if what else ""))
    return "; ".join(lines)
