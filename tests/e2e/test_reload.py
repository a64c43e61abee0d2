"""SIGHUP puts changed settings and files in force, seen from outside while users are served."""

import asyncio
import base64
import contextlib
import secrets
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from custody import reload
from custody.app import running
from custody.http.routes import BASE_PATH
from custody.keks import keks
from custody.settings import load as load_settings
from kek_backends.env import EnvKek
from kek_backends.loader import load as load_kek
from tests.certificates import make_certificate
from tests.client import Client, becomes, client_session
from tests.db.breaking import forget_keks
from tests.e2e.hangup import Configured, configured
from tests.e2e.keks import Place, make_vaults
from tests.eventually import eventually
from tests.faulty_proxy import Fault, faulty_proxy
from tests.http.wire import ask, first_answer, request, status_of
from tests.leaks import remember
from tests.load import load
from tests.ports import free_port
from tests.sealed_rows import share_data_key
from tests.servers import Database, settings_for
from tests.tokens import Issuer

ORIGIN, SECOND = "https://app.example", "https://other.example"


@pytest.mark.prove
async def test_new_key_of_the_issuer(database: Database, issuer: Issuer, tmp_path: Path) -> None:
    later = Issuer(kid="key-2")
    with configured(database, issuer, tmp_path, {}) as at:
        assert (await status_of(at.daemon), await status_of(at.daemon, later)) == (200, 401)
        (tmp_path / "jwks.json").write_bytes(later.jwks())
        await at.reloads()
        assert (await status_of(at.daemon), await status_of(at.daemon, later)) == (401, 200)


@pytest.mark.prove
async def test_jwks_in_another_file(database: Database, issuer: Issuer, tmp_path: Path) -> None:
    later, file = Issuer(kid="key-2"), tmp_path / "second.json"
    file.write_bytes(later.jwks())
    values = {"jwks_file": str(tmp_path / "jwks.json")}
    with configured(database, issuer, tmp_path, values) as at:
        logged = await at.change(jwks_file=str(file))
        assert logged["changed"] == ["CUSTODY_JWKS_FILE"]
        assert (await status_of(at.daemon), await status_of(at.daemon, later)) == (401, 200)


class Tls:
    """A connection that is kept open, and the certificate that it was given."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)

    async def status(self) -> int:
        """Ask without a token, and return the status of the answer."""
        self._writer.write(request("GET", f"{BASE_PATH}/status", close=False))
        return (await first_answer(self._reader)).status


@asynccontextmanager
async def connected(at: Configured, **options: Any) -> AsyncIterator[Tls]:
    """Open a connection for the block, whatever certificate it is given."""
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    place = urlsplit(at.daemon.base)
    streams = await asyncio.open_connection(place.hostname, place.port, ssl=trust, **options)
    yield Tls(*streams)
    streams[1].close()
    await streams[1].wait_closed()


def der(file: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(file.read_text())


@contextmanager
def over_tls(
    database: Database, issuer: Issuer, folder: Path
) -> Iterator[tuple[Configured, Path, Path]]:
    cert, key = make_certificate(folder / "first")
    values = {"tls_cert": str(cert), "tls_key": str(key)}
    with configured(database, issuer, folder, values) as at:
        yield at, cert, key


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("127.0.0.1", marks=pytest.mark.prove),
        "custody.example",
        pytest.param(None, marks=pytest.mark.prove),
    ],
)
async def test_certificate_that_was_renewed(
    database: Database, issuer: Issuer, tmp_path: Path, name: str | None
) -> None:
    """New connections get it, with a server name or without; open ones live on."""
    options = {"server_hostname": name} if name else {}
    with over_tls(database, issuer, tmp_path) as (at, cert, key):
        async with connected(at, **options) as old:
            before = der(cert)
            renewed = make_certificate(tmp_path / "second")
            for place, file in zip((cert, key), renewed, strict=True):
                place.write_bytes(file.read_bytes())
            assert old.certificate == before
            await at.reloads()
            assert await old.status() == 401
            for _ in range(3):
                async with connected(at, **options) as new:
                    assert new.certificate == der(renewed[0]) != old.certificate
                    assert await new.status() == 401
            third = make_certificate(tmp_path / "third")
            await at.reloads(tls_cert=str(third[0]), tls_key=str(third[1]))
            async with connected(at, **options) as new:
                assert new.certificate == der(third[0])
                assert (await old.status(), await new.status()) == (401, 401)


@pytest.mark.prove
async def test_half_of_a_renewed_certificate_changes_nothing(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    with over_tls(database, issuer, tmp_path) as (at, cert, key):
        before = der(cert)
        new_cert, new_key = make_certificate(tmp_path / "second")
        cert.write_bytes(new_cert.read_bytes())
        assert "CUSTODY_TLS_CERT, CUSTODY_TLS_KEY" in await at.refuses()
        async with connected(at) as kept:
            assert kept.certificate == before
            assert await kept.status() == 401
        key.write_bytes(new_key.read_bytes())
        await at.reloads()
        async with connected(at) as new:
            assert new.certificate == der(new_cert)


@pytest.mark.prove
async def test_tls_begins_and_ends_with_a_restart(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    cert, key = make_certificate(tmp_path / "first")
    with configured(database, issuer, tmp_path, {}) as at:
        for reloads in (1, 2):
            await at.reloads(tls_cert=str(cert), tls_key=str(key))
            needed = at.daemon.events("restart_needed")
            assert [event["changed"] for event in needed] == [["CUSTODY_TLS_CERT"]] * reloads
        assert await status_of(at.daemon) == 200
        await at.reloads(tls_cert=None, tls_key=None)
        assert len(at.daemon.events("restart_needed")) == 2


async def allowed(at: Configured) -> list[str]:
    """Return the origins that may call."""
    preflight = {"Access-Control-Request-Method": "GET"}
    return [
        origin
        for origin in (ORIGIN, SECOND)
        if (await ask(at.daemon, "OPTIONS", "/key", preflight | {"Origin": origin})).status == 204
    ]


@pytest.mark.prove
async def test_origins_are_added_and_removed(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    with configured(database, issuer, tmp_path, {"cors_origins": []}) as at:
        for origins in ([], [ORIGIN], [ORIGIN, SECOND], [SECOND], []):
            await at.reloads(cors_origins=origins)
            assert await allowed(at) == origins


@pytest.mark.prove
async def test_trusted_proxies(database: Database, issuer: Issuer, tmp_path: Path) -> None:
    seen = "SELECT ip_address FROM auth.encryption_vault_audit ORDER BY created_at DESC, id LIMIT 1"
    with configured(database, issuer, tmp_path, {"trusted_proxies": []}) as at:
        async with client_session() as session:
            alice = Client(at.daemon, session, "alice")
            forwarded = {"X-Forwarded-For": "203.0.113.9"}
            for proxies, address in (
                ([], "127.0.0.1"),
                (["127.0.0.1"], "203.0.113.9"),
                (["10.0.0.0/8"], "127.0.0.1"),
            ):
                await at.reloads(trusted_proxies=proxies)
                answer = await alice.call("POST", "/init", headers=forwarded)
                assert answer.status == 200
                assert await database.value(seen) == address


@pytest.mark.prove
async def test_rate_limit(database: Database, issuer: Issuer, tmp_path: Path) -> None:
    with configured(database, issuer, tmp_path, {"rate_limit": 0}) as at:
        async with client_session() as session:
            alice = Client(at.daemon, session, "alice")

            async def answers() -> set[int]:
                return {
                    a.status for a in await asyncio.gather(*(alice.status() for _ in range(20)))
                }

            assert await answers() == {200}
            await at.reloads(rate_limit=1)
            assert await answers() == {200, 429}
            await at.reloads(rate_limit=0)
            assert await answers() == {200}


@pytest.mark.prove
async def test_unwrap_limit_and_canaries(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    """In an attack the limit is set by a reload: who was seen before it is served after it."""
    with configured(database, issuer, tmp_path, {"unwrap_limit": 1000}) as at:
        async with client_session() as session:
            seen, *others = (Client(at.daemon, session, user) for user in ("alice", "bob", "carol"))
            for user in (seen, *others):
                await user.init()

            async def answers() -> list[int]:
                return [(await user.key()).status for user in (seen, *others)]

            assert (await seen.key()).status == 200
            await at.reloads(unwrap_limit=1)
            assert await answers() == [200, 503, 503]
            await at.reloads(unwrap_limit=0)
            assert await answers() == [200, 200, 200]
            await at.reloads(canary_users=["alice"])
            assert await answers() == [503, 200, 200]
            await at.reloads(canary_answer="serve")
            assert await answers() == [200, 200, 200]
            assert len(at.daemon.events("canary_touched")) == 2
            await at.reloads(canary_users=[])
            assert await answers() == [200, 200, 200]
            assert len(at.daemon.events("canary_touched")) == 2


@pytest.mark.prove
async def test_log_level(database: Database, issuer: Issuer, tmp_path: Path) -> None:
    with configured(database, issuer, tmp_path, {"log_level": "info"}) as at:
        assert await status_of(at.daemon) == 200
        # Written at the end of the turn in which it was answered.
        await eventually(lambda: at.daemon.events("request"))
        (first,) = at.daemon.events("request")
        assert first["route"] == "get_status"
        at.write(log_level="warning", rate_limit=5, jwt_audience="another")
        at.hang_up()
        await eventually(lambda: at.daemon.events("restart_needed"))
        assert await status_of(at.daemon) == 200
        await at.reloads(log_level="debug", jwt_audience=None)
        assert len(at.daemon.events("request")) == 1
        assert await status_of(at.daemon) == 200
        await eventually(lambda: len(at.daemon.events("request")) == 2)


FIRST, SECOND_KEK = "env:FIRST_KEK?id=first", "env:SECOND_KEK?id=second"
FINGERPRINT = "SELECT fingerprint FROM auth.encryption_keks WHERE kek_id = 'second'"


async def with_two_keks(database: Database, issuer: Issuer, folder: Path) -> dict[str, str]:
    """Return the variables of two KEKs, each in a file; alice has a row under the second."""
    files = {name: folder / name.lower() for name in ("FIRST_KEK", "SECOND_KEK")}
    for file in files.values():
        file.touch(mode=0o600)
        file.write_text(remember(base64.b64encode(secrets.token_bytes(32)).decode()))
    environ = {f"{name}_FILE": str(file) for name, file in files.items()}
    await make_vaults(database, issuer, folder, Place(SECOND_KEK, "second", environ), "alice")
    first, second = (
        load_kek(uri, environ=environ, development=False) for uri in (FIRST, SECOND_KEK)
    )
    # As a run that has just begun leaves it.
    await share_data_key(database, second, first)
    return {f"raw_{name}": value for name, value in environ.items()}


@pytest.mark.prove
async def test_old_kek_is_added_and_removed(
    pace: str, database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    variables = await with_two_keks(database, issuer, tmp_path)
    recorded = await database.value(FINGERPRINT)
    await forget_keks(database)
    with configured(
        database,
        issuer,
        tmp_path,
        {"kek": FIRST, "old_keks": []},
        probe="livez",
        module=pace,
        **variables,
    ) as at:
        async with client_session() as session:
            alice, bob, carol = (Client(at.daemon, session, u) for u in ("alice", "bob", "carol"))
            await becomes(at.daemon, 503, kek="rows carry the kek_id second")
            assert ((await alice.key()).status, (await bob.init()).status) == (503, 200)
            await at.reloads(old_keks=[SECOND_KEK])
            answer = await alice.key()
            assert (answer.status, answer.json["kekId"]) == (200, "second")
            assert await database.value(FINGERPRINT) == recorded is not None
            await becomes(at.daemon, 200, kek="ok")
            # What is new is under the active one still.
            assert (await carol.init()).json["kekId"] == "first"
            await at.reloads(old_keks=[])
            refused = await alice.key()
            assert (refused.status, refused.code) == (503, "KEK_UNAVAILABLE")
            assert (await bob.key()).status == 200
            await becomes(at.daemon, 503, kek="rows carry the kek_id second")
            await at.reloads(old_keks=[SECOND_KEK])
            assert (await alice.key()).json == answer.json


@pytest.mark.prove
async def test_kek_that_is_active_elsewhere_already_stays_readable(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    """The active KEK and an old one change places: until the restart both are read."""
    variables = await with_two_keks(database, issuer, tmp_path)
    values = {"kek": FIRST, "old_keks": [SECOND_KEK]}
    with configured(database, issuer, tmp_path, values, **variables) as at:
        async with client_session() as session:
            alice, bob, carol = (Client(at.daemon, session, u) for u in ("alice", "bob", "carol"))
            assert (await bob.init()).json["kekId"] == "first"
            for _ in range(2):
                await at.reloads(kek=SECOND_KEK, old_keks=[FIRST])
                assert (await alice.key()).json["kekId"] == "second"
                assert (await bob.key()).json["kekId"] == "first"
            assert (await carol.init()).json["kekId"] == "first"
    needed = [event["changed"] for event in at.daemon.events("restart_needed")]
    assert needed == [["CUSTODY_KEK"]] * 2


@pytest.mark.prove
async def test_kek_that_is_dropped_is_closed_after_the_last_call_to_it(
    database: Database, issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closed once, and no other; those that a refused reload has opened, too."""
    variables = await with_two_keks(database, issuer, tmp_path)
    overrides = {"KEK": FIRST, "OLD_KEKS": SECOND_KEK} | variables
    environ = settings_for(database, issuer, tmp_path, **overrides)
    closed: list[str] = []

    async def close(kek: EnvKek) -> None:
        closed.append(kek.uri.text)

    monkeypatch.setattr(EnvKek, "close", close)
    monkeypatch.setattr(keks, "LAST_CALLS_SECONDS", 0.2)
    # The logs of this process are for the search for secrets.
    monkeypatch.setattr(reload, "configure", lambda *_: None)
    async with running(load_settings(environ), environ) as here:
        await here.report._reload()
        assert closed == []
        environ["CUSTODY_OLD_KEKS"] = ""
        await here.report._reload()
        assert closed == []
        await eventually(lambda: closed == [SECOND_KEK])
        closed.clear()
        environ["CUSTODY_OLD_KEKS"] = f"{SECOND_KEK} env:MISSING?id=missing"
        await here.report._reload()
        assert closed == [SECOND_KEK]
        closed.clear()
        environ["CUSTODY_OLD_KEKS"] = SECOND_KEK
        await here.report._reload()
        monkeypatch.setattr(keks, "LAST_CALLS_SECONDS", 60)
        environ["CUSTODY_OLD_KEKS"] = ""
        await here.report._reload()
        assert closed == []
    assert sorted(closed) == [FIRST, SECOND_KEK]


KEY = remember(base64.b64encode(secrets.token_bytes(32)).decode())
MISSING = "env:MISSING?id=missing"
# What is said of it; settings that change in the file; files that are written, None: that go.
BREAKS: dict[str, tuple[str, dict[str, Any], dict[str, str | None]]] = {
    "broken_toml": ("is not TOML", {}, {"custody.toml": "listen = ="}),
    "unknown_name": ("unknown name 'cors_origin'", {"cors_origin": [SECOND]}, {}),
    "bad_value": ("CUSTODY_RATE_LIMIT", {"rate_limit": -1}, {}),
    "missing_file": ("No such file", {}, {"custody.toml": None}),
    "broken_jwks": ("has no list", {}, {"jwks.json": '{"keys": 1}'}),
    "missing_jwks": ("CUSTODY_JWKS_FILE", {}, {"jwks.json": None}),
    "no_certificate": ("CUSTODY_TLS_CERT", {"tls_cert": "/dev/null", "tls_key": "/dev/null"}, {}),
    "wrong_kek": (
        "the kek_id second stands for other key material",
        {"old_keks": [SECOND_KEK]},
        {"second_kek": KEY},
    ),
    "missing_kek": ("neither MISSING nor MISSING_FILE is set", {"old_keks": [MISSING]}, {}),
    "kek_twice": ("is listed twice", {"old_keks": [SECOND_KEK, SECOND_KEK]}, {}),
    "active_kek_twice": ("is listed twice", {"old_keks": [FIRST]}, {}),
    "key_for_a_name": ("holds what looks like a key", {"old_keks": [KEY]}, {}),
    # The setting allows it, and what parses it raises an error that is not ours.
    "unforeseen": ("ValueError", {"jwks_url": "https://a\\example/jwks", "jwks_file": None}, {}),
}
QUICK = ("broken_toml", "wrong_kek", "no_certificate")


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.prove) for name in BREAKS],
)
async def test_what_is_wrong_changes_nothing(
    database: Database,
    issuer: Issuer,
    tmp_path: Path,
    name: str,
) -> None:
    """Nor what is right beside it; the next good reload works."""
    said, settings, files = BREAKS[name]
    variables = await with_two_keks(database, issuer, tmp_path)
    jwks, key = (tmp_path / "jwks.json"), (tmp_path / "second_kek").read_text()
    values = {"kek": FIRST, "old_keks": [], "cors_origins": [ORIGIN], "log_level": "info"}
    if "jwks_file" in settings:
        variables["JWKS_FILE"] = ""
        values["jwks_file"] = str(jwks)
    with configured(database, issuer, tmp_path, values, probe="livez", **variables) as at:
        at.write(cors_origins=[SECOND], log_level="debug", **settings)
        for file, text in files.items():
            if text is None:
                (tmp_path / file).unlink()
            else:
                (tmp_path / file).write_text(text)
        assert said in await at.refuses()
        async with client_session() as session:
            assert (await Client(at.daemon, session, "bob").init()).status == 200
            assert (await Client(at.daemon, session, "alice").key()).status == 503
        assert await allowed(at) == [ORIGIN]
        assert not [one for one in at.daemon.events("request") if one["level"] == "debug"]
        jwks.write_bytes(issuer.jwks())
        (tmp_path / "second_kek").write_text(key)
        at.values.clear()
        await at.reloads(**(values | {"old_keks": [SECOND_KEK], "cors_origins": [SECOND]}))
        assert await allowed(at) == [SECOND]
        async with client_session() as session:
            assert (await Client(at.daemon, session, "alice").key()).status == 200


@pytest.mark.prove
async def test_old_kek_while_the_database_is_down(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    """Its material can't be held against what is recorded: it waits for the next reload."""
    variables = await with_two_keks(database, issuer, tmp_path)
    with faulty_proxy(database.server.port) as proxy:
        port, behind = str(database.server.port), str(proxy.port)
        variables["DATABASE_URL"] = database.url("custody_app").replace(port, behind)
        values = {"kek": FIRST, "old_keks": [], "cors_origins": [ORIGIN]}
        with configured(database, issuer, tmp_path, values, probe="livez", **variables) as at:
            await becomes(at.daemon, 503, kek="rows carry the kek_id second")
            proxy.fault = Fault.REFUSE
            reason = await at.refuses(old_keks=[SECOND_KEK], cors_origins=[SECOND])
            assert "database" in reason
            assert await allowed(at) == [ORIGIN]
            # What needs no database is in force at once.
            await at.reloads(old_keks=[], cors_origins=[SECOND])
            assert await allowed(at) == [SECOND]
            proxy.fault = Fault.NONE

            async def reloaded() -> bool:
                return bool((await at.change(old_keks=[SECOND_KEK]))["event"] == "reloaded")

            await eventually(reloaded)
            await becomes(at.daemon, 200, kek="ok")


@pytest.mark.prove
async def test_what_needs_a_restart_is_named_without_its_value(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    variables = await with_two_keks(database, issuer, tmp_path)
    values = {"kek": FIRST, "database_url": database.url("custody_app")}
    with configured(database, issuer, tmp_path, values, probe="livez", **variables) as at:
        await at.reloads()
        assert at.daemon.events("restart_needed") == []
        password = remember(secrets.token_hex(16))
        await at.reloads(
            kek="env:THIRD_KEK?id=third",
            database_url=f"postgresql://custody_app:{password}@127.0.0.1:1/none",
            workers=3,
        )
        (needed,) = at.daemon.events("restart_needed")
        assert needed["changed"] == ["CUSTODY_DATABASE_URL", "CUSTODY_KEK", "CUSTODY_WORKERS"]
        assert at.daemon.log is not None
        log = at.daemon.log.read_text()
        for value in (password, "THIRD_KEK", "127.0.0.1:1/none"):
            assert value not in log
        async with client_session() as session:
            answer = await Client(at.daemon, session, "bob").init()
            assert (answer.status, answer.json["kekId"]) == (200, "first")


@pytest.mark.prove
async def test_addresses_need_a_restart(database: Database, issuer: Issuer, tmp_path: Path) -> None:
    first, second = (f"127.0.0.1:{free_port()}" for _ in range(2))
    values = {"listen": first}
    with configured(database, issuer, tmp_path, values) as at:
        await at.reloads(listen=second)
        (needed,) = at.daemon.events("restart_needed")
        assert needed["changed"] == ["CUSTODY_LISTEN"]
        for address, answers in ((first, True), (second, False)):
            host, _, port = address.partition(":")
            with contextlib.ExitStack() as stack:
                if not answers:
                    stack.enter_context(pytest.raises(ConnectionRefusedError))
                _, writer = await asyncio.open_connection(host, int(port))
                writer.close()


@pytest.mark.prove
async def test_signals_that_come_at_once_end_with_what_is_there_now(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    with configured(database, issuer, tmp_path, {"cors_origins": []}) as at:
        for _ in range(5):
            at.write(cors_origins=[ORIGIN])
            at.hang_up()
            await asyncio.sleep(secrets.randbelow(10) / 1000)
            at.write(cors_origins=[SECOND])
            at.hang_up()
            at.hang_up()

            async def is_last() -> bool:
                return await allowed(at) == [SECOND]

            await eventually(is_last)
        await asyncio.sleep(0.5)
        assert await allowed(at) == [SECOND]
        assert at.daemon.events("reload_failed", "stray_error") == []


@pytest.mark.parametrize("count", [8, pytest.param(20, marks=pytest.mark.prove)])
async def test_reloads_under_load_are_noticed_by_nobody(
    database: Database, issuer: Issuer, tmp_path: Path, count: int
) -> None:
    """On connections that stay open, and on ones that are opened meanwhile."""
    variables = await with_two_keks(database, issuer, tmp_path)
    values = {"kek": FIRST, "old_keks": [], "cors_origins": [], "log_level": "info"}
    users = [f"user-{n}" for n in range(8)]
    with configured(database, issuer, tmp_path, values, probe="livez", **variables) as at:
        async with client_session() as session:
            made = await asyncio.gather(*(Client(at.daemon, session, u).init() for u in users))
            assert {answer.status for answer in made} == {200}
        async with load(at.daemon, users, keep_alive=True) as seen:
            for n in range(count):
                await at.reloads(
                    old_keks=[SECOND_KEK] if n % 2 else [],
                    cors_origins=[ORIGIN] if n % 3 else [],
                    trusted_proxies=["10.0.0.0/8"] if n % 5 else [],
                    log_level="debug" if n % 7 == 1 else "info",
                    rate_limit=1_000_000 - n,
                )
                assert await status_of(at.daemon) == 200
        assert seen.lost() == []
        assert seen.answered > len(users)
