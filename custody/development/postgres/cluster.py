"""The files of an embedded PostgreSQL: passwords, first set-up, access rules, server settings."""

import os
import secrets
import shutil
import stat
import sys
from pathlib import Path
from typing import Final

from custody.development.postgres.user import EmbeddedError, ServerUser

ROLES: Final = ("postgres", "custody_owner", "custody_app", "custody_rewrap")
_SETUP_SECONDS: Final = 60

# Statements with passwords, and rows with wraps (shown when a CHECK breaks), stay out of the log.
_QUIET: Final = {
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
}
_NOT_DURABLE: Final = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}

_GRANT_LOGIN: Final = """
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN CREATE ROLE {role}; END IF;
END $$;
ALTER ROLE {role} LOGIN PASSWORD '{password}';
"""


def passwords(folder: Path) -> dict[str, str]:
    """Return the password of each role, made at random at the first call.

    They are kept in `folder`/pgpass, in libpq's format, readable by the invoking user alone.

    Raises:
        EmbeddedError: the file is missing beside a database, or others can read it.
    """
    path = folder / "pgpass"
    if not path.exists():
        if (folder / "data").exists():
            raise EmbeddedError(
                f"{path} is missing: put it back, or remove {folder}/data to start anew"
            )
        # 32 random bytes in base64url: nothing that pgpass, SQL or a URL would need escaped.
        lines = [f"127.0.0.1:*:*:{role}:{secrets.token_urlsafe(32)}\n" for role in ROLES]
        new = path.with_name("pgpass.new")
        write_private(new, "".join(lines))
        new.rename(path)
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise EmbeddedError(f"{path} must be yours alone: chown it to you and chmod 600")
    fields = (line.split(":") for line in path.read_text().splitlines())
    return {field[3]: field[4] for field in fields}


def write_private(path: Path, text: str, owner: ServerUser | None = None) -> None:
    """Write a new file of mode 0600, replacing what an interrupted start left.

    Args:
        path: a file in a folder that only we can write to
        text: what goes in
        owner: whom it is given to; None: us
    """
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
        if owner is not None:
            owner.own(descriptor)


def create(folder: Path, bin_folder: Path, user: ServerUser, *, durable: bool) -> None:
    """Make `folder`/data with the owner role and the database, unless it is there.

    All is done in `folder`/data.new, which gets its name at the very end: a start that was
    interrupted begins again.

    Args:
        folder: the embedded PostgreSQL's folder
        bin_folder: where initdb and postgres are
        user: whom they run as
        durable: write through to the disk

    Raises:
        EmbeddedError: initdb or the first SQL failed, or the data is of another user.
    """
    data = folder / "data"
    if data.exists():
        owner = data.stat().st_uid
        if owner != (os.geteuid() if user.uid is None else user.uid):
            raise EmbeddedError(
                f"{data} belongs to user {owner}, not to '{user.name}' as whom the server runs:"
                " use another folder"
            )
        return
    new, pwfile = folder / "data.new", folder / "pwfile"
    if new.exists():
        shutil.rmtree(new)
    words = passwords(folder)
    new.mkdir(mode=0o700)
    descriptor = os.open(new, os.O_RDONLY | os.O_DIRECTORY)
    try:
        user.own(descriptor)
    finally:
        os.close(descriptor)
    try:
        write_private(pwfile, f"{words['postgres']}\n", user)
        _run_initdb(bin_folder, new, pwfile, user, durable=durable)
    finally:
        pwfile.unlink(missing_ok=True)
    # Single-user mode reads one statement a line; nothing listens, and no argv holds a password.
    login = f"LOGIN CREATEROLE PASSWORD '{words['custody_owner']}'"
    sql = f"CREATE ROLE custody_owner {login};\nCREATE DATABASE custody OWNER custody_owner;\n"
    options = _words({"exit_on_error": "on", **_QUIET, **({} if durable else _NOT_DURABLE)})
    command = [str(bin_folder / "postgres"), "--single", "-D", str(new), *options, "postgres"]
    _run(command, user, sql)
    new.rename(data)


def _run_initdb(
    bin_folder: Path, data: Path, pwfile: Path, user: ServerUser, *, durable: bool
) -> None:
    # The builtin provider sorts and folds the same on every host, whatever locales it has.
    command = [
        *(str(bin_folder / "initdb"), "-D", str(data), "-U", "postgres", f"--pwfile={pwfile}"),
        *("--auth=scram-sha-256", "-E", "UTF8", "--locale=C", "--locale-provider=builtin"),
        *("--builtin-locale=C.UTF-8", "--no-instructions"),
    ]
    _run(command if durable else [*command, "--no-sync"], user)


def _run(command: list[str], user: ServerUser, text: str = "") -> None:
    done = user.run(command, text=text, seconds=_SETUP_SECONDS)
    if done.returncode != 0:
        name = Path(command[0]).name
        raise EmbeddedError(f"{name} failed, use another folder: {last_lines(done.stderr)}")


def login_sql(words: dict[str, str]) -> str:
    """Return the SQL by which the runtime roles may log in, made where they are missing.

    Args:
        words: password of each role
    """
    roles = ("custody_app", "custody_rewrap")
    return "".join(_GRANT_LOGIN.format(role=role, password=words[role]) for role in roles)


def last_lines(text: str) -> str:
    """Return the end of an output or log as one line, for a message."""
    return " | ".join(line.strip() for line in text.splitlines()[-6:] if line.strip())


def settings(folder: Path, port: int, *, durable: bool) -> list[str]:
    """Return the server's settings as `name=value`; they win over the files in the data folder.

    Args:
        folder: the embedded PostgreSQL's folder
        port: TCP port on 127.0.0.1
        durable: False trades safety against a crash of the machine for speed
    """
    chosen = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": "",
        "hba_file": str(folder / "pg_hba.conf"),
        "max_connections": "200",
        "timezone": "UTC",
        "log_timezone": "UTC",
        **_QUIET,
    }
    if sys.platform == "linux" and not Path("/dev/shm").is_dir():  # noqa: S108
        chosen["dynamic_shared_memory_type"] = "mmap"
    return _words(chosen if durable else chosen | _NOT_DURABLE)


def _words(chosen: dict[str, str]) -> list[str]:
    return [word for name, value in chosen.items() for word in ("-c", f"{name}={value}")]


def write_access_rules(folder: Path) -> None:
    """Write pg_hba.conf: SCRAM over loopback TCP, nothing else.

    It lies outside the data folder, so that root never writes where the server's user can.
    """
    path = folder / "pg_hba.conf"
    path.write_text("host all all 127.0.0.1/32 scram-sha-256\n")
    path.chmod(0o644)
