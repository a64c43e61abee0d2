"""Connections: hosts that never answer, logins, and the same outcome in every command."""

import asyncio
import getpass
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from custody.db.connect import connect
from custody.db.dsn import Dsn
from custody.settings import ConfigurationError
from tests.client import Client, client_session
from tests.db.command import custody
from tests.db.connecting import MANNER, outcome, pass_on, serving
from tests.ports import free_port
from tests.servers import Database, daemon_here, settings_for
from tests.tokens import Issuer


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.prove
async def test_a_host_that_never_answers_keeps_no_other_from_being_tried(
    database: Database, silent: int
) -> None:
    port = database.server.port
    url = database.url("custody_app").replace(f":{port}/", f":{silent},127.0.0.1:{port}/")
    assert await outcome(f"{url}?connect_timeout=1") == str(port)
    alone = database.url("custody_app").replace(f":{port}/", f":{silent}/")
    assert await outcome(f"{alone}?connect_timeout=1") == (
        "down: CUSTODY_DATABASE_URL: no connection to the database at "
        f"127.0.0.1:{silent}: no answer in time"
    )


@pytest.mark.prove
async def test_a_daemon_boots_past_a_host_that_never_answers(
    database: Database, silent: int, issuer: Issuer, tmp_path: Path
) -> None:
    port = database.server.port
    url = database.url("custody_app").replace(f":{port}/", f":{silent},127.0.0.1:{port}/")
    async with (
        # More than anybody waits for: each host has a share of what is waited for.
        daemon_here(database, issuer, tmp_path, DATABASE_URL=f"{url}?connect_timeout=60") as daemon,
        client_session() as session,
    ):
        assert (await Client(daemon, session, "alice").init()).status == 200


@pytest.mark.prove
async def test_an_address_that_never_answers_keeps_no_other_of_the_name_from_being_tried(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, look_up = database.server.port, socket.getaddrinfo

    def resolve(host: str, *rest: Any, **options: Any) -> list[Any]:
        names = ["127.0.0.2", "127.0.0.1"] if host == "db.invalid" else [host]
        return [found for name in names for found in look_up(name, *rest, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    url = database.url("custody_app").replace("127.0.0.1", "db.invalid")
    with socket.create_server(("127.0.0.2", port)):
        told = await outcome(f"{url}?connect_timeout=1&sslmode=disable", plain=True)
        assert told == str(port)


async def test_what_is_down_names_the_host_and_the_cause(database: Database) -> None:
    closed, port = free_port(), database.server.port
    url = database.url("custody_app")
    assert (await outcome(url.replace(f":{port}/", f":{closed}/"))).endswith(
        f"127.0.0.1:{closed}: Connection refused"
    )
    elsewhere = url.replace(f"127.0.0.1:{port}/", "no-such-host.invalid:5432/")
    unknown = await outcome(f"{elsewhere}?sslmode=require")
    assert unknown.startswith("down: ")
    assert "no-such-host.invalid:5432: " in unknown


@pytest.mark.parametrize("home", ["/proc/1/nowhere", "", "/dev/null"])
async def test_home_that_can_not_be_read_is_not_needed(
    database: Database, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    monkeypatch.setenv("HOME", home)
    assert await outcome(database.url("custody_app")) == str(database.server.port)


async def test_home_that_is_a_folder_of_others_is_not_needed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbid(path: Path, *_args: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setenv("HOME", "/closed")
    for name in ("stat", "is_file", "exists", "open"):
        monkeypatch.setattr(Path, name, forbid)
    assert await outcome(database.url("custody_app")) == str(database.server.port)


def without_password(database: Database) -> tuple[str, str]:
    """Return a URL without its password, and the password."""
    head, _, rest = database.url("custody_app").partition("custody_app:")
    password, _, place = rest.partition("@")
    return f"{head}custody_app@{place}", password


async def test_passwords_of_files(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, password = without_password(database)
    port = str(database.server.port)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "password authentication failed" in await outcome(url)
    for name, parameter in ((".pgpass", ""), ("words", f"?passfile={tmp_path}/words")):
        file = tmp_path / name
        file.write_text(
            "# a comment\n\n"
            f"other:{port}:*:custody_app:wrong\n127.0.0.1:*:*:custody\\_app:{password}\n"
        )
        file.chmod(0o600)
        assert await outcome(url + parameter) == port
        file.chmod(0o640)
        told = await outcome(url + parameter)
        assert ("chmod 600" if parameter else "password authentication failed") in told
    told = await outcome(f"{url}?passfile={tmp_path}/nowhere")
    assert told == (
        f"refused: CUSTODY_DATABASE_URL: passfile names {tmp_path}/nowhere: "
        "No such file or directory"
    )


async def test_variables_of_libpq_count(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, password = without_password(database)
    monkeypatch.setenv("PGPASSWORD", password)
    assert await outcome(url) == str(database.server.port)
    monkeypatch.setenv("PGSSLMODE", "require")
    assert "the server speaks no TLS" in await outcome(url)
    monkeypatch.setenv("PGCHANNELBINDING", "require")
    assert "the variable PGCHANNELBINDING is not supported" in await outcome(url)


async def test_a_process_without_a_user_needs_a_role_in_the_url(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 4242")

    monkeypatch.setattr(getpass, "getuser", unknown)
    told = await outcome(f"postgresql://127.0.0.1:{database.server.port}/{database.name}")
    assert told.startswith("refused: CUSTODY_DATABASE_URL: name the role")


@pytest.mark.parametrize("encoded", [True, False])
async def test_sockets(database: Database, tmp_path: Path, encoded: bool) -> None:
    port = database.server.port
    url = database.url("custody_app")
    if encoded:
        folder = str(tmp_path).replace("/", "%2F")
        url = url.replace(f"127.0.0.1:{port}", f"{folder}:5499")
    else:
        url = url.replace(f"127.0.0.1:{port}", "") + f"?host={tmp_path}&port=5499"
    mark = "&" if "?" in url else "?"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / ".s.PGSQL.5499"))
        async with serving(partial(pass_on, port), listener):
            # Nobody is between us and a socket: TLS is not asked for, as libpq has it.
            assert await outcome(f"{url}{mark}sslmode=verify-full") == str(port)
    told = await outcome(url.replace("5499", "1"))
    assert f"{tmp_path}/.s.PGSQL.1: No such file" in told


async def test_a_login_that_custody_has_not() -> None:
    async def ask_for_kerberos(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)
        writer.write(b"R" + (8).to_bytes(4) + (2).to_bytes(4))
        await reader.read()

    async with serving(ask_for_kerberos) as port:
        told = await outcome(f"postgresql://role:word@127.0.0.1:{port}/d?sslmode=disable")
    assert told.startswith(f"refused: CUSTODY_DATABASE_URL: 127.0.0.1:{port}: it asks for a login")


async def test_parameters_of_providers_do_no_harm(database: Database) -> None:
    url = database.url("custody_app")
    assert await outcome(
        f"{url}?sslmode=prefer&channel_binding=prefer&connect_timeout=10&keepalives=1"
        "&gssencmode=prefer&application_name=a-name&pgbouncer=true"
    ) == str(database.server.port)
    connection = await connect(
        Dsn(f"{url}?application_name=a-name&options=-c%20work_mem%3D1MB"), MANNER, variable="X"
    )
    assert await connection.fetchval("SHOW application_name") == "a-name"
    assert await connection.fetchval("SHOW work_mem") == "1MB"
    await connection.close()


# ── the same in every command ─────────────────────────────────────────────────

COMMANDS = {
    "serve": ("CUSTODY_DATABASE_URL", ("serve",)),
    "doctor": ("CUSTODY_DATABASE_URL", ("doctor",)),
    "kek list": ("CUSTODY_DATABASE_URL", ("kek", "list")),
    "rewrap run": ("CUSTODY_REWRAP_DATABASE_URL", ("rewrap", "run")),
    "rewrap status": ("CUSTODY_REWRAP_DATABASE_URL", ("rewrap", "status")),
    "migrate": ("CUSTODY_OWNER_DATABASE_URL", ("migrate",)),
    "users erase": ("CUSTODY_OWNER_DATABASE_URL", ("users", "erase", "alice", "--yes")),
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("old", "new", "cure"),
    [
        (":PORT/", ":99999/", "a port is a number from 1 to 65535"),
        ("@", "x@x@", "percent-encode special characters"),
        ("END", "?channel_binding=require", "channel_binding is not supported"),
        ("END", "?sslmode=verify-full", "needs the certificate of the CA"),
        ("END", "?sslmode=require", "speaks no TLS"),
    ],
    ids=["port", "password", "channel binding", "no root", "no TLS"],
)
async def test_what_can_never_work_ends_every_command_with_its_cure(  # noqa: PLR0917
    module_database: Database,
    issuer: Issuer,
    tmp_path: Path,
    name: str,
    old: str,
    new: str,
    cure: str,
) -> None:
    variable, words = COMMANDS[name]
    database = module_database  # nobody gets in
    role = {"CUSTODY_DATABASE_URL": "app", "CUSTODY_REWRAP_DATABASE_URL": "rewrap"}
    url = database.url(f"custody_{role.get(variable, 'owner')}") + "END"
    url = url.replace(old.replace("PORT", str(database.server.port)), new, 1).replace("END", "")
    environ = settings_for(database, issuer, tmp_path) | {variable: url, "HOME": str(tmp_path)}
    done = await asyncio.to_thread(custody, environ, *words)
    # The doctor's findings are for people who look: its exit code says that there is one.
    assert done.code == (1 if name == "doctor" else 78), done
    assert cure in done.out + done.err
    assert variable in done.out + done.err
    assert database.url("postgres").split(":")[2].split("@")[0] not in done.out + done.err


@pytest.mark.prove
async def test_what_is_down_is_named_once(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    closed = free_port()
    for name in ("doctor", "kek list", "rewrap status", "migrate"):
        variable, words = COMMANDS[name]
        url = database.url("custody_app").replace(f":{database.server.port}/", f":{closed}/")
        environ = settings_for(database, issuer, tmp_path) | {variable: url}
        done = await asyncio.to_thread(custody, environ, *words)
        assert done.code == 69, done
        line = (
            f"{variable}: no connection to the database at 127.0.0.1:{closed}: Connection refused"
        )
        assert (done.out + done.err).count(line) == 1
        assert (done.out + done.err).count(variable) == 1


async def test_the_daemon_does_not_start_with_such_a_url(
    database: Database, issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    url = f"{database.url('custody_app')}?sslmode=verify-full"
    with pytest.raises(ConfigurationError, match="needs the certificate of the CA"):
        async with daemon_here(database, issuer, tmp_path, DATABASE_URL=url):
            pass
