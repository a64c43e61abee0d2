"""What would cross a network in clear: refused in production, allowed by name or in development.

0.0.0.0 is no loopback by its name, and as a destination it leads there on Linux: what is allowed
is used for real, and no server of these tests listens on anything but loopback.
"""

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from structlog.testing import capture_logs

from custody.app import running
from custody.ops import preflight
from custody.ops.doctor import examine
from custody.settings import ConfigurationError, load
from custody.sockets.listeners import Listeners, open_listeners
from kek_backends.findings import Verdict
from tests.bao_server import Bao
from tests.certificates import make_certificate
from tests.db.command import custody
from tests.e2e.hangup import configured
from tests.http_servers import HttpServer, serving
from tests.leaks import remember
from tests.proofs import some
from tests.servers import Database, settings_for
from tests.tokens import Issuer
from tests.unit.test_plain import Bound

HERE, ELSEWHERE = "127.0.0.1", "0.0.0.0"  # noqa: S104 - asked, and not listened on
TOKEN = remember("0123456789abcdef" * 4)
# What is asked in clear, and how that is said.
SAID = {
    "database": "CUSTODY_DATABASE_URL: what goes to 0.0.0.0:",
    "jwks": "CUSTODY_JWKS_URL: http://0.0.0.0:",
    "kms": "KEK vault:transit/",
}


@dataclass(frozen=True)
class Plain:
    """A daemon's settings with all that is asked in clear on loopback, and its variables by name.

    Args:
        environ: of a production daemon.
        ways: the variables that name each place.
    """

    environ: dict[str, str]
    ways: Mapping[str, dict[str, str]]

    def elsewhere(self, *names: str, **more: str) -> dict[str, str]:
        """Return the variables of a daemon that asks these in clear over what may be a network."""
        environ = dict(self.environ)
        for name in names:
            moved = self.ways[name].items()
            environ |= {key: value.replace(HERE, ELSEWHERE) for key, value in moved}
        return environ | more


@pytest.fixture
def plain(database: Database, issuer: Issuer, tmp_path: Path, bao: Bao) -> Iterator[Plain]:
    key, keys = bao.make_key(), issuer.jwks()
    with serving(HttpServer(lambda asked: asked.say(keys))) as server:
        ways = {
            "database": {"CUSTODY_DATABASE_URL": database.url("custody_app")},
            "jwks": {"CUSTODY_JWKS_URL": f"{server.url}/jwks"},
            "kms": {"CUSTODY_KEK": f"vault:transit/{key}", **bao.environ(key, period="24h")},
        }
        environ = settings_for(database, issuer, tmp_path)
        del environ["CUSTODY_JWKS_FILE"]
        for way in ways.values():
            environ |= way
        yield Plain(environ, ways)


async def boot(
    environ: Mapping[str, str], listeners: Listeners | None = None, *, checked: bool = True
) -> tuple[str | None, list[str]]:
    """Begin as ``custody serve`` does, or as one of its processes does, without the first look.

    Returns:
        The refusal, and the warnings of what is unsafe.
    """
    refused = None
    with capture_logs() as logs:
        try:
            settings = load(environ)
            if checked:
                preflight.check(settings, environ)
            async with running(settings, environ, listeners):
                pass
        except ConfigurationError as error:
            refused = str(error)
    return refused, [one["problem"] for one in logs if one["event"] == "unsafe_setting"]


@pytest.mark.prove
async def test_loopback_is_no_network(plain: Plain) -> None:
    assert await boot(plain.environ) == (None, [])
    findings = await examine(plain.environ)
    assert SAID["database"] not in str(findings)
    assert "in clear" not in str(findings)


@pytest.mark.prove
@pytest.mark.parametrize("name", SAID)
async def test_refused_in_production(plain: Plain, name: str) -> None:
    others = {"CUSTODY_ALLOW_PLAIN": " ".join({*SAID, "listen"} - {name})}
    for environ in (plain.elsewhere(name), plain.elsewhere(name, **others)):
        for checked in (True, False):
            refused, warnings = await boot(environ, checked=checked)
            assert refused is not None
            assert refused.startswith(SAID[name])
            assert refused.endswith(f", or allow it: CUSTODY_ALLOW_PLAIN={name}")
            assert warnings == []
        found = [one.message for one in await examine(environ) if one.verdict is Verdict.FINDING]
        assert refused in found
    done = await asyncio.to_thread(custody, environ, "serve")
    assert (done.code, done.complaint) == (78, refused)


@pytest.mark.prove
async def test_refused_by_several_processes(plain: Plain) -> None:
    environ = plain.elsewhere("database", CUSTODY_WORKERS="2")
    done = await asyncio.to_thread(custody, environ, "serve")
    assert done.code == 78
    assert done.complaint.startswith(SAID["database"])


@pytest.mark.parametrize("name", SAID)
@pytest.mark.parametrize("env", some(["production", "development"], "production"))
async def test_allowed_by_name_or_in_development(plain: Plain, name: str, env: str) -> None:
    """It is used then, and a warning says so; the doctor says the same."""
    allowed = name if env == "production" else ""
    environ = plain.elsewhere(name, CUSTODY_ENV=env, CUSTODY_ALLOW_PLAIN=allowed)
    refused, (warning,) = await boot(environ)
    assert refused is None
    assert warning.startswith(SAID[name])
    assert "CUSTODY_ALLOW_PLAIN" not in warning
    findings = await examine(environ)
    assert [one.message for one in findings if one.verdict is Verdict.FINDING] == [warning]
    assert not [one for one in findings if one.verdict is Verdict.DOWN]


@pytest.mark.prove
async def test_all_of_them_are_said_one_by_one(plain: Plain) -> None:
    environ = plain.elsewhere(*SAID)
    allowed: list[str] = []
    for name in ("jwks", "kms", "database"):
        refused, _ = await boot(environ | {"CUSTODY_ALLOW_PLAIN": ",".join(allowed)})
        assert refused is not None
        assert refused.startswith(SAID[name])
        allowed.append(name)
    refused, warnings = await boot(environ | {"CUSTODY_ALLOW_PLAIN": ",".join(allowed)})
    assert refused is None
    assert len(warnings) == 3


# ── commands ──────────────────────────────────────────────────────────────────

OWNER, REWRAP, APP = (f"CUSTODY_{name}DATABASE_URL" for name in ("OWNER_", "REWRAP_", ""))
COMMANDS = {
    "migrate": OWNER,
    "users erase alice --yes": OWNER,
    "rewrap run": REWRAP,
    "rewrap run --dry-run": REWRAP,
    "rewrap status": REWRAP,
    "kek list": REWRAP,
    "kek retire env-v0": REWRAP,
}
ROLES = {OWNER: "custody_owner", REWRAP: "custody_rewrap", APP: "custody_app"}


@pytest.mark.prove
@pytest.mark.parametrize("typed", [*COMMANDS, "kek list by the daemon's role"])
async def test_commands_refuse_a_database_in_clear(
    database: Database, issuer: Issuer, tmp_path: Path, typed: str
) -> None:
    variable = COMMANDS.get(typed, APP)
    environ = settings_for(database, issuer, tmp_path)
    environ[variable] = database.url(ROLES[variable]).replace(HERE, ELSEWHERE)
    words = typed.partition(" by ")[0].split()
    done = await asyncio.to_thread(custody, environ, *words)
    assert done.code == 78
    assert done.complaint.startswith(f"{variable}: what goes to 0.0.0.0:")
    assert done.complaint.endswith("CUSTODY_ALLOW_PLAIN=database")
    allowed = environ | {"CUSTODY_ALLOW_PLAIN": "database"}
    done = await asyncio.to_thread(custody, allowed, *words)
    assert done.code in {0, 1}
    assert "in clear" not in done.err


async def test_one_url_of_two_is_enough(database: Database, issuer: Issuer, tmp_path: Path) -> None:
    """A re-wrap looks at the daemon's database, too."""
    environ = settings_for(database, issuer, tmp_path)
    environ[REWRAP] = database.url("custody_rewrap")
    environ[APP] = environ[APP].replace(HERE, ELSEWHERE)
    done = await asyncio.to_thread(custody, environ, "rewrap", "status")
    assert done.code == 78
    assert done.complaint.startswith(f"{APP}: what goes to 0.0.0.0:")


@pytest.mark.prove
async def test_commands_that_use_a_kms(plain: Plain, database: Database) -> None:
    environ = plain.elsewhere("kms", CUSTODY_REWRAP_DATABASE_URL=database.url("custody_rewrap"))
    for words in (("rewrap", "run"), ("rewrap", "run", "--dry-run")):
        done = await asyncio.to_thread(custody, environ, *words)
        assert done.code == 78
        assert done.complaint.startswith(SAID["kms"])
    # What is configured is not seen; what the database knows is.
    done = await asyncio.to_thread(custody, environ, "kek", "list")
    assert done.code == 0
    assert f"could not be seen: {SAID['kms']}" in done.complaint


async def test_a_token_is_held_against_no_keys_that_came_in_clear(
    plain: Plain, issuer: Issuer, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(remember(issuer.token()))
    words = ("doctor", "--token", str(file), "--json")
    done = await asyncio.to_thread(custody, plain.elsewhere("jwks"), *words)
    (found,) = json.loads(done.out)
    assert (done.code, found["verdict"]) == (1, "finding")
    assert found["message"].startswith(SAID["jwks"])
    done = await asyncio.to_thread(custody, plain.environ, *words)
    assert done.code == 0


# ── reload ────────────────────────────────────────────────────────────────────


@pytest.mark.prove
async def test_reload_to_what_is_in_clear(
    plain: Plain, database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    url = plain.ways["jwks"]["CUSTODY_JWKS_URL"]
    kek = plain.ways["kms"]["CUSTODY_KEK"]
    login = {f"raw_{name}": value for name, value in plain.elsewhere("kms").items()}
    login = {name: value for name, value in login.items() if name.startswith("raw_VAULT_")}
    values: dict[str, Any] = {"jwks_url": url, "jwks_file": None, "allow_plain": []}
    with configured(database, issuer, tmp_path, values, JWKS_FILE="", **login) as at:
        away = url.replace(HERE, ELSEWHERE)
        assert (await at.refuses(jwks_url=away)).startswith(SAID["jwks"])
        assert (await at.refuses(jwks_url=url, old_keks=[kek])).startswith(f"KEK {kek}: ")
        await at.reloads(allow_plain=["kms", "jwks"], jwks_url=away)
        (warning,) = (one["problem"] for one in at.daemon.events("unsafe_setting"))
        assert warning.startswith(f"KEK {kek}: ")
        assert (await at.refuses(allow_plain=["kms"])).startswith(SAID["jwks"])
        assert (await at.refuses(allow_plain=["jwks"])).startswith(f"KEK {kek}: ")


# ── listeners ─────────────────────────────────────────────────────────────────

Binds: TypeAlias = Callable[..., tuple[Bound, ...]]


@pytest.fixture
def bound() -> Iterator[Binds]:
    """Makes sockets that say where they are bound; nothing can connect to them."""
    made: list[Bound] = []

    def bind(*places: tuple[object, ...]) -> tuple[Bound, ...]:
        for place in places:
            made.append(Bound())
            made[-1].place = place
        return tuple(made[-len(places) :])

    yield bind
    for one in made:
        one.close()


SET, ANY, ANY6 = (HERE, 3001), (ELSEWHERE, 3001), ("::", 3001, 0, 0)


@pytest.mark.parametrize(("places", "shown"), [([ANY], "0.0.0.0:3001"), ([SET, ANY6], "[::]:3001")])
async def test_socket_of_the_vault_that_was_handed_over(
    plain: Plain, bound: Binds, tmp_path: Path, places: list[tuple[object, ...]], shown: str
) -> None:
    said = f"a socket of the vault is bound to {shown} without TLS: keys and tokens cross"
    environ = plain.elsewhere(CUSTODY_LISTEN="")
    refused, warnings = await boot(environ, Listeners(bound(*places), bound(SET)))
    assert (refused or "").startswith(said)
    assert (refused or "").endswith(", or allow it: CUSTODY_ALLOW_PLAIN=listen")
    assert warnings == []
    cert, key = make_certificate(tmp_path / "tls")
    encrypted = {"CUSTODY_TLS_CERT": str(cert), "CUSTODY_TLS_KEY": str(key)}
    for change, warned in (
        ({"CUSTODY_ALLOW_PLAIN": "listen"}, True),
        ({"CUSTODY_ENV": "development"}, True),
        (encrypted, False),
    ):
        settings = load({name: one for name, one in (environ | change).items() if one})
        with capture_logs() as logs:
            preflight.check_listeners(settings, Listeners(bound(*places), bound(SET)))
        assert [one["problem"].startswith(said) for one in logs] == [True] * warned


async def test_admin_socket_that_was_handed_over(plain: Plain, bound: Binds) -> None:
    said = "a socket of the admin listener is bound to 0.0.0.0:3001: whoever reaches it reads"
    environ = plain.elsewhere(CUSTODY_ADMIN_LISTEN="")
    # TLS is the vault's, and what may be plain is not what may be open.
    allowed = environ | {"CUSTODY_ALLOW_PLAIN": "listen"}
    refused, _ = await boot(allowed, Listeners(bound(SET), bound(ANY)))
    assert (refused or "").startswith(said)
    assert "CUSTODY_ADMIN_TOKEN (openssl rand -hex 32)" in (refused or "")
    for change, warned in (
        ({"CUSTODY_ADMIN_TOKEN": TOKEN}, 0),
        ({"CUSTODY_ENV": "development"}, 1),
    ):
        settings = load({name: one for name, one in (environ | change).items() if one})
        with capture_logs() as logs:
            preflight.check_listeners(settings, Listeners(bound(SET), bound(ANY)))
        assert [one["problem"].startswith(said) for one in logs] == [True] * warned


@pytest.mark.parametrize(
    ("change", "warnings"),
    [
        ({"CUSTODY_LISTEN": "0.0.0.0:0", "CUSTODY_ALLOW_PLAIN": "listen"}, 1),
        ({"CUSTODY_LISTEN": "0.0.0.0:0", "CUSTODY_ENV": "development"}, 1),
        ({"CUSTODY_ADMIN_LISTEN": "0.0.0.0:0", "CUSTODY_ENV": "development"}, 1),
        ({"CUSTODY_ADMIN_LISTEN": "0.0.0.0:0", "CUSTODY_ADMIN_TOKEN": TOKEN}, 0),
        ({"CUSTODY_LISTEN": "localhost:0"}, 0),
        ({"CUSTODY_LISTEN": "unix:/tmp/custody-of-nobody"}, 0),
    ],
)
def test_address_that_is_set_is_said_once(
    plain: Plain, bound: Binds, change: dict[str, str], warnings: int
) -> None:
    environ = plain.environ | change
    settings = load(environ)
    with capture_logs() as logs:
        preflight.check(settings, environ)
        # As they would be bound by it.
        vault = bound(ANY if ELSEWHERE in settings.listen else SET)
        admin = bound(ANY if ELSEWHERE in settings.admin_listen else SET)
        preflight.check_listeners(settings, Listeners(vault, admin))
    assert len([one for one in logs if one["event"] == "unsafe_setting"]) == warnings


async def test_name_that_leads_elsewhere_than_it_says(plain: Plain, bound: Binds) -> None:
    """As where a host's own file gives localhost another address."""
    settings = load(plain.environ | {"CUSTODY_LISTEN": "localhost:0"})
    preflight.check(settings, plain.environ)
    with pytest.raises(ConfigurationError, match=r"bound to 10\.1\.2\.3:3001 without TLS"):
        preflight.check_listeners(settings, Listeners(bound(("10.1.2.3", 3001)), bound(SET)))


def test_what_is_opened_here_is_on_loopback(plain: Plain) -> None:
    settings = load(plain.environ)
    opened = open_listeners(settings, {})
    try:
        preflight.check_listeners(settings, opened)
    finally:
        opened.close()
