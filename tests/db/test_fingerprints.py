"""A kek_id can never come to mean other key material."""

import asyncio
import base64
from pathlib import Path

import pytest

from custody.settings import ConfigurationError
from tests.client import Client, client_session
from tests.db.breaking import forget_keks
from tests.db.command import custody
from tests.db.old_service import KEK, ROWS, move
from tests.servers import Database, daemon_here, settings_for
from tests.tokens import Issuer

OTHER = base64.b64encode(b"\x11" * 32).decode()
RECORDED = "SELECT kek_id, fingerprint FROM auth.encryption_keks ORDER BY kek_id"


async def boot(
    database: Database, issuer: Issuer, folder: Path, kek: str, **overrides: str
) -> None:
    async with daemon_here(database, issuer, folder, raw_MANA_AUTH_KEK=kek, **overrides):
        pass


async def recorded(database: Database) -> dict[str, str]:
    return dict(await database.fetch(RECORDED))


async def test_first_boot_records_and_another_key_is_refused(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    await boot(database, issuer, tmp_path, KEK)
    first = await recorded(database)
    assert list(first) == ["env-v1"]
    assert KEK not in str(first)
    with pytest.raises(ConfigurationError) as caught:
        await boot(database, issuer, tmp_path, OTHER)
    assert str(caught.value) == (
        "KEK env:MANA_AUTH_KEK: the kek_id env-v1 stands for other key material; restore that "
        "key, or name the new one otherwise (?id=NEW_ID, or a new key in the KMS) and list the old "
        # With no data key open nobody can say whose record it is.
        "one in CUSTODY_OLD_KEKS; or, if that record is not yours: custody kek forget env-v1"
    )
    assert await recorded(database) == first
    await boot(database, issuer, tmp_path, KEK)
    # The cure of the message, as it is written.
    cured = {"KEK": "env:NEW?id=env-v2", "OLD_KEKS": "env:MANA_AUTH_KEK", "raw_NEW": OTHER}
    await boot(database, issuer, tmp_path, KEK, **cured)
    both = await recorded(database)
    assert sorted(both) == ["env-v1", "env-v2"]
    assert both["env-v1"] == first["env-v1"]
    # An old KEK is held against its fingerprint as well.
    swapped = {"KEK": "env:NEW?id=env-v2", "OLD_KEKS": "env:MANA_AUTH_KEK", "raw_NEW": KEK}
    with pytest.raises(ConfigurationError, match="stands for other key material"):
        await boot(database, issuer, tmp_path, OTHER, **swapped)


@pytest.mark.prove
async def test_command_refuses_another_key(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    await boot(database, issuer, tmp_path, KEK)
    environ = settings_for(database, issuer, tmp_path, raw_MANA_AUTH_KEK=OTHER)
    done = await asyncio.to_thread(custody, environ, "serve")
    assert done.code == 78
    assert "the kek_id env-v1 stands for other key material" in done.complaint
    assert OTHER not in done.err


@pytest.mark.prove
async def test_wrong_key_at_the_first_boot_locks_nobody_out(
    empty: Database, issuer: Issuer, tmp_path: Path
) -> None:
    await move(empty)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"opens none of the \d+ rows"):
            await boot(empty, issuer, tmp_path, OTHER)
        assert await recorded(empty) == {}
    await boot(empty, issuer, tmp_path, KEK)
    assert list(await recorded(empty)) == ["env-v1"]


@pytest.mark.prove
async def test_key_for_another_kek_id_needs_no_row(
    empty: Database, issuer: Issuer, tmp_path: Path
) -> None:
    await move(empty)
    new = {"KEK": "env:NEW?id=env-v2", "OLD_KEKS": "env:MANA_AUTH_KEK", "raw_NEW": OTHER}
    await boot(empty, issuer, tmp_path, KEK, **new)
    assert sorted(await recorded(empty)) == ["env-v1", "env-v2"]


async def test_zero_knowledge_rows_prove_nothing(
    empty: Database, issuer: Issuer, tmp_path: Path
) -> None:
    await move(empty)
    await empty.execute("DELETE FROM auth.encryption_vaults WHERE NOT zero_knowledge")
    await boot(empty, issuer, tmp_path, OTHER)
    assert list(await recorded(empty)) == ["env-v1"]


@pytest.mark.prove
async def test_tampered_rows_among_good_ones_do_not_block(
    empty: Database, issuer: Issuer, tmp_path: Path
) -> None:
    await move(empty)
    await empty.execute(
        "UPDATE auth.encryption_vaults SET wrapped_mk = CASE user_id"
        " WHEN 'vec-000' THEN 'not base64' WHEN 'vec-001' THEN '' ELSE"
        " overlay(wrapped_mk PLACING 'AAAA' FROM 9) END WHERE user_id < 'vec-005'"
    )
    await boot(empty, issuer, tmp_path, KEK)
    assert list(await recorded(empty)) == ["env-v1"]


async def test_format_2_rows_prove_a_key_too(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    async with daemon_here(database, issuer, tmp_path) as daemon, client_session() as session:
        key = (await Client(daemon, session, "alice").init()).json
    await forget_keks(database)
    with pytest.raises(ConfigurationError, match="opens none of the 1 rows tried"):
        await boot(database, issuer, tmp_path, OTHER)
    async with daemon_here(database, issuer, tmp_path) as daemon, client_session() as session:
        assert (await Client(daemon, session, "alice").key()).json == key


@pytest.mark.prove
async def test_two_instances_with_different_keys(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    """On an empty database whoever is first is right, and the other one ends."""
    folders = [tmp_path / str(number) for number in range(6)]
    for folder in folders:
        folder.mkdir()
    ends = await asyncio.gather(
        *(boot(database, issuer, folder, (KEK, OTHER)[n % 2]) for n, folder in enumerate(folders)),
        return_exceptions=True,
    )
    assert len(await recorded(database)) == 1
    refused = [isinstance(end, ConfigurationError) for end in ends]
    assert refused in ([True, False] * 3, [False, True] * 3)


async def test_vectors_are_what_the_tests_think() -> None:
    assert [row["zero_knowledge"] for row in ROWS] == [False] * 18 + [True] * 6
