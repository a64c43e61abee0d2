"""What makes auth.users custody's own is data: no comment, and no dump without them, changes it."""

import secrets
from pathlib import Path

import pytest

from custody.audit.events import event_id
from custody.db.erase import erase_user
from custody.db.erasure_record import Erasure
from custody.db.migrate import migrate
from custody.db.owner import OwnerRefused
from tests.client import Client, client_session
from tests.db import old_service
from tests.db.connecting import owner
from tests.db.posture import migrate_by_psql, migrations_until, problems_of
from tests.servers import Database, daemon_here
from tests.tokens import Issuer

BEFORE = "0009"  # the last migration by which a comment was the mark
OURS = "SELECT ours FROM auth.custody_marks WHERE table_name = 'users'"
FORCED = (
    "SELECT relrowsecurity AND relforcerowsecurity FROM pg_class WHERE oid = 'auth.users'::regclass"
)
COMMENTS = ("NULL", "'kept by the team of accounts'")


async def first_key(database: Database, issuer: Issuer, folder: Path) -> int:
    """Return what a user whom nobody knows yet is answered."""
    async with daemon_here(database, issuer, folder) as daemon, client_session() as session:
        return (await Client(daemon, session, f"new-{secrets.token_hex(4)}").init()).status


@pytest.mark.prove
@pytest.mark.parametrize("comment", COMMENTS)
async def test_comment_means_nothing(
    database: Database, issuer: Issuer, tmp_path: Path, comment: str
) -> None:
    await database.execute(f"COMMENT ON TABLE auth.users IS {comment}")
    assert await first_key(database, issuer, tmp_path) == 200
    user = await database.value("SELECT id FROM auth.users")
    assert (await erase_user(owner(database), Erasure(event_id(), user))).user


async def test_mark_comes_from_the_comment_of_before(empty: Database, tmp_path: Path) -> None:
    await migrate(owner(empty), migrations_until(BEFORE, tmp_path))
    assert (await migrate(owner(empty)))[0] == "0010_mark_users"
    assert await empty.value(OURS)


@pytest.mark.prove
@pytest.mark.parametrize("comment", COMMENTS)
async def test_mark_comes_without_the_comment(
    empty: Database, issuer: Issuer, tmp_path: Path, comment: str
) -> None:
    """One that was restored without comments before this migration: its policy tells."""
    await migrate(owner(empty), migrations_until(BEFORE, tmp_path))
    await empty.execute(f"COMMENT ON TABLE auth.users IS {comment}")
    await migrate(owner(empty))
    assert await empty.value(OURS)
    assert await first_key(empty, issuer, tmp_path) == 200


@pytest.mark.prove
async def test_what_was_there_before_is_never_ours(empty: Database) -> None:
    await old_service.build(empty, "custody_owner")
    await migrate(owner(empty))
    assert await empty.value(OURS) is False
    # Whatever is said of it later, and however often the files are run.
    await empty.execute("COMMENT ON TABLE auth.users IS 'custody keeps its users here'")
    migrate_by_psql(empty)
    assert await empty.value(OURS) is False
    assert await empty.value(FORCED) is False
    assert await problems_of(empty.url("custody_app")) == ()


@pytest.mark.prove
async def test_comment_of_somebody_else_that_looks_like_the_mark(empty: Database) -> None:
    await old_service.build(empty, "custody_owner")
    await empty.execute("COMMENT ON TABLE auth.users IS 'custody: the children of each parent'")
    with pytest.raises(OwnerRefused) as caught:
        await migrate(owner(empty))
    assert await empty.value("SELECT to_regclass('auth.encryption_keks')") is None
    assert await empty.value(FORCED) is False
    await empty.execute(str(caught.value).rpartition("run: ")[2])
    await migrate(owner(empty))
    assert await empty.value(OURS) is False


@pytest.mark.prove
async def test_what_keeps_it_safe_comes_back_by_the_mark_alone(database: Database) -> None:
    await database.execute(
        "COMMENT ON TABLE auth.users IS NULL; DROP POLICY users_own_row ON auth.users;"
        "ALTER TABLE auth.users DISABLE ROW LEVEL SECURITY"
    )
    migrate_by_psql(database)
    assert await problems_of(database.url("custody_app")) == ()
    assert await database.value(FORCED)
