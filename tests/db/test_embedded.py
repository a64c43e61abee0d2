"""A running embedded PostgreSQL: who gets in, and what it keeps to itself."""

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from custody.development.postgres import EmbeddedPostgres
from custody.development.postgres.user import choose_user
from tests.db.embedded_server import needs_proc, needs_root, open_folder, pid_of, query


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    with open_folder() as path, EmbeddedPostgres(path / "pg", durable=False) as running:
        running.grant_logins()
        yield running


@pytest.mark.prove
@pytest.mark.parametrize(
    ("role", "attributes"),
    [
        ("postgres", "true|true|true"),
        ("custody_owner", "false|true|false"),
        ("custody_app", "false|false|false"),
        ("custody_rewrap", "false|false|false"),
    ],
)
def test_every_role_logs_in_with_no_more_rights_than_its_duty_needs(
    server: EmbeddedPostgres, role: str, attributes: str
) -> None:
    found = query(
        server,
        "SELECT current_user, rolsuper::text, rolcreaterole::text, rolbypassrls::text"
        " FROM pg_roles WHERE rolname = current_user",
        role,
    )
    assert found == f"{role}|{attributes}"


def test_the_database_is_the_owners_and_utf8(server: EmbeddedPostgres) -> None:
    sql = (
        "SELECT pg_get_userbyid(datdba), pg_encoding_to_char(encoding), datlocprovider, datlocale"
        " FROM pg_database WHERE datname = 'custody'"
    )
    assert query(server, sql) == "custody_owner|UTF8|b|C.UTF-8"


def test_granting_logins_again_is_harmless(server: EmbeddedPostgres) -> None:
    server.grant_logins()
    assert query(server, "SELECT 1", "custody_app") == "1"


@pytest.mark.parametrize("role", ["postgres", "custody_owner", "custody_app"])
def test_a_wrong_or_missing_password_is_refused(server: EmbeddedPostgres, role: str) -> None:
    password = server.url(role).split(":")[2].split("@")[0]
    for wrong in ("wrong", ""):
        with pytest.raises(subprocess.CalledProcessError) as caught:
            query(server, "SELECT 1", url=server.url(role).replace(password, wrong))
        assert "password" in caught.value.stderr


def test_only_scram_over_loopback_tcp_gets_in(server: EmbeddedPostgres) -> None:
    rules = "SELECT type, address, netmask, auth_method FROM pg_hba_file_rules"
    assert query(server, rules) == "host|127.0.0.1|255.255.255.255|scram-sha-256"
    assert query(server, "SHOW listen_addresses") == "127.0.0.1"
    assert query(server, "SHOW unix_socket_directories") == ""
    assert query(server, "SELECT count(*) FROM pg_authid WHERE rolpassword LIKE 'md5%'") == "0"


@needs_proc
def test_it_listens_on_loopback_only(server: EmbeddedPostgres) -> None:
    listening = set()
    for name in ("tcp", "tcp6"):
        table = Path("/proc/net", name)
        for row in table.read_text().splitlines()[1:] if table.exists() else []:
            address, port = row.split()[1].split(":")
            if int(port, 16) == server.port and row.split()[3] == "0A":
                listening.add((name, address))
    assert listening == {("tcp", f"{int.from_bytes(socket.inet_aton('127.0.0.1'), 'little'):08X}")}


def test_passwords_lie_in_one_private_file(server: EmbeddedPostgres) -> None:
    path = server.folder / "pgpass"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_uid == os.geteuid()
    words = [line.split(":")[4] for line in path.read_text().splitlines()]
    assert len(set(words)) == 4
    assert min(map(len, words)) >= 43
    holders = [
        file.name
        for file in server.folder.iterdir()
        if file.is_file() and any(word in file.read_text() for word in words)
    ]
    assert holders == ["pgpass"]


@pytest.mark.prove
@needs_proc
def test_no_password_and_no_variable_of_ours_reaches_the_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUSTODY_SECRET_FOR_TEST", "a-secret-of-the-daemon")
    with open_folder() as folder, EmbeddedPostgres(folder / "pg", durable=False) as server:
        secrets = [b"a-secret-of-the-daemon"]
        lines = (server.folder / "pgpass").read_bytes().splitlines()
        secrets += [line.split(b":")[4] for line in lines]
        assert server._watch is not None
        for pid in (pid_of(server), server._watch.pid):
            process = Path("/proc", str(pid))
            seen = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            assert b"PATH=" in seen
            assert not [secret for secret in secrets if secret in seen]


def test_rows_and_statements_with_secrets_stay_out_of_the_log(server: EmbeddedPostgres) -> None:
    secret = "wrap-that-nobody-may-read"
    query(server, "CREATE TABLE IF NOT EXISTS broken (wrap text CHECK (wrap = ''))")
    for sql in ("INSERT INTO broken VALUES ('{}')", "SELECT 1 / 0, '{}'"):
        with pytest.raises(subprocess.CalledProcessError):
            query(server, sql.format(secret))
    text = (server.folder / "postgres.log").read_text()
    assert "broken_wrap_check" in text
    assert secret not in text


def test_ctrl_c_in_the_terminal_does_not_reach_it(server: EmbeddedPostgres) -> None:
    assert server._watch is not None
    sessions = {os.getsid(pid) for pid in (pid_of(server), server._watch.pid)}
    assert sessions == {pid_of(server), server._watch.pid}  # each leads its own


@needs_root
def test_under_root_it_runs_as_another_user_who_owns_only_the_data(
    server: EmbeddedPostgres,
) -> None:
    user = choose_user()
    assert Path("/proc", str(pid_of(server))).stat().st_uid == user.uid != 0
    owners = {path.name: path.stat().st_uid for path in server.folder.iterdir()}
    assert {name for name, owner in owners.items() if owner == user.uid} == {"data"}


def test_an_unknown_role_has_no_url(server: EmbeddedPostgres) -> None:
    with pytest.raises(KeyError):
        server.url("nobody")
