"""``custody doctor`` and ``custody serve`` judge alike: a table of what is wrong, both on each."""

import json
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from structlog.testing import capture_logs

from custody.app import running
from custody.ops import preflight
from custody.ops.doctor import Finding, Verdict, examine
from custody.settings import ConfigurationError, load
from tests.db.kek_registry import register, retire
from tests.ports import free_port
from tests.servers import Database, daemon_here, new_database, settings_for
from tests.tokens import Issuer

OTHER_KEK = "QW5vdGhlciBrZXkgb2YgdGhpcnR5LXR3byBieXRlcyE="


@dataclass(frozen=True)
class Place:
    """Where a configuration is made wrong."""

    database: Database
    folder: Path

    def url(self, role: str, **changes: str) -> str:
        """Return a role's URL with some of its text replaced."""
        url = self.database.url(role)
        for old, new in changes.items():
            url = url.replace(old, new)
        return url

    def file(self, text: str | bytes, mode: int = 0o600) -> str:
        """Write a file, and return its path."""
        path = self.folder / f"file-{len(list(self.folder.iterdir()))}"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(mode)
        return str(path)

    def certificate(self, name: str) -> tuple[str, str]:
        """Make a certificate and its key."""
        cert, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        command = ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-days", "1"]
        command += ["-subj", f"/CN={name}", "-out", str(cert), "-keyout", str(key)]
        subprocess.run(command, check=True, capture_output=True)
        return str(cert), str(key)

    def password(self, role: str) -> str:
        """Return the role's password."""
        return self.database.url(role).split(":")[2].split("@")[0]


Change: TypeAlias = Callable[[Place], Mapping[str, str]]
Turn: TypeAlias = Callable[[Place], Awaitable[None]]


def setting(**values: str) -> Change:
    return lambda _place: {f"CUSTODY_{name}": value for name, value in values.items()}


def variable(**values: str) -> Change:
    return lambda _place: values


def mismatched(place: Place) -> Mapping[str, str]:
    return {
        "CUSTODY_TLS_CERT": place.certificate("one")[0],
        "CUSTODY_TLS_KEY": place.certificate("other")[1],
    }


def no_pem(place: Place) -> Mapping[str, str]:
    return {
        "CUSTODY_TLS_CERT": place.certificate("one")[0],
        "CUSTODY_TLS_KEY": place.file("no key"),
    }


def kek_file(mode: int) -> Change:
    def change(place: Place) -> Mapping[str, str]:
        return {"MANA_AUTH_KEK": "", "MANA_AUTH_KEK_FILE": place.file(OTHER_KEK, mode)}

    return change


def open_tls_key(place: Place) -> Mapping[str, str]:
    cert, key = place.certificate("one")
    Path(key).chmod(0o644)
    return {"CUSTODY_TLS_CERT": cert, "CUSTODY_TLS_KEY": key}


REFUSED: dict[str, Change] = {
    "no database": setting(DATABASE_URL=""),
    "no issuer": setting(JWT_ISSUER=""),
    "no keys of the issuer": setting(JWKS_FILE=""),
    "two places for the issuer's keys": setting(JWKS_URL="https://issuer.example/jwks"),
    "a certificate without its key": setting(TLS_CERT="/nowhere/cert.pem"),
    "a certificate that is not there": setting(
        TLS_CERT="/nowhere/cert.pem", TLS_KEY="/nowhere/key.pem"
    ),
    "a key of another certificate": mismatched,
    "a key that is none": no_pem,
    "a listener without a port": setting(LISTEN="nowhere"),
    "an admin listener without a port": setting(ADMIN_LISTEN="127.0.0.1"),
    "a relative path of a socket": setting(LISTEN="unix:custody.sock"),
    "proxies that are no addresses": setting(TRUSTED_PROXIES="proxy.example"),
    "any origin": setting(CORS_ORIGINS="*"),
    "a negative rate": setting(RATE_LIMIT="-1"),
    "no worker at all": setting(WORKERS="0"),
    "an unknown environment": setting(ENV="staging"),
    "a config file that is not there": setting(CONFIG="/nowhere/custody.toml"),
    "a config file with an unknown name": lambda place: {
        "CUSTODY_CONFIG": place.file("listne = 'x'")
    },
    "a value and a file": setting(JWT_ISSUER_FILE="/nowhere/issuer"),
    "a URL of another scheme": setting(DATABASE_URL="mysql://u:x@127.0.0.1/d"),
    "channel binding": lambda place: {
        "CUSTODY_DATABASE_URL": place.url("custody_app") + "?channel_binding=require"
    },
    "a parameter that libpq does not know": lambda place: {
        "CUSTODY_DATABASE_URL": place.url("custody_app") + "?sslmod=require"
    },
    "no file of the issuer's keys": setting(JWKS_FILE="/nowhere/jwks.json"),
    "an issuer without keys": lambda place: {"CUSTODY_JWKS_FILE": place.file('{"keys": []}')},
    "keys that are no JSON": lambda place: {"CUSTODY_JWKS_FILE": place.file("<html>")},
    "no KEK": variable(MANA_AUTH_KEK=""),
    "a KEK that is no base64": variable(MANA_AUTH_KEK="not base64 at all, is it"),
    "a short KEK": variable(MANA_AUTH_KEK="c2hvcnQ="),
    "a KEK of zeros": variable(MANA_AUTH_KEK="A" * 43 + "="),
    "a KEK of an unknown kind": setting(KEK="kms:key"),
    "one KEK twice": setting(OLD_KEKS="env:MANA_AUTH_KEK"),
    "a KEK in a file for all": kek_file(0o644),
    "a KEK in no file": variable(MANA_AUTH_KEK="", MANA_AUTH_KEK_FILE="/nowhere/kek"),
    "a wrong password": lambda place: {
        "CUSTODY_DATABASE_URL": place.url(
            "custody_app", **{f":{place.password('custody_app')}@": ":wrong@"}
        )
    },
    "a database that is not there": lambda place: {
        "CUSTODY_DATABASE_URL": place.url("custody_app", **{place.database.name: "nowhere"})
    },
    "a superuser": lambda place: {"CUSTODY_DATABASE_URL": place.url("postgres")},
    "the owner": lambda place: {"CUSTODY_DATABASE_URL": place.url("custody_owner")},
    "the role for re-wraps": lambda place: {"CUSTODY_DATABASE_URL": place.url("custody_rewrap")},
    "re-wraps with a wrong password": lambda place: {
        "CUSTODY_REWRAP_DATABASE_URL": place.url(
            "custody_rewrap", **{f":{place.password('custody_rewrap')}@": ":wrong@"}
        )
    },
    "re-wraps by the daemon's role": lambda place: {
        "CUSTODY_REWRAP_DATABASE_URL": place.url("custody_app")
    },
    "re-wraps in a database that is not there": lambda place: {
        "CUSTODY_REWRAP_DATABASE_URL": place.url("custody_rewrap", **{place.database.name: "no"})
    },
    "re-wraps in a database without our schema": lambda place: {
        "CUSTODY_REWRAP_DATABASE_URL": place.url(
            "custody_rewrap", **{place.database.name: "postgres"}
        )
    },
}

WARNED: dict[str, Change] = {
    "a plain listener": setting(LISTEN="0.0.0.0:3001"),
    "a plain listener by IPv6": setting(LISTEN="[::]:3001"),
    "an open admin listener": setting(ADMIN_LISTEN="0.0.0.0:3002"),
    "everybody is a trusted proxy": setting(TRUSTED_PROXIES="0.0.0.0/0 ::/0"),
    "the owner's URL": setting(OWNER_DATABASE_URL="postgresql://owner:x@127.0.0.1/d"),
    "plain http to the issuer": setting(JWKS_FILE="", JWKS_URL="http://issuer.invalid/jwks"),
    "a KEK in a file for a group": kek_file(0o640),
    "a TLS key for all": open_tls_key,
    "a URL in a file for all": lambda place: {
        "CUSTODY_DATABASE_URL": "",
        "CUSTODY_DATABASE_URL_FILE": place.file(place.url("custody_app"), 0o644),
    },
    "a secret id for all": lambda place: {"VAULT_SECRET_ID_FILE": place.file("secret", 0o644)},
}


async def serve(environ: Mapping[str, str], *, whole: bool = True) -> tuple[str | None, list[Any]]:
    """Begin as the command does.

    Args:
        environ: the variables.
        whole: else only the settings are judged, and nobody listens.

    Returns:
        Why it is refused, and what was logged.
    """
    with capture_logs() as logs:
        try:
            settings = load(environ)
            preflight.check(settings, environ)
            if whole:
                async with running(settings, environ):
                    pass
        except ConfigurationError as error:
            return str(error), logs
    return None, logs


def said(findings: list[Finding], verdict: Verdict) -> list[str]:
    return [finding.message for finding in findings if finding.verdict is verdict]


@pytest.fixture
def place(database: Database, tmp_path: Path) -> Place:
    return Place(database, tmp_path)


def wrong(place: Place, issuer: Issuer, change: Change) -> dict[str, str]:
    folder = place.folder / "daemon"
    folder.mkdir()
    right = settings_for(place.database, issuer, folder)
    return {name: value for name, value in {**right, **change(place)}.items() if value}


@pytest.mark.parametrize("name", REFUSED)
async def test_refused_by_both_with_one_line(place: Place, issuer: Issuer, name: str) -> None:
    environ = wrong(place, issuer, REFUSED[name])
    findings = await examine(environ)
    refused, _ = await serve(environ)
    assert refused is not None
    assert "\n" not in refused
    assert "; ".join(said(findings, Verdict.FINDING)) == refused


@pytest.mark.parametrize("name", WARNED)
async def test_unwise_to_both_in_one_line(place: Place, issuer: Issuer, name: str) -> None:
    environ = wrong(place, issuer, WARNED[name])
    found = said(await examine(environ), Verdict.FINDING)
    refused, logs = await serve(environ, whole=False)
    assert refused is None
    logged = [one["problem"] for one in logs if one["event"] == "unsafe_setting"]
    assert found == logged != []


async def unforced(place: Place) -> None:
    await place.database.execute("ALTER TABLE auth.encryption_vaults NO FORCE ROW LEVEL SECURITY")


async def retired(place: Place) -> None:
    await register(place.database, "env-v1")
    await retire(place.database, "env-v1")


async def test_database_that_is_refused_by_both(place: Place, issuer: Issuer) -> None:
    environ = wrong(place, issuer, setting())
    await unforced(place)
    refused, _ = await serve(environ)
    assert "; ".join(said(await examine(environ), Verdict.FINDING)) == refused
    assert refused is not None


async def test_kek_that_is_not_the_recorded_one(place: Place, issuer: Issuer) -> None:
    environ = wrong(place, issuer, setting())
    assert (await serve(environ))[0] is None
    environ["MANA_AUTH_KEK"] = OTHER_KEK
    refused, _ = await serve(environ)
    assert said(await examine(environ), Verdict.FINDING) == [refused]


@pytest.mark.parametrize(
    "change",
    [
        lambda _place: {"CUSTODY_DATABASE_URL": f"postgresql://u:x@127.0.0.1:{free_port()}/d"},
        lambda _place: {
            "CUSTODY_JWKS_FILE": "",
            "CUSTODY_JWKS_URL": f"http://127.0.0.1:{free_port()}/jwks",
        },
    ],
    ids=["database", "issuer"],
)
async def test_down_to_both_with_one_line(place: Place, issuer: Issuer, change: Change) -> None:
    environ = wrong(place, issuer, change)
    (down,) = said(await examine(environ), Verdict.DOWN)
    refused, logs = await serve(environ)
    assert refused is None
    assert down in json.dumps([one.get("reason") or one.get("error") for one in logs])


# ── one database ──────────────────────────────────────────────────────────────


async def test_rewrap_url_of_another_database(
    place: Place, issuer: Issuer, database: Database
) -> None:
    """A copy of it, even: no row there is the daemon's."""
    async with new_database(database.server) as other:
        change = {"CUSTODY_REWRAP_DATABASE_URL": other.url("custody_rewrap")}
        environ = wrong(place, issuer, lambda _place: change)
        refused, _ = await serve(environ)
        assert said(await examine(environ), Verdict.FINDING) == [refused]
        assert refused is not None
        assert other.name in refused
        assert database.name in refused


# ── advice ────────────────────────────────────────────────────────────────────


async def test_functions_of_a_superuser(place: Place, issuer: Issuer) -> None:
    environ = wrong(place, issuer, setting())
    async with daemon_here(place.database, issuer, place.folder):
        pass
    assert not said(await examine(environ), Verdict.FINDING)
    definers = await place.database.fetch(
        "SELECT oid::regprocedure::text AS name FROM pg_proc"
        " WHERE pronamespace = 'auth'::regnamespace AND prosecdef"
    )
    for definer in definers:
        await place.database.execute(f"ALTER FUNCTION {definer['name']} OWNER TO postgres")
    await place.database.execute(
        "ALTER POLICY encryption_vaults_kek_sample ON auth.encryption_vaults TO postgres"
    )
    (found,) = said(await examine(environ), Verdict.FINDING)
    assert f"{len(definers)} functions" in found
    refused, logs = await serve(environ)
    assert refused is None
    assert [one["advice"] for one in logs if one["event"] == "database_advice"] == [found]
    # What the page says to do about it, as that superuser.
    page = Path(__file__).parents[2].joinpath("docs", "self-hosting.md").read_text("utf-8")
    cure = page.split("## Another owner", 1)[1].split("```sql\n", 1)[1].split("```", 1)[0]
    role, rest = cure.split("\n", 1)
    assert role.startswith("CREATE ROLE custody_owner")  # it is there
    await place.database.execute(
        rest.replace("DATABASE custody ", f"DATABASE {place.database.name} ")
    )
    assert not said(await examine(environ), Verdict.FINDING)
    assert (await serve(environ))[0] is None
