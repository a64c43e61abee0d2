"""``custody doctor``, ``custody config``, ``custody openapi`` and ``custody token``."""

import asyncio
import base64
import json
import os
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from custody.cli.commands.config import redact
from custody.datakeys import diagnostics
from custody.db.engine import Dsn, open_engine
from custody.development.issuer import DevelopmentIssuer
from custody.ops.checks.clock import examine_database_clock
from custody.ops.doctor import examine
from kek_backends.findings import Verdict
from tests.clock import Clock
from tests.db.command import custody
from tests.db.test_backup import backup_role
from tests.leaks import remember
from tests.ports import free_port
from tests.servers import Database, daemon_here, settings_for
from tests.terminal import on_a_terminal
from tests.tokens import Issuer

OTHER = base64.b64encode(b"\x22" * 32).decode()


async def findings(environ: dict[str, str]) -> list[tuple[str, Verdict, str]]:
    found = await examine(environ)
    assert all(len(finding.message.splitlines()) == 1 for finding in found)
    return [(finding.part, finding.verdict, finding.message) for finding in found]


@pytest.fixture
async def environ(database: Database, issuer: Issuer, tmp_path: Path) -> dict[str, str]:
    """The settings of a daemon that has run once."""
    async with daemon_here(database, issuer, tmp_path) as daemon:
        return dict(daemon.settings)


async def test_healthy(environ: dict[str, str], database: Database) -> None:
    async with backup_role(database) as (role, _):
        await look_at_health(environ, role)


async def look_at_health(environ: dict[str, str], role: str) -> None:
    # Whether this process can be swapped or dumped is its host's affair, and no finding.
    found = [one for one in await findings(environ) if one[0] != "memory"]
    assert [(part, verdict) for part, verdict, _ in found] == [
        ("settings", Verdict.OK),
        ("jwks", Verdict.OK),
        ("kek env:MANA_AUTH_KEK", Verdict.OK),
        ("database", Verdict.OK),
        ("database tls", Verdict.OK),
        ("clock", Verdict.OK),
        ("backup", Verdict.OK),
        ("rows", Verdict.OK),
        ("audit", Verdict.OK),
        ("kek env:MANA_AUTH_KEK", Verdict.OK),
        ("rewrap run", Verdict.NOTE),  # there is neither a worker nor a timer
        ("rotations", Verdict.OK),
        ("data-key", Verdict.OK),
        ("kek env:MANA_AUTH_KEK", Verdict.OK),
    ]
    (of_data_key,) = (said for part, _, said in found if part == "data-key")
    assert of_data_key.endswith(" opens; 0 days old; wrapped under env-v1 (opens it)")
    done = await asyncio.to_thread(custody, environ, "doctor")
    assert (done.code, done.err) == (0, "")
    assert "ok      database: schema and role keep their promises" in done.out
    assert f"ok      backup: pg_dump can read all rows as {role}" in done.out


@pytest.mark.prove
@pytest.mark.parametrize(
    "lacking", ["BYPASSRLS", "LOGIN", "pg_read_all_data", "a sequence", "no superuser"]
)
async def test_no_role_may_dump(environ: dict[str, str], database: Database, lacking: str) -> None:
    async with backup_role(database) as (role, _):
        await database.execute(
            {
                "BYPASSRLS": f"ALTER ROLE {role} NOBYPASSRLS",
                "LOGIN": f"ALTER ROLE {role} NOLOGIN",
                "pg_read_all_data": f"REVOKE pg_read_all_data FROM {role}",
                "a sequence": f"REVOKE pg_read_all_data FROM {role};"
                f" GRANT USAGE ON SCHEMA auth TO {role};"
                f" GRANT SELECT ON ALL TABLES IN SCHEMA auth TO {role}",
                "no superuser": f"ALTER ROLE {role} SUPERUSER",
            }[lacking]
        )
        (said,) = (one for one in await examine(environ) if one.part == "backup")
        await database.execute(f"DROP OWNED BY {role}")
    assert said.verdict is Verdict.UNSEEN
    assert "GRANT pg_read_all_data TO custody_backup" in said.cure


async def test_a_data_key_that_is_old_or_seals_too_much(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the time in its id, not by the one in its record, which anybody may have written."""
    monkeypatch.setattr(diagnostics, "MAX_DAYS", -1)
    monkeypatch.setattr(diagnostics, "MAX_ROWS", -1)
    found = [
        message for _, verdict, message in await findings(environ) if verdict is Verdict.FINDING
    ]
    assert len(found) == 2
    assert " is 0 days old, more than -1; give it a successor: custody rewrap run" in found[0]
    assert found[1].startswith("about 0 rows are under the data key dk-")


@pytest.mark.prove
async def test_each_wrap_of_a_data_key_is_tried(
    environ: dict[str, str], database: Database
) -> None:
    """A copy under another KEK's name, and one under a KEK that nobody has here."""
    for kek_id in ("old", "gone"):
        await database.execute(
            "INSERT INTO auth.encryption_data_key_wraps (data_key_id, kek_id, wrapped_key, wrap_iv,"
            " format_version) SELECT data_key_id, $1, wrapped_key, wrap_iv, format_version"
            " FROM auth.encryption_data_key_wraps WHERE kek_id = 'env-v1'",
            kek_id,
        )
    environ |= {"CUSTODY_OLD_KEKS": "env:OLD?id=old", "OLD": OTHER}
    opened, shut = (one for one in await examine(environ) if one.part == "data-key")
    assert opened.verdict is Verdict.OK
    assert opened.message.endswith(
        "wrapped under env-v1 (opens it), gone (not configured here), old (does not open it)"
    )
    assert (shut.verdict, shut.cure) == (Verdict.WARNING, "custody rewrap run")
    assert " under old does not open" in shut.message


@pytest.mark.prove
async def test_findings_come_first(database: Database, issuer: Issuer, tmp_path: Path) -> None:
    """Then what is down, what could not be seen, and what is right; as JSON as it was examined."""
    environ = settings_for(database, issuer, tmp_path) | {
        "CUSTODY_LISTNE": "x",
        "CUSTODY_OLD_KEKS": "vault:transit/mana",
        "VAULT_ADDR": f"http://127.0.0.1:{free_port()}",
        "VAULT_TOKEN": "t",
    }
    done = await asyncio.to_thread(custody, environ, "doctor")
    order = ["ERROR", "DOWN", "note", "unseen", "ok"]
    *lines, summary = done.out.splitlines()
    subjects: list[str] = []
    first: dict[str, list[int]] = {}
    for line in lines:
        if not line.startswith(" "):
            subjects.append(line)
            first[line] = []
        elif line.split()[0] in order:
            first[subjects[-1]].append(order.index(line.split()[0]))
    assert all(signs == sorted(signs) for signs in first.values())
    assert [min(first[one]) for one in subjects] == sorted(min(signs) for signs in first.values())
    assert summary.startswith("1 error, 1 part down, ")
    done = await asyncio.to_thread(custody, environ, "doctor", "--json")
    parts = [one["part"] for one in json.loads(done.out)]
    assert parts == [part for part, _, _ in await findings(environ)]


@pytest.mark.parametrize(
    ("changes", "coloured"),
    [({}, True), ({"NO_COLOR": ""}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
)
async def test_colours(changes: dict[str, str], coloured: bool) -> None:
    environ = {"PATH": os.environ["PATH"], "TERM": "xterm-256color", **changes}
    code, drawn = await asyncio.to_thread(on_a_terminal, environ, "doctor")
    assert code == 1
    assert ("\x1b[31mERROR  \x1b[0m settings: " if coloured else "  ERROR   settings: ") in drawn
    assert ("\x1b" in drawn) is coloured
    # Where it is piped there are none.
    assert "\x1b" not in custody(environ, "doctor").out


@pytest.mark.prove
async def test_changes_nothing(database: Database, issuer: Issuer, tmp_path: Path) -> None:
    """Before the first boot: no fingerprint is recorded by looking."""
    environ = settings_for(database, issuer, tmp_path)
    found = await findings(environ)
    assert found[-1][1:] == (
        Verdict.UNSEEN,
        "no fingerprint is recorded for env-v1 yet; the next boot does it",
    )
    assert await database.value("SELECT count(*) FROM auth.encryption_keks") == 0
    assert (await asyncio.to_thread(custody, environ, "doctor")).code == 0


@pytest.mark.prove
async def test_finding_of_the_database(environ: dict[str, str], database: Database) -> None:
    await database.execute("ALTER TABLE auth.encryption_vaults NO FORCE ROW LEVEL SECURITY")
    done = await asyncio.to_thread(custody, environ, "doctor", "--json")
    found: list[dict[str, Any]] = json.loads(done.out)
    assert done.code == 1
    assert [finding for finding in found if finding["verdict"] == "finding"] == [
        {
            "subject": "database",
            "part": "schema",
            "severity": "error",
            "verdict": "finding",
            "message": "row-level security is not enabled and forced on auth.encryption_vaults; "
            "run: ALTER TABLE auth.encryption_vaults ENABLE ROW LEVEL SECURITY, "
            "FORCE ROW LEVEL SECURITY",
            "cure": "ALTER TABLE auth.encryption_vaults ENABLE ROW LEVEL SECURITY, "
            "FORCE ROW LEVEL SECURITY",
        }
    ]


@pytest.mark.prove
async def test_database_that_is_down(environ: dict[str, str]) -> None:
    url = f"postgresql://custody_app:secretsecret@127.0.0.1:{free_port()}/custody"
    environ["CUSTODY_DATABASE_URL"] = url
    assert (await findings(environ))[-1][:2] == ("database", Verdict.DOWN)
    done = await asyncio.to_thread(custody, environ, "doctor")
    assert done.code == 69
    assert "DOWN    database: " in done.out
    assert "secretsecret" not in done.out + done.err


async def test_role_of_another_duty(environ: dict[str, str], database: Database) -> None:
    environ["CUSTODY_DATABASE_URL"] = database.url("custody_rewrap")
    part, verdict, message = (await findings(environ))[-1]
    assert (part, verdict) == ("roles", Verdict.FINDING)
    assert "the role custody_rewrap is not custody_app nor a member of it" in message


@pytest.mark.prove
async def test_other_key_than_recorded(environ: dict[str, str]) -> None:
    environ["MANA_AUTH_KEK"] = OTHER
    part, verdict, message = (await findings(environ))[-1]
    assert (part, verdict) == ("kek env:MANA_AUTH_KEK", Verdict.FINDING)
    assert "stands for other key material" in message


@pytest.mark.prove
async def test_kek_that_is_not_configured(environ: dict[str, str]) -> None:
    del environ["MANA_AUTH_KEK"]
    found = await findings(environ)
    assert [part for part, verdict, _ in found if verdict is Verdict.FINDING] == ["kek"]
    # What can be seen is still looked at.
    seen = [part for part, _, _ in found]
    assert seen[-5:] == ["backup", "rows", "audit", "rewrap run", "rotations"]


async def test_nothing_is_configured() -> None:
    found = await findings({})
    assert [(part, verdict) for part, verdict, _ in found if part != "memory"] == [
        ("settings", Verdict.FINDING),  # the database's URL
        ("settings", Verdict.FINDING),  # the issuer
        ("settings", Verdict.FINDING),  # its keys
        ("kek", Verdict.FINDING),
        ("database", Verdict.UNSEEN),
    ]


async def test_settings_that_cannot_be_read() -> None:
    found = await findings({"CUSTODY_LISTEN": "nowhere"})
    assert len(found) == 1
    assert found[0][:2] == ("settings", Verdict.FINDING)


@pytest.mark.prove
async def test_hygiene_of_settings(environ: dict[str, str], tmp_path: Path) -> None:
    kek = tmp_path / "kek"
    kek.write_text(environ.pop("MANA_AUTH_KEK"))
    kek.chmod(0o640)
    environ |= {
        "MANA_AUTH_KEK_FILE": str(kek),
        "CUSTODY_LISTNE": "x",
        "CUSTODY_OWNER_DATABASE_URL": "postgresql://owner:x@h/d",
    }
    messages = [m for _, verdict, m in await findings(environ) if verdict is Verdict.FINDING]
    assert messages == [
        "CUSTODY_LISTNE is no setting: did you mean CUSTODY_LISTEN?",
        (
            "CUSTODY_OWNER_DATABASE_URL is set here; the daemon needs no owner: give it to custody "
            "migrate alone"
        ),
        f"MANA_AUTH_KEK_FILE names {kek}, which others may use; run: chmod 600 {kek}",
    ]


@pytest.mark.prove
async def test_issuer(environ: dict[str, str], tmp_path: Path) -> None:
    del environ["CUSTODY_JWKS_FILE"]
    url = f"http://127.0.0.1:{free_port()}/jwks"
    found = await findings(environ | {"CUSTODY_JWKS_URL": url})
    assert [verdict for part, verdict, _ in found if part == "jwks"] == [Verdict.DOWN]
    plain = environ | {"CUSTODY_JWKS_URL": "http://issuer.invalid/jwks"}
    for allowed, wanted in (("", [Verdict.FINDING]), ("jwks", [Verdict.FINDING, Verdict.DOWN])):
        found = await findings(plain | {"CUSTODY_ALLOW_PLAIN": allowed})
        assert [verdict for part, verdict, _ in found if part == "jwks"] == wanted
    empty = tmp_path / "empty.json"
    empty.write_text('{"keys": []}')
    found = await findings(environ | {"CUSTODY_JWKS_FILE": str(empty)})
    assert [verdict for part, verdict, _ in found if part == "jwks"] == [Verdict.FINDING]


@pytest.mark.prove
@pytest.mark.parametrize(("ahead", "verdict"), [(0, Verdict.OK), (3600, Verdict.FINDING)])
async def test_the_clock_of_an_issuer(
    environ: dict[str, str], issuer: Issuer, ahead: int, verdict: Verdict
) -> None:
    async def answer(_request: web.Request) -> web.Response:
        date = formatdate(time.time() + ahead, usegmt=True)
        return web.Response(body=issuer.jwks(), headers={"Date": date})

    app = web.Application()
    app.router.add_get("/jwks", answer)
    del environ["CUSTODY_JWKS_FILE"]
    async with TestServer(app) as server:
        found = await findings(environ | {"CUSTODY_JWKS_URL": str(server.make_url("/jwks"))})
    assert ("jwks", Verdict.OK, "2 usable keys") in found
    assert {one[1] for one in found if one[0] == "clock" and "issuer" in one[2]} == {verdict}


async def test_the_clock_of_the_database(database: Database) -> None:
    async with open_engine(Dsn(database.url("custody_app")), pool_size=1) as engine:
        for behind, verdict in ((0, Verdict.OK), (10, Verdict.WARNING), (60, Verdict.FINDING)):
            found = await examine_database_clock(engine, Clock(time.time() - behind))
            assert found.verdict is verdict
            assert f"{behind} s behind the database's" in found.message or not behind


@pytest.mark.prove
async def test_two_keys_under_one_kid_beside_a_good_one(
    environ: dict[str, str], tmp_path: Path
) -> None:
    """The daemon serves, and whoever has a token of either is signed out."""
    keys = [
        json.loads(other.jwks())["keys"][1] | {"kid": kid}
        for other, kid in ((Issuer(), "one"), (Issuer(), "one"), (Issuer(), "two"))
    ]
    file = tmp_path / "doubled.json"
    file.write_text(json.dumps({"keys": keys}))
    found = await findings(environ | {"CUSTODY_JWKS_FILE": str(file)})
    ((verdict, message),) = [(verdict, said) for part, verdict, said in found if part == "jwks"]
    assert verdict is Verdict.FINDING
    assert message.startswith(f"two different keys of {file} have one kid ('one'): neither is used")
    # Listed twice alike it is one key.
    file.write_text(json.dumps({"keys": [keys[0], keys[0], keys[2]]}))
    found = await findings(environ | {"CUSTODY_JWKS_FILE": str(file)})
    assert ("jwks", Verdict.OK, "2 usable keys") in found


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://custody_app:s3cret@h:5432/d", "postgresql://custody_app:***@h:5432/d"),
        ("postgresql://custody_app@h/d", "postgresql://custody_app@h/d"),
        ("postgresql://h/d", "postgresql://h/d"),
        ("postgresql://u:s3cret@a:1,b:2/d", "postgresql://u:***@a:1,b:2/d"),
        ("postgresql://u@h/d?password=s3cret", "postgresql://u@h/d?***"),
        ("postgresql://u:1/s3cret@h/d", "postgresql://***"),
        ("postgresql://u:1?s3cret@h/d", "postgresql://***"),
        ("postgresql://u:s3cret#s3cret@h/d", "postgresql://***"),
        ("postgresql://u:s3cret@s3cret@h/d", "postgresql://u:***@h/d"),
        ("postgresql:///d?host=/run/pg&password=s3@cret", "postgresql://***"),
    ],
)
def test_redaction(url: str, shown: str) -> None:
    assert redact(url) == shown


def test_config_shows_no_password(tmp_path: Path) -> None:
    file = tmp_path / "custody.toml"
    file.write_text('cors_origins = ["https://a.example"]\nrate_limit = 5\n')
    environ = {
        "CUSTODY_CONFIG": str(file),
        "CUSTODY_DATABASE_URL": "postgresql://custody_app:hunter2@h/d?sslpassword=hunter2",
        "CUSTODY_OWNER_DATABASE_URL": "postgresql://owner:hunter2@h/d",
        "CUSTODY_RATE_LIMIT": "7",
        "CUSTODY_ADMIN_TOKEN": remember("0123456789abcdef" * 2),
        "MANA_AUTH_KEK": OTHER,
    }
    plain = custody(environ, "config")
    assert (plain.code, plain.err) == (0, "")
    assert "CUSTODY_DATABASE_URL=postgresql://custody_app:***@h/d?***\n" in plain.out
    assert "CUSTODY_RATE_LIMIT=7\n" in plain.out
    assert "CUSTODY_ADMIN_TOKEN=***\n" in plain.out
    shown = json.loads(custody(environ, "config", "--json").out)
    assert shown["CUSTODY_OWNER_DATABASE_URL"] == "postgresql://owner:***@h/d"
    assert shown["CUSTODY_CORS_ORIGINS"] == ["https://a.example"]
    assert shown["CUSTODY_KEK"] == "env:MANA_AUTH_KEK"
    for secret in ("hunter2", OTHER, "0123456789abcdef"):
        assert secret not in plain.out + json.dumps(shown)


def test_config_that_is_wrong(tmp_path: Path) -> None:
    done = custody({"CUSTODY_LISTEN": "nowhere"}, "config")
    assert (done.code, done.out) == (78, "")
    assert done.complaint.startswith("CUSTODY_LISTEN: write host:port")
    assert custody({}, "config", "--nonsense").code == 2


def test_openapi() -> None:
    done = custody({}, "openapi")
    document = json.loads(done.out)
    assert (done.code, done.err) == (0, "")
    assert document["openapi"].startswith("3.1")
    assert len(document["paths"]) == 9


def test_token(tmp_path: Path) -> None:
    done = custody({}, "token", "--sub", "alice", "--data", str(tmp_path))
    assert done.code != 0
    assert "custody dev" in done.complaint
    DevelopmentIssuer.create(tmp_path)
    made = custody({}, "token", "--sub", "alice", "--data", str(tmp_path), "--json")
    assert (made.code, made.err) == (0, "")
    assert json.loads(made.out)["sub"] == "alice"
    assert json.loads(made.out)["token"].count(".") == 2
