"""What operators get wrong, each with the line that tells them: read them as one would at night."""

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from tests.certificates import make_certificate
from tests.leaks import remember
from tests.servers import Database

KEY = bytes(range(200, 232))
OTHER_KEK = base64.b64encode(KEY).decode()

ALLOW = ", or allow it: CUSTODY_ALLOW_PLAIN="
VERIFY_FULL = "set sslmode=verify-full, and sslrootcert= to the file of its CA"
PLAIN_LISTENER = (
    "keys and tokens cross the network in clear; set CUSTODY_TLS_CERT and CUSTODY_TLS_KEY, or "
    "listen on 127.0.0.1 behind a proxy with TLS"
)
OPEN_ADMIN = (
    "CUSTODY_ADMIN_LISTEN is 0.0.0.0:3002: whoever reaches it reads metrics and what is wrong; set "
    "CUSTODY_ADMIN_TOKEN (openssl rand -hex 32), or listen on 127.0.0.1"
)
PLAIN_ISSUER = (
    "CUSTODY_JWKS_URL: http://issuer.invalid is asked in clear: whoever is on the way can forge "
    "tokens; use https"
)
PLAIN_KMS = "whoever is on the way reads keys, and the login; use https"


@dataclass(frozen=True)
class Place:
    """Where a configuration is made wrong."""

    database: Database
    folder: Path

    def url(self, role: str, database: str | None = None) -> str:
        """Return a role's URL, of another database where one is given."""
        return self.database.server.url(role, database or self.database.name)

    def misspelt(self, role: str) -> str:
        """Return a role's URL with another password."""
        return re.sub(":[^:@]*@", ":wrong@", self.url(role))

    def file(self, text: str | bytes, mode: int = 0o600) -> str:
        """Write a file, and return its path."""
        path = self.folder / "file"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(mode)
        return str(path)

    def certificate(self, name: str, mode: int = 0o600) -> tuple[str, str]:
        """Make a certificate and its key, which has the mode."""
        (self.folder / name).mkdir()
        cert, key = make_certificate(self.folder / name)
        key.chmod(mode)
        return str(cert), str(key)

    def line(self, text: str) -> str:
        """Fill in what differs from run to run."""
        return text.format(
            folder=self.folder, database=self.database.name, port=self.database.server.port
        )


Change: TypeAlias = Callable[[Place], Mapping[str, str]]


@dataclass(frozen=True)
class Mistake:
    """One of them.

    Args:
        change: what is set, and what is taken away (empty).
        line: what is printed; in braces what differs from run to run.
    """

    change: Change
    line: str


def variable(**values: str | Callable[[Place], str]) -> Change:
    return lambda place: {
        name: value if isinstance(value, str) else value(place) for name, value in values.items()
    }


def setting(**values: str | Callable[[Place], str]) -> Change:
    return variable(**{f"CUSTODY_{name}": value for name, value in values.items()})


def tls(files: Callable[[Place], tuple[str, str]]) -> Change:
    names = ("CUSTODY_TLS_CERT", "CUSTODY_TLS_KEY")
    return lambda place: dict(zip(names, files(place), strict=True))


def kek(text: str) -> Change:
    return variable(MANA_AUTH_KEK=remember(text))


def kek_file(text: str | bytes, mode: int = 0o600) -> Change:
    return variable(MANA_AUTH_KEK="", MANA_AUTH_KEK_FILE=lambda place: place.file(text, mode))


REFUSED: dict[str, Mistake] = {
    "no database": Mistake(
        setting(DATABASE_URL=""),
        "CUSTODY_DATABASE_URL must be set: PostgreSQL, as a login role that is custody_app or"
        " a member of it",
    ),
    "no issuer": Mistake(
        setting(JWT_ISSUER=""),
        "CUSTODY_JWT_ISSUER must be set: what a token's iss must be",
    ),
    "no keys of the issuer": Mistake(
        setting(JWKS_FILE=""),
        "CUSTODY_JWKS_URL or CUSTODY_JWKS_FILE must be set: where the issuer's keys are, for "
        "example https://auth.example/api/auth/jwks",
    ),
    "two places for the issuer's keys": Mistake(
        setting(JWKS_URL="https://issuer.example/jwks"),
        "CUSTODY_JWKS_URL and CUSTODY_JWKS_FILE are both set; unset one",
    ),
    "an issuer's URL without its scheme": Mistake(
        setting(JWKS_FILE="", JWKS_URL="issuer.example/jwks"),
        "CUSTODY_JWKS_URL: write it with its scheme: https:// (the issuer's JWKS, for example"
        " https://HOST/api/auth/jwks)",
    ),
    "an issuer's URL with a password": Mistake(
        setting(JWKS_FILE="", JWKS_URL="https://u:x@issuer.example/jwks"),
        "CUSTODY_JWKS_URL: write it without a user and a password (the issuer's JWKS, for "
        "example https://HOST/api/auth/jwks)",
    ),
    "plain http to the issuer": Mistake(
        setting(JWKS_FILE="", JWKS_URL="http://issuer.invalid/jwks?key=x"),
        PLAIN_ISSUER + ALLOW + "jwks",
    ),
    "no file of the issuer's keys": Mistake(
        setting(JWKS_FILE="/nowhere/jwks.json"),
        "CUSTODY_JWKS_FILE: JWKS /nowhere/jwks.json: No such file or directory; check "
        "CUSTODY_JWKS_FILE and its mode",
    ),
    "an issuer without keys": Mistake(
        lambda place: {"CUSTODY_JWKS_FILE": place.file('{"keys": []}')},
        "CUSTODY_JWKS_FILE: JWKS {folder}/file has no usable Ed25519 key; have the issuer "
        "sign with EdDSA, each key with its own kid",
    ),
    "keys that are no JSON": Mistake(
        lambda place: {"CUSTODY_JWKS_FILE": place.file("<html>")},
        "CUSTODY_JWKS_FILE: JWKS {folder}/file is not a JSON object; check that it is the "
        "issuer's JWKS",
    ),
    "a certificate without its key": Mistake(
        setting(TLS_CERT="/nowhere/cert.pem"),
        "CUSTODY_TLS_CERT and CUSTODY_TLS_KEY go together; set both",
    ),
    "a certificate that is not there": Mistake(
        setting(TLS_CERT="/nowhere/cert.pem", TLS_KEY="/nowhere/key.pem"),
        "CUSTODY_TLS_CERT, CUSTODY_TLS_KEY: /nowhere/cert.pem and /nowhere/key.pem can't be "
        "used: No such file or directory",
    ),
    "a key of another certificate": Mistake(
        tls(lambda place: (place.certificate("one")[0], place.certificate("other")[1])),
        "CUSTODY_TLS_CERT, CUSTODY_TLS_KEY: {folder}/one/cert.pem and {folder}/other/key.pem "
        "can't be used: the key is that of another certificate",
    ),
    "a key that is none": Mistake(
        tls(lambda place: (place.certificate("one")[0], place.file("no key"))),
        "CUSTODY_TLS_CERT, CUSTODY_TLS_KEY: {folder}/one/cert.pem and {folder}/file can't be used:"
        " they are no PEM files of a certificate and a key",
    ),
    "a listener without a port": Mistake(
        setting(LISTEN="nowhere"),
        "CUSTODY_LISTEN: write host:port, [address]:port or unix:/path (host:port or "
        "unix:/path of the vault)",
    ),
    "a plain listener": Mistake(
        setting(LISTEN="0.0.0.0:3001"),
        "CUSTODY_LISTEN is 0.0.0.0:3001 without TLS: " + PLAIN_LISTENER + ALLOW + "listen",
    ),
    "a plain listener by IPv6": Mistake(
        setting(LISTEN="[::]:3001"),
        "CUSTODY_LISTEN is [::]:3001 without TLS: " + PLAIN_LISTENER + ALLOW + "listen",
    ),
    "an open admin listener": Mistake(setting(ADMIN_LISTEN="0.0.0.0:3002"), OPEN_ADMIN),
    "two open listeners": Mistake(
        setting(LISTEN="0.0.0.0:3001", ADMIN_LISTEN="0.0.0.0:3002", ALLOW_PLAIN="jwks kms"),
        f"CUSTODY_LISTEN is 0.0.0.0:3001 without TLS: {PLAIN_LISTENER}{ALLOW}listen; {OPEN_ADMIN}",
    ),
    "a listener with a scheme": Mistake(
        setting(LISTEN="http://127.0.0.1:3001"),
        "CUSTODY_LISTEN: write host:port, [address]:port or unix:/path, without a scheme "
        "(host:port or unix:/path of the vault)",
    ),
    "an IPv6 address without brackets": Mistake(
        setting(LISTEN="::1:3001"),
        "CUSTODY_LISTEN: write an IPv6 address in brackets: [::1]:3001 (host:port or "
        "unix:/path of the vault)",
    ),
    "an admin listener without a port": Mistake(
        setting(ADMIN_LISTEN="127.0.0.1"),
        "CUSTODY_ADMIN_LISTEN: write host:port, [address]:port or unix:/path (host:port or "
        "unix:/path of /livez, /readyz and /metrics)",
    ),
    "an address of another host": Mistake(
        setting(LISTEN="192.0.2.1:3001", TRUSTED_PROXIES="192.0.2.2"),
        "CUSTODY_LISTEN: can't listen on 192.0.2.1:3001: Cannot assign requested address; "
        "this host has no such address: set one that it has, or have the service manager open"
        " it (ListenStream= with FreeBind=yes)",
    ),
    "a host that has no address": Mistake(
        setting(LISTEN="nowhere.invalid:3001"),
        "CUSTODY_LISTEN: can't listen on nowhere.invalid:3001: Name or service not known; set"
        " CUSTODY_LISTEN to an address of this host",
    ),
    "a relative path of a socket": Mistake(
        setting(LISTEN="unix:custody.sock"),
        "CUSTODY_LISTEN: write unix:/absolute/path, or unix:/path?mode=0660&group=NAME "
        "(host:port or unix:/path of the vault)",
    ),
    "a socket in no folder": Mistake(
        setting(LISTEN="unix:/nowhere/custody.sock"),
        "CUSTODY_LISTEN: can't listen on unix:/nowhere/custody.sock: there is no folder "
        "/nowhere; make that folder first",
    ),
    "a socket of a group that is not there": Mistake(
        lambda place: {"CUSTODY_LISTEN": f"unix:{place.folder}/s?group=nobody-here"},
        "CUSTODY_LISTEN: can't listen on unix:{folder}/s?group=nobody-here: there is no group"
        " nobody-here; name a group of this host",
    ),
    "proxies that are no addresses": Mistake(
        setting(TRUSTED_PROXIES="proxy.example"),
        "CUSTODY_TRUSTED_PROXIES: write addresses or CIDR networks (host bits zero), or unix "
        "for a local socket (addresses or CIDR networks whose X-Forwarded-For or Forwarded is "
        "believed)",
    ),
    "any origin": Mistake(
        setting(CORS_ORIGINS="*"),
        "CUSTODY_CORS_ORIGINS: an origin is scheme://host[:port] without a path, never * "
        "(origins of browsers that may call the vault)",
    ),
    "a rate that is no number": Mistake(
        setting(RATE_LIMIT="many"),
        "CUSTODY_RATE_LIMIT: write a whole number (requests a second and user; 0 is no limit)",
    ),
    "a negative rate": Mistake(
        setting(RATE_LIMIT="-1"),
        "CUSTODY_RATE_LIMIT: write 0 or more (requests a second and user; 0 is no limit)",
    ),
    "no worker at all": Mistake(
        setting(WORKERS="0"),
        "CUSTODY_WORKERS: write 1 or more (processes that serve the vault on one listener)",
    ),
    "an unknown environment": Mistake(
        setting(ENV="staging"),
        "CUSTODY_ENV: write 'production' or 'development' (production refuses every unsafe state)",
    ),
    "an unknown log level": Mistake(
        setting(LOG_LEVEL="loud"),
        "CUSTODY_LOG_LEVEL: write 'debug', 'info', 'warning' or 'error' (debug, info, warning"
        " or error)",
    ),
    "a config file that is not there": Mistake(
        setting(CONFIG="/nowhere/custody.toml"),
        "CUSTODY_CONFIG names /nowhere/custody.toml: No such file or directory",
    ),
    "a config file with an unknown name": Mistake(
        lambda place: {"CUSTODY_CONFIG": place.file("listne = 'x'")},
        "CUSTODY_CONFIG: {folder}/file has an unknown name 'listne' (did you mean listen?); "
        "known: env, listen, admin_listen, database_url, rewrap_database_url, "
        "owner_database_url, audit_database_url, kek, old_keks, second_kek, kek_max_age, "
        "data_key_ttl, data_key_max_age, legacy_rows, jwks_url, jwks_file, jwt_issuer, "
        "jwt_audience, jwt_max_lifetime, step_up_max_age, step_up_acr, reset, trusted_proxies, "
        "cors_origins, user_concurrency, rate_limit, unwrap_limit, canary_users, canary_answer, "
        "rewrap_interval, erasure_record, audit_seal_interval, audit_export, tls_cert, tls_key, "
        "allow_plain, admin_token, log_level, log_format, tracing, workers",
    ),
    "a value and a file": Mistake(
        setting(JWT_ISSUER_FILE="/nowhere/issuer"),
        "CUSTODY_JWT_ISSUER and CUSTODY_JWT_ISSUER_FILE are both set; unset one",
    ),
    "a URL of another scheme": Mistake(
        setting(DATABASE_URL="mysql://u:x@127.0.0.1/d"),
        "CUSTODY_DATABASE_URL: write postgresql://role:password@host:5432/database "
        "(PostgreSQL, as a login role that is custody_app or a member of it)",
    ),
    "an @ in a password": Mistake(
        setting(DATABASE_URL="postgresql://u:p@ss@127.0.0.1/d"),
        "CUSTODY_DATABASE_URL: percent-encode special characters (@ is %40, / is %2F, # is "
        "%23, ? is %3F, % is %25) (PostgreSQL, as a login role that is custody_app or a "
        "member of it)",
    ),
    "a port that is none": Mistake(
        setting(DATABASE_URL="postgresql://u:x@127.0.0.1:99999/d"),
        "CUSTODY_DATABASE_URL: a port is a number from 1 to 65535; percent-encode special "
        "characters (@ is %40, / is %2F, # is %23, ? is %3F, % is %25) (PostgreSQL, as a "
        "login role that is custody_app or a member of it)",
    ),
    "a database in clear": Mistake(
        setting(DATABASE_URL="postgresql://u:x@db.invalid/d"),
        "CUSTODY_DATABASE_URL: what goes to db.invalid:5432 may cross the network in clear "
        "(sslmode=prefer), the password too; " + VERIFY_FULL + ALLOW + "database",
    ),
    "one of two hosts in clear": Mistake(
        setting(DATABASE_URL="postgresql://u:x@127.0.0.1:5433,192.0.2.1/d?sslmode=allow"),
        "CUSTODY_DATABASE_URL: what goes to 192.0.2.1:5432 may cross the network in clear "
        "(sslmode=allow), the password too; " + VERIFY_FULL + ALLOW + "database",
    ),
    "re-wraps in clear": Mistake(
        setting(REWRAP_DATABASE_URL="postgresql://u:x@[2001:db8::1]/d?sslmode=disable"),
        "CUSTODY_REWRAP_DATABASE_URL: what goes to [2001:db8::1]:5432 may cross the network in "
        "clear (sslmode=disable), the password too; " + VERIFY_FULL + ALLOW + "database",
    ),
    "channel binding": Mistake(
        setting(DATABASE_URL=lambda place: place.url("custody_app") + "?channel_binding=require"),
        "CUSTODY_DATABASE_URL: the parameter channel_binding is not supported as it is: take "
        "it out, and set sslmode=verify-full, which makes sure of the server (PostgreSQL, as "
        "a login role that is custody_app or a member of it)",
    ),
    "a parameter that libpq does not know": Mistake(
        setting(DATABASE_URL=lambda place: place.url("custody_app") + "?sslmod=require"),
        "CUSTODY_DATABASE_URL: parameter 1 is none that libpq knows; is sslmode meant? "
        "(PostgreSQL, as a login role that is custody_app or a member of it)",
    ),
    "verify-full without a CA": Mistake(
        setting(DATABASE_URL=lambda place: place.url("custody_app") + "?sslmode=verify-full"),
        "CUSTODY_DATABASE_URL: sslmode=verify-full needs the certificate of the CA: add "
        "sslrootcert=/path/to/it, or sslrootcert=system for those of the operating system",
    ),
    "a KMS in clear": Mistake(
        variable(
            CUSTODY_KEK="vault:transit/custody",
            VAULT_ADDR="http://vault.invalid:8200",
            VAULT_TOKEN="t",
        ),
        "KEK vault:transit/custody: http://vault.invalid:8200 is asked in clear: "
        + PLAIN_KMS
        + ALLOW
        + "kms",
    ),
    "a KMS in clear for old rows": Mistake(
        variable(
            CUSTODY_OLD_KEKS="aws-kms:alias/custody",
            AWS_REGION="eu-central-1",
            AWS_ENDPOINT_URL="http://kms.invalid",
        ),
        "KEK aws-kms:alias/custody: http://kms.invalid is asked in clear: "
        + PLAIN_KMS
        + ALLOW
        + "kms",
    ),
    "no KEK": Mistake(
        kek(""),
        "KEK env:MANA_AUTH_KEK: neither MANA_AUTH_KEK nor MANA_AUTH_KEK_FILE is set; give it "
        "the key that wrapped the rows there are; only where there are none yet, make one "
        "with: openssl rand -base64 32",
    ),
    "a KEK that is no base64": Mistake(
        kek("not base64 at all, is it"),
        "KEK env:MANA_AUTH_KEK: what is there is not base64 of 32 bytes: it is text of "
        "another kind; restore the key that wrapped the rows there are; only where there are "
        "none yet, make a new one with: openssl rand -base64 32",
    ),
    "a short KEK": Mistake(
        kek("c2hvcnQ="),
        "KEK env:MANA_AUTH_KEK: what is there is not base64 of 32 bytes: it is base64 of 5 "
        "bytes; restore the key that wrapped the rows there are; only where there are none "
        "yet, make a new one with: openssl rand -base64 32",
    ),
    "a KEK of zeros": Mistake(
        kek("A" * 43 + "="),
        "KEK env:MANA_AUTH_KEK: the all-zero key protects nothing; restore the key that wrapped "
        "the rows there are; only where there are none yet, make a new one with: openssl rand "
        "-base64 32",
    ),
    "a KEK as hex": Mistake(
        kek(KEY.hex()),
        "KEK env:MANA_AUTH_KEK: what is there is not base64 of 32 bytes: it is 64 hex "
        "characters: write the same bytes as base64 (xxd -r -p | base64); restore the key "
        "that wrapped the rows there are; only where there are none yet, make a new one with:"
        " openssl rand -base64 32",
    ),
    "a KEK as url-safe base64": Mistake(
        kek(base64.urlsafe_b64encode(KEY).decode()),
        "KEK env:MANA_AUTH_KEK: what is there is not base64 of 32 bytes: it is url-safe "
        "base64: write + for each - and / for each _, and = at its end; restore the key that "
        "wrapped the rows there are; only where there are none yet, make a new one with: "
        "openssl rand -base64 32",
    ),
    "a KEK without its =": Mistake(
        kek(OTHER_KEK.rstrip("=")),
        "KEK env:MANA_AUTH_KEK: what is there is not base64 of 32 bytes: it lacks the = at "
        "its end: write it there; restore the key that wrapped the rows there are; only where"
        " there are none yet, make a new one with: openssl rand -base64 32",
    ),
    "a KEK in quotes": Mistake(
        kek(f'"{OTHER_KEK}"'),
        "KEK env:MANA_AUTH_KEK: what is there is not base64 of 32 bytes: it has quotes around"
        " it: take them away; restore the key that wrapped the rows there are; only where "
        "there are none yet, make a new one with: openssl rand -base64 32",
    ),
    "a KEK behind a byte order mark": Mistake(
        kek_file(b"\xef\xbb\xbf" + OTHER_KEK.encode()),
        "KEK env:MANA_AUTH_KEK: what is there is not base64 of 32 bytes: it begins with a "
        "byte order mark: save it as plain ASCII text; restore the key that wrapped the rows "
        "there are; only where there are none yet, make a new one with: openssl rand -base64 "
        "32",
    ),
    "a KEK as raw bytes": Mistake(
        kek_file(KEY),
        "KEK env:MANA_AUTH_KEK: what is there is not base64 of 32 bytes: it is 32 raw bytes: "
        "write them as base64 (base64 -w0 FILE); restore the key that wrapped the rows there "
        "are; only where there are none yet, make a new one with: openssl rand -base64 32",
    ),
    "an empty file as a KEK": Mistake(
        kek_file(b""),
        "KEK env:MANA_AUTH_KEK: what is there is not base64 of 32 bytes: it is empty; restore"
        " the key that wrapped the rows there are; only where there are none yet, make a new "
        "one with: openssl rand -base64 32",
    ),
    "a folder as a KEK": Mistake(
        lambda place: {"MANA_AUTH_KEK": "", "MANA_AUTH_KEK_FILE": str(place.folder)},
        "KEK env:MANA_AUTH_KEK: MANA_AUTH_KEK_FILE names {folder}, which is a folder: name "
        "the file in it that holds the key",
    ),
    "a KEK in a file for all": Mistake(
        kek_file(OTHER_KEK, 0o644),
        "KEK env:MANA_AUTH_KEK: MANA_AUTH_KEK_FILE names {folder}/file, which has mode 0644: "
        "others may use it; run chmod 400 on it, or 600",
    ),
    "a KEK in no file": Mistake(
        variable(MANA_AUTH_KEK="", MANA_AUTH_KEK_FILE="/nowhere/kek"),
        "KEK env:MANA_AUTH_KEK: MANA_AUTH_KEK_FILE names /nowhere/kek, which does not exist; "
        "correct the path, or restore the file from your copy",
    ),
    "a KEK of an unknown kind": Mistake(
        setting(KEK="kms:key"),
        "KEK kms:key: no backend is named 'kms'; known: aws-kms, azure-kv, env, gcp-kms, pkcs11, "
        "systemd, vault",
    ),
    "one KEK twice": Mistake(
        setting(OLD_KEKS="env:MANA_AUTH_KEK"),
        "KEK env:MANA_AUTH_KEK is listed twice: remove one",
    ),
    "a credential without systemd": Mistake(
        setting(KEK="systemd:kek"),
        "KEK systemd:kek: CREDENTIALS_DIRECTORY is not set: systemd gives this process no "
        "credential; add to its unit: LoadCredential=kek:/path/to/the/key",
    ),
    "transit without an address": Mistake(
        setting(KEK="vault:transit/custody"),
        "KEK vault:transit/custody: no login is configured: set one of VAULT_TOKEN, "
        "VAULT_TOKEN_FILE, VAULT_ROLE_ID with VAULT_SECRET_ID, VAULT_KUBERNETES_ROLE, "
        "VAULT_JWT_ROLE, or VAULT_CERT_ROLE",
    ),
    "a transit key without its mount": Mistake(
        setting(KEK="vault:custody"),
        "KEK vault:custody: write vault:MOUNT/KEY, for example vault:transit/custody",
    ),
    "a wrong password": Mistake(
        setting(DATABASE_URL=lambda place: place.misspelt("custody_app")),
        "CUSTODY_DATABASE_URL: 127.0.0.1:{port}: password authentication failed for user "
        '"custody_app"; correct the URL',
    ),
    "a database that is not there": Mistake(
        setting(DATABASE_URL=lambda place: place.url("custody_app", "nowhere")),
        'CUSTODY_DATABASE_URL: 127.0.0.1:{port}: database "nowhere" does not exist; correct '
        "the URL",
    ),
    "a database that was never migrated": Mistake(
        setting(DATABASE_URL=lambda place: place.url("custody_app", "postgres")),
        "the database postgres has no schema of custody; run: custody migrate",
    ),
    "a superuser": Mistake(
        setting(DATABASE_URL=lambda place: place.url("postgres")),
        "the role postgres is superuser or may take such a role on; set "
        "CUSTODY_DATABASE_URL to a login role that is a member of custody_app",
    ),
    "the owner": Mistake(
        setting(DATABASE_URL=lambda place: place.url("custody_owner")),
        "the role custody_owner owns things (first: database {database}), and a runtime role "
        "owns nothing; set CUSTODY_DATABASE_URL to a login role that is a member of custody_app",
    ),
    "the role for re-wraps": Mistake(
        setting(DATABASE_URL=lambda place: place.url("custody_rewrap")),
        "the role custody_rewrap is not custody_app nor a member of it; it is one for "
        "re-wraps: set CUSTODY_DATABASE_URL to a login role that is a member of custody_app",
    ),
    "re-wraps with a wrong password": Mistake(
        setting(REWRAP_DATABASE_URL=lambda place: place.misspelt("custody_rewrap")),
        "CUSTODY_REWRAP_DATABASE_URL: 127.0.0.1:{port}: password authentication failed for "
        'user "custody_rewrap"; correct the URL',
    ),
    "re-wraps by the daemon's role": Mistake(
        setting(REWRAP_DATABASE_URL=lambda place: place.url("custody_app")),
        "CUSTODY_REWRAP_DATABASE_URL: the role custody_app is not custody_rewrap nor a member"
        " of it; it is one for the daemon: set CUSTODY_REWRAP_DATABASE_URL to a login role "
        "that is a member of custody_rewrap",
    ),
    "re-wraps in a database that is not there": Mistake(
        setting(REWRAP_DATABASE_URL=lambda place: place.url("custody_rewrap", "nowhere")),
        'CUSTODY_REWRAP_DATABASE_URL: 127.0.0.1:{port}: database "nowhere" does not exist; '
        "correct the URL",
    ),
    "re-wraps in a database that was never migrated": Mistake(
        setting(REWRAP_DATABASE_URL=lambda place: place.url("custody_rewrap", "postgres")),
        "CUSTODY_REWRAP_DATABASE_URL: the database postgres has no schema of custody; run: "
        "custody migrate",
    ),
}

UNWISE: dict[str, Mistake] = {
    "a data key that is seldom opened again": Mistake(
        setting(DATA_KEY_TTL="3600", DATA_KEY_MAX_AGE="7200"),
        "CUSTODY_DATA_KEY_TTL is more than a quarter of CUSTODY_DATA_KEY_MAX_AGE: an outage of the "
        "KMS is survived for so much less; lower it",
    ),
    "a plain listener that is allowed": Mistake(
        setting(LISTEN="0.0.0.0:3001", ALLOW_PLAIN="listen"),
        "CUSTODY_LISTEN is 0.0.0.0:3001 without TLS: " + PLAIN_LISTENER,
    ),
    "plain http to the issuer that is allowed": Mistake(
        setting(JWKS_FILE="", JWKS_URL="http://issuer.invalid/jwks", ALLOW_PLAIN="jwks"),
        PLAIN_ISSUER,
    ),
    "a database in clear that is allowed": Mistake(
        setting(DATABASE_URL="postgresql://u:x@db.invalid/d", ALLOW_PLAIN="database"),
        "CUSTODY_DATABASE_URL: what goes to db.invalid:5432 may cross the network in clear "
        "(sslmode=prefer), the password too; " + VERIFY_FULL,
    ),
    "a database that may be another": Mistake(
        setting(DATABASE_URL="postgresql://u:x@db.invalid/d?sslmode=require"),
        "CUSTODY_DATABASE_URL: sslmode=require does not make sure that db.invalid:5432 is who "
        "answers: whoever is on the way may; " + VERIFY_FULL,
    ),
    "everybody is a trusted proxy": Mistake(
        setting(TRUSTED_PROXIES="0.0.0.0/0"),
        "CUSTODY_TRUSTED_PROXIES has 0.0.0.0/0: everybody may choose the address that the "
        "audit shows; name the proxies alone",
    ),
    "a misspelt setting": Mistake(
        setting(LISTNE="127.0.0.1:3001"),
        "CUSTODY_LISTNE is no setting: did you mean CUSTODY_LISTEN?",
    ),
    "the owner's URL": Mistake(
        setting(OWNER_DATABASE_URL="postgresql://owner:x@127.0.0.1/d"),
        "CUSTODY_OWNER_DATABASE_URL is set here; the daemon needs no owner: give it to "
        "custody migrate alone",
    ),
    "a KEK in a file for a group": Mistake(
        kek_file(OTHER_KEK, 0o640),
        "MANA_AUTH_KEK_FILE names {folder}/file, which others may use; run: chmod 600 "
        "{folder}/file",
    ),
    "a TLS key for all": Mistake(
        tls(lambda place: place.certificate("one", 0o644)),
        "CUSTODY_TLS_KEY names {folder}/one/key.pem, which others may use; run: chmod o= "
        "{folder}/one/key.pem",
    ),
    "a URL in a file for all": Mistake(
        lambda place: {
            "CUSTODY_DATABASE_URL": "",
            "CUSTODY_DATABASE_URL_FILE": place.file(place.url("custody_app"), 0o644),
        },
        "CUSTODY_DATABASE_URL_FILE names {folder}/file, which others may use; run: chmod 600 "
        "{folder}/file",
    ),
    "a secret id for all": Mistake(
        lambda place: {"VAULT_SECRET_ID_FILE": place.file("secret", 0o644)},
        "VAULT_SECRET_ID_FILE names {folder}/file, which others may use; run: chmod 600 "
        "{folder}/file",
    ),
}
