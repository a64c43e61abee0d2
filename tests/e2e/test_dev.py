"""``custody dev``: from nothing to a working vault, as a newcomer meets it."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from tests.db import command
from tests.db.command import Done
from tests.db.embedded_server import alive, needs_root
from tests.e2e.dev import Dev, environ_for, running
from tests.eventually import soon
from tests.forked import Forked
from tests.leaks import remember
from tests.servers import ROOT, log_file

CUSTODY = (str(Path(sys.executable).with_name("custody")),)
MODULE = (sys.executable, "-m", "custody")
needs_custody = pytest.mark.skipif(
    not Path(CUSTODY[0]).exists(), reason="the command custody is not installed here"
)


def custody(*arguments: str, **extra: str) -> Done:
    return command.custody(environ_for(**extra), *arguments)


def paste(line: str) -> Mapping[str, object]:
    """Run a line as one would paste it, and return the JSON that it printed."""
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=30, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    body: dict[str, object] = json.loads(done.stdout)
    if isinstance(key := body.get("masterKey"), str):
        remember(key)
    return body


def fetch_key(dev: Dev, token: str) -> Mapping[str, object]:
    remember(token)
    return paste(dev.curl.replace(dev.token, token))


def assert_one_clear_line(done: Done, *words: str) -> None:
    """It failed, and says why in one line among what it logged."""
    assert done.code not in {0, -signal.SIGKILL}
    assert "Traceback" not in done.err
    (line,) = (line for line in done.err.splitlines() if line.startswith("custody: "))
    assert all(word in line for word in words), line
    assert done.out == ""


@pytest.mark.prove
def test_from_nothing_to_a_key_and_the_same_key_again(folder: Path) -> None:
    data = folder / "my data"
    with running(data, *MODULE) as dev:
        first = paste(dev.curl)
        assert set(first) == {"masterKey", "formatVersion", "kekId"}
        assert paste(dev.curl) == first
        # The zero key is for development, and says so.
        assert "ZERO BYTES" in dev.log.read_text()
        with urllib.request.urlopen(f"{dev.address('admin')}", timeout=5) as answer:
            assert json.load(answer)["ready"] is True
        origin = dev.address("vault").partition("/api/")[0]
        assert dev.shown(r"  (\S+/)$") == f"{origin}/"
        with urllib.request.urlopen(f"{origin}/", timeout=5) as answer:
            assert "<h1>Five minutes with custody</h1>" in answer.read().decode()
        with urllib.request.urlopen(f"{origin}/openapi.json", timeout=5) as answer:
            document = json.load(answer)
        assert "/api/v1/me/encryption-vault/key" in document["paths"]
        # Another user: by the command, by the line that the banner shows, and as JSON.
        bob = fetch_key(dev, custody("token", "--sub", "bob", "--data", str(data)).out.strip())
        assert bob["masterKey"] != first["masterKey"]
        (line,) = (line for line in dev.banner.splitlines() if " token --sub NAME" in line)
        pasted = line.partition(": ")[2].replace("NAME", "bob")
        printed = subprocess.run(
            ["bash", "-c", pasted],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            cwd=ROOT,
            env=environ_for(),
        )
        assert printed.returncode == 0, printed.stderr
        assert fetch_key(dev, printed.stdout.strip()) == bob
        as_json = custody("token", "--sub", "bob", "--data", str(data), "--json").out
        assert fetch_key(dev, json.loads(as_json)["token"]) == bob
        refused = paste(dev.curl.replace(dev.token, dev.token[:-8] + "AAAAAAAA"))
        assert refused["code"] == "UNAUTHORIZED"
        assert (data / "issuer.pem").stat().st_mode & 0o777 == 0o600
        token = dev.token
        assert dev.stop() == 0
        assert "Traceback" not in dev.log.read_text()
    with running(data) as again:
        assert paste(again.curl) == first
        assert fetch_key(again, token) == first
        assert again.stop(signal.SIGTERM) == 0


@pytest.mark.prove
@needs_custody
def test_the_installed_command_shows_itself(folder: Path) -> None:
    with running(folder / "data", *CUSTODY) as dev:
        assert f"{CUSTODY[0]} token --sub NAME --data {folder / 'data'}" in dev.banner
        assert "masterKey" in paste(dev.curl)
        assert dev.stop() == 0


@pytest.mark.prove
def test_settings_from_elsewhere_do_not_break_it(folder: Path) -> None:
    """A shell that is set up for a real daemon: dev keeps its own issuer and database."""
    elsewhere = {
        "CUSTODY_JWT_ISSUER": "https://auth.example",
        "CUSTODY_JWKS_URL": "https://auth.example/api/auth/jwks",
        "CUSTODY_DATABASE_URL": "postgresql://custody_app@db.example/custody",
        "CUSTODY_OWNER_DATABASE_URL": "postgresql://custody_owner@db.example/custody",
        "CUSTODY_JWT_AUDIENCE": "else",
        "MANA_AUTH_KEK": "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY=",
    }
    with running(folder / "data", **elsewhere) as dev:
        assert "masterKey" in paste(dev.curl)
        assert "ZERO BYTES" not in dev.log.read_text()
        assert "CUSTODY_JWKS_URL" in dev.log.read_text()
        assert dev.stop() == 0


@pytest.mark.prove
def test_a_unix_socket(folder: Path) -> None:
    with running(folder / "data", CUSTODY_LISTEN=f"unix:{folder}/vault.sock") as dev:
        assert "masterKey" in paste(dev.curl)
        assert dev.stop() == 0


@pytest.mark.prove
def test_kill_9_leaves_no_postgres_and_no_damage(folder: Path) -> None:
    with running(folder / "data") as dev:
        first = paste(dev.curl)
        dev.process.kill()
        soon(lambda: not alive(dev.postgres), 30)
    with running(folder / "data") as again:
        assert paste(again.curl) == first
        assert again.stop() == 0


@pytest.mark.prove
def test_a_taken_port_is_explained(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for variable in ("CUSTODY_LISTEN", "CUSTODY_ADMIN_LISTEN"):
            done = custody("dev", "--data", str(folder / "data"), **{variable: address})
            assert_one_clear_line(done, variable, address, "in use", "--free-ports")
        # PostgreSQL did not stay behind: the folder can be used again; and the cure that is named
        # works, whatever a setting says.
        both = {"CUSTODY_LISTEN": address, "CUSTODY_ADMIN_LISTEN": address}
        with running(folder / "data", option="--free-ports", **both) as dev:
            assert "masterKey" in paste(dev.curl)


@pytest.mark.prove
def test_a_folder_in_use_is_explained(folder: Path) -> None:
    with running(folder / "data") as dev:
        done = custody("dev", "--data", str(folder / "data"))
        assert_one_clear_line(done, str(folder / "data"), "--data FOLDER --free-ports")
        assert "masterKey" in paste(dev.curl)
        assert dev.stop() == 0


@pytest.mark.prove
def test_another_kek_than_the_data_was_made_with_is_refused(folder: Path) -> None:
    data = folder / "data"
    kek = remember("QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY=")
    with running(data) as dev:
        first = paste(dev.curl)
        assert dev.stop() == 0
    done = custody("dev", "--data", str(data), MANA_AUTH_KEK=kek)
    assert_one_clear_line(done, "env:MANA_AUTH_KEK", "env-v1", "other key material")
    assert done.code == 78
    assert kek not in done.err
    with running(data) as again:
        assert paste(again.curl) == first
        assert again.stop() == 0


@pytest.mark.prove
@pytest.mark.parametrize(
    ("extra", "word"),
    [
        ({"MANA_AUTH_KEK": "short"}, "env:MANA_AUTH_KEK"),
        ({"CUSTODY_LISTEN": "nonsense"}, "CUSTODY_LISTEN"),
        ({"CUSTODY_ENV": "production"}, "env:MANA_AUTH_KEK"),
    ],
)
def test_a_bad_setting_is_one_clear_line(folder: Path, extra: dict[str, str], word: str) -> None:
    done = custody("dev", "--data", str(folder / "data"), **extra)
    assert_one_clear_line(done, word)
    assert done.code == 78


def test_a_token_before_the_first_run_names_the_cure(folder: Path) -> None:
    done = custody("token", "--sub", "bob", "--data", str(folder / "nothing"))
    assert_one_clear_line(done, "start custody dev first")
    assert not (folder / "nothing").exists()
    folder.joinpath("issuer.pem").write_text("garbage")
    done = custody("token", "--sub", "bob", "--data", str(folder))
    assert_one_clear_line(done, "damaged")


def test_a_data_folder_that_cannot_be_made_is_one_clear_line(folder: Path) -> None:
    folder.joinpath("file").touch()
    done = custody("dev", "--data", str(folder / "file" / "data"))
    assert_one_clear_line(done, str(folder / "file"))


@pytest.mark.prove
def test_ctrl_c_while_it_starts_leaves_nothing_behind(folder: Path) -> None:
    data = folder / "data"
    log = log_file("dev")
    command = ("dev", "--data", str(data))
    process = Forked("custody", *command, environ=environ_for(), out=log, err=log)
    pid_file = data / "data" / "postmaster.pid"
    try:
        soon(lambda: pid_file.exists() or process.poll() is not None, 40)
        postgres = int(pid_file.read_text().split("\n", 1)[0])
        process.send_signal(signal.SIGINT)
        process.wait(60)
        soon(lambda: not alive(postgres), 30)
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text()
    with running(data) as dev:
        assert "masterKey" in paste(dev.curl)


@pytest.mark.prove
@needs_root
def test_an_ordinary_user_needs_nothing_special(folder: Path) -> None:
    nobody = 65534
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    environ = {"PYTHONPATH": f"{ROOT}:{packages}", "PYTHONDONTWRITEBYTECODE": "1"}
    probe = "import sys; assert sys.version_info >= (3, 11); import custody.cli"
    for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        with suppress(OSError):
            command = [python, "-c", probe]
            done = subprocess.run(
                command, env=environ, user=nobody, group=nobody, cwd="/", check=False,
                capture_output=True,
            )  # fmt: skip
            if done.returncode == 0:
                break
    else:
        pytest.skip("no Python 3.11 with our dependencies that 'nobody' may execute")
    home = folder / "theirs"
    home.mkdir(mode=0o700)
    os.chown(home, nobody, nobody)
    ids = (f"--reuid={nobody}", f"--regid={nobody}")
    as_nobody = ("setpriv", *ids, "--clear-groups")
    first = None
    for _ in range(2):
        with running(home / "data", *as_nobody, python, "-m", "custody", **environ) as dev:
            status = Path("/proc", str(dev.postgres)).stat()
            assert status.st_uid == nobody
            key = paste(dev.curl)
            assert first in {None, key["masterKey"]}
            first = key["masterKey"]
            # Its memory can't be read by its own user: /proc/PID is root's.
            assert Path("/proc", str(dev.process.pid), "environ").stat().st_uid == 0
            assert dev.stop() == 0
    assert {path.stat().st_uid for path in home.rglob("*")} == {nobody}


@pytest.mark.prove
def test_a_banner_that_nobody_can_read(folder: Path) -> None:
    """It ends, and its PostgreSQL with it: without the token there is nothing to try."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*MODULE, "dev", "--data", str(folder / "dev"), "--free-ports"],
            env=environ_for(),
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=100,
        )
    assert done.returncode == 74, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("custody: standard output could not be written")
    assert not list((folder / "dev").rglob("postmaster.pid"))
