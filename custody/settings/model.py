"""All settings there are, with what each is for."""

from pathlib import Path
from typing import Self
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from custody.db.dsn import Dsn
from custody.settings.types import (
    AcrValues,
    AdminToken,
    AuditTarget,
    CanaryAnswer,
    DatabaseUrl,
    Environment,
    JwksUrl,
    LegacyRows,
    Listen,
    LogFormat,
    LogLevel,
    Origins,
    Plain,
    Plains,
    Proxies,
    Reset,
    Tracing,
    Words,
)


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
    audit_database_url: DatabaseUrl | None = Field(
        None, description="PostgreSQL, as a login role that is custody_audit or a member of it"
    )
    kek: str = Field("env:MANA_AUTH_KEK", description="URI of the active KEK, which wraps new keys")
    old_keks: Words = Field((), description="URIs of decrypt-only KEKs")
    second_kek: str | None = Field(
        None, min_length=1, description="URI of a KEK that data keys are wrapped under, too"
    )
    kek_max_age: int = Field(
        365,
        ge=0,
        le=36_500,
        description="days after which an active KEK that was not rotated is a warning; 0 is never",
    )
    data_key_ttl: int = Field(
        3600,
        ge=1,
        le=604_800,
        description="seconds after which a data key is opened again under its KEK, a little ahead",
    )
    data_key_max_age: int = Field(
        86_400,
        ge=1,
        le=2_592_000,
        description="seconds after which a data key that could not be opened again is dropped",
    )
    legacy_rows: LegacyRows = Field(
        LegacyRows.REFUSE, description="accept or refuse rows that are not sealed yet"
    )
    jwks_url: JwksUrl | None = Field(
        None, description="the issuer's JWKS, for example https://HOST/api/auth/jwks"
    )
    jwks_file: Path | None = Field(None, description="the issuer's JWKS as a file")
    jwt_issuer: str | None = Field(None, min_length=1, description="what a token's iss must be")
    jwt_audience: str = Field("mana", min_length=1, description="what a token's aud must contain")
    jwt_max_lifetime: int = Field(
        86_400,
        ge=60,
        le=31_536_000,
        description="seconds that a token may live: exp - iat; without iat, from now",
    )
    step_up_max_age: int | None = Field(
        None,
        ge=1,
        le=31_536_000,
        description="seconds since the login, for what can lose or unlock a key for good",
    )
    step_up_acr: AcrValues = Field(
        (), description="values of acr, one of which such a login must have"
    )
    reset: Reset = Field(
        Reset.OFF, description="on or off: whether users may give up all they have and begin again"
    )
    trusted_proxies: Proxies = Field(
        (), description="addresses or CIDR networks whose X-Forwarded-For or Forwarded is believed"
    )
    cors_origins: Origins = Field((), description="origins of browsers that may call the vault")
    user_concurrency: int = Field(
        16, ge=1, le=1000, description="requests of one user at once; more are refused"
    )
    rate_limit: int = Field(
        100, ge=0, le=1_000_000, description="requests a second and user; 0 is no limit"
    )
    unwrap_limit: int = Field(
        0,
        ge=0,
        le=10_000_000,
        description="users a minute who get at their vaults, not seen in a day; 0 is no limit",
    )
    canary_users: Words = Field((), description="ids of users whom nobody should ever ask for")
    canary_answer: CanaryAnswer = Field(
        CanaryAnswer.REFUSE, description="refuse or serve who asks for one of them"
    )
    rewrap_interval: int = Field(
        300,
        ge=0,
        le=604_800,
        description="seconds from one look for stale rows to the next; 0 is no worker",
    )
    erasure_record: Path | None = Field(
        None, description="file that keeps who was erased, beside the backups of the database"
    )
    audit_seal_interval: int = Field(
        30,
        ge=0,
        le=3600,
        description="seconds from one checkpoint of the audit to the next; 0 is no sealer",
    )
    audit_export: AuditTarget | None = Field(
        None, description="where custody audit follow sends the audit: a file, syslog, the journal"
    )
    tls_cert: Path | None = Field(None, description="PEM file: certificate and its chain")
    tls_key: Path | None = Field(None, description="PEM file: the certificate's private key")
    allow_plain: Plains = Field(
        (),
        description="what may cross in clear: listen, database, jwks, kms, syslog, otlp",
    )
    admin_token: AdminToken | None = Field(
        None, description="bearer token of the admin listener; must be set where it is not loopback"
    )
    log_level: LogLevel = Field(LogLevel.INFO, description="debug, info, warning or error")
    log_format: LogFormat = Field(LogFormat.JSON, description="json or text")
    tracing: Tracing = Field(
        Tracing.OFF, description="off, or otel: traces to where OTEL_EXPORTER_OTLP_ENDPOINT says"
    )
    workers: int = Field(
        1, ge=1, le=64, description="processes that serve the vault on one listener"
    )

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        if self.jwks_url and self.jwks_file:
            raise ValueError("CUSTODY_JWKS_URL and CUSTODY_JWKS_FILE are both set; unset one")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("CUSTODY_TLS_CERT and CUSTODY_TLS_KEY go together; set both")
        keks = self.kek, *self.old_keks, self.second_kek or ""
        if any("pin-value" in unquote(uri) for uri in keks):
            # These are shown, by `custody config` and in logs.
            raise ValueError(
                "CUSTODY_KEK, CUSTODY_OLD_KEKS or CUSTODY_SECOND_KEK holds a PIN (pin-value): put "
                "the PIN into a file that nobody else may read, and name that: pin-source=file:PATH"
            )
        # A name of its own (?id=) makes it no other key.
        others = {uri.partition("?")[0] for uri in (self.kek, *self.old_keks)}
        if self.second_kek is not None and self.second_kek.partition("?")[0] in others:
            raise ValueError(
                "CUSTODY_SECOND_KEK names a key that CUSTODY_KEK or CUSTODY_OLD_KEKS names, too; "
                "the second root is another KEK: take one of them away"
            )
        if self.data_key_max_age < self.data_key_ttl:
            raise ValueError("CUSTODY_DATA_KEY_MAX_AGE is less than CUSTODY_DATA_KEY_TTL; raise it")
        return self

    @property
    def development(self) -> bool:
        """Whether unsafe conveniences are allowed."""
        return self.env is Environment.DEVELOPMENT

    @property
    def accepts_legacy_rows(self) -> bool:
        """Whether rows that are not sealed are read, and brought over by a run."""
        return self.legacy_rows is LegacyRows.ACCEPT

    def allows_plain(self, what: Plain) -> bool:
        """Say whether this may cross a network in clear."""
        return self.development or what in self.allow_plain

    def dsn(self, url: SecretStr) -> Dsn:
        """Return one of the database URLs, to connect by."""
        return Dsn(url.get_secret_value(), plain=self.allows_plain(Plain.DATABASE))
