"""Daemons in two regions on one database: a multi-Region key is one KEK to its registry."""

from pathlib import Path

import pytest

from tests.client import Client, client_session
from tests.db.kek_registry import retire
from tests.e2e.keks import Place, overrides
from tests.moto_server import REGION, Moto
from tests.servers import Daemon, Database, daemon_here
from tests.tokens import Issuer

OTHER = "us-east-1"
STAMPS = "SELECT DISTINCT kek_id FROM auth.encryption_vaults ORDER BY 1"
REGISTRY = "SELECT kek_id, state FROM auth.encryption_keks ORDER BY recorded_at"


async def keys_of(daemon: Daemon, *users: str) -> list[str]:
    async with client_session() as session:
        answers = [await Client(daemon, session, user).init() for user in users]
    assert {answer.status for answer in answers} == {200}
    return [answer.json["masterKey"] for answer in answers]


@pytest.mark.prove
async def test_one_key_in_two_regions(
    database: Database, issuer: Issuer, tmp_path: Path, moto: Moto
) -> None:
    arn = moto.make_key(MultiRegion=True)
    moto.replicate(arn, OTHER)
    stamp = f"aws-kms:{arn}"
    here = Place(f"aws-kms:{arn}", stamp, moto.environ)
    there = Place(f"aws-kms:{arn.replace(REGION, OTHER)}", stamp, moto.environ)
    async with daemon_here(database, issuer, tmp_path, **overrides(here)) as first:
        (alice,) = await keys_of(first, "alice")
        async with daemon_here(database, issuer, tmp_path, **overrides(there)) as second:
            (same, bob) = await keys_of(second, "alice", "bob")
            assert same == alice
            assert await keys_of(first, "alice", "bob") == [alice, bob]
    # The other region alone, and its own worker: no row is stale there.
    async with daemon_here(database, issuer, tmp_path, **overrides(there)) as second:
        assert await keys_of(second, "alice", "bob") == [alice, bob]
    assert [row["kek_id"] for row in await database.fetch(STAMPS)] == [stamp]
    assert [tuple(row) for row in await database.fetch(REGISTRY)] == [(stamp, "active")]
    # By the other replica's name there is nothing to retire, and by this one it is in use.
    assert await retire(database, there.uri) == "unknown"
    assert await retire(database, stamp) == "active"
