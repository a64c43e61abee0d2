"""What operators get wrong on the command line: the last line that they see, and the exit code."""

import asyncio
from pathlib import Path

import pytest

from tests.db.command import custody
from tests.db.mistakes import REFUSED, UNWISE, Place
from tests.servers import Database, settings_for
from tests.tokens import Issuer

_UNSET = (
    "custody: CUSTODY_REWRAP_DATABASE_URL must be set: PostgreSQL, as a login role that is "
    "custody_rewrap or a member of it"
)
# What is typed, which URLs are set to which roles, the exit code, and the last line.
COMMANDS: dict[str, tuple[str, dict[str, str], int, str]] = {
    "a misspelt command": (
        "docto",
        {},
        2,
        "Error: No such command 'docto'. Did you mean 'doctor'?",
    ),
    "an unknown option": ("serve --port 1", {}, 2, "Error: No such option '--port'."),
    "a rate that is no number": (
        "rewrap run --rate fast",
        {},
        2,
        "Error: Invalid value for '--rate': 'fast' is not a valid integer range.",
    ),
    "a re-wrap without its URL": ("rewrap run", {}, 78, _UNSET),
    "the state of re-wraps without their URL": ("rewrap status", {}, 78, _UNSET),
    "KEKs without a database": (
        "kek list",
        {"CUSTODY_DATABASE_URL": ""},
        78,
        (
            "custody: CUSTODY_REWRAP_DATABASE_URL or CUSTODY_DATABASE_URL must be set: PostgreSQL, "
            "as a runtime role"
        ),
    ),
    "a KEK that nobody knows": (
        "kek retire nobody",
        {"CUSTODY_REWRAP_DATABASE_URL": "custody_rewrap"},
        1,
        (
            "custody: nobody is unknown: no KEK is recorded by this id, and no row names it; see: "
            "custody kek list"
        ),
    ),
    "the KEK that is in use": (
        "kek retire env-v1",
        {"CUSTODY_REWRAP_DATABASE_URL": "custody_rewrap"},
        1,
        (
            "custody: env-v1 is what env:MANA_AUTH_KEK stamps on new keys; set CUSTODY_KEK to "
            "another KEK and restart first"
        ),
    ),
    "a migration without its URL": (
        "migrate",
        {},
        78,
        (
            "custody: CUSTODY_OWNER_DATABASE_URL must be set: PostgreSQL, as the owner of the "
            "schema auth"
        ),
    ),
    "a migration by the daemon's role": (
        "migrate",
        {"CUSTODY_OWNER_DATABASE_URL": "custody_app"},
        78,
        (
            "custody: custody_app is a runtime role, and not the owner of the schema auth; set "
            "CUSTODY_OWNER_DATABASE_URL to a login role that is a member of custody_owner"
        ),
    ),
    "a user who is to be erased by the daemon's role": (
        "users erase alice --yes",
        {"CUSTODY_OWNER_DATABASE_URL": "custody_app"},
        78,
        (
            "custody: permission denied for table encryption_vaults; CUSTODY_OWNER_DATABASE_URL "
            "must be the owner of the schema"
        ),
    ),
    "an erasure that nobody has confirmed": (
        "users erase alice",
        {"CUSTODY_OWNER_DATABASE_URL": "custody_owner"},
        2,
        "Error: this destroys the user's master key for good; if you mean it, add --yes",
    ),
    "a token without an issuer": (
        "token --sub alice --data /nowhere",
        {},
        1,
        (
            "custody: no development issuer at /nowhere/issuer.pem (No such file or directory): "
            "start custody dev first, or name its folder with --data"
        ),
    ),
    "a folder that is a file": (
        "dev --data /etc/passwd",
        {},
        2,
        "Error: Invalid value for '--data': Directory '/etc/passwd' is a file.",
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
async def test_last_line_and_exit_code(
    database: Database, issuer: Issuer, tmp_path: Path, name: str
) -> None:
    typed, urls, code, line = COMMANDS[name]
    environ = settings_for(database, issuer, tmp_path)
    environ |= {setting: database.url(role) if role else "" for setting, role in urls.items()}
    given = {name: value for name, value in environ.items() if value}
    done = await asyncio.to_thread(custody, given, *typed.split())
    said = [one for one in done.err.splitlines() if not one.startswith("{")]
    assert (done.code, said[-1]) == (code, line)


@pytest.mark.parametrize("name", ["a host that has no address", "a wrong password"])
async def test_settings_end_with_78(
    database: Database, issuer: Issuer, tmp_path: Path, name: str
) -> None:
    """As all of REFUSED, which are held against the doctor in the process of the tests."""
    place, folder = Place(database, tmp_path), tmp_path / "daemon"
    folder.mkdir()
    mistake = REFUSED[name]
    environ = settings_for(database, issuer, folder) | dict(mistake.change(place))
    done = await asyncio.to_thread(custody, environ, "serve")
    assert (done.code, done.complaint) == (78, place.line(mistake.line))


def test_there_are_enough_of_them() -> None:
    assert len(COMMANDS) + len(REFUSED) + len(UNWISE) >= 60
