"""Tokens, good and bad, in all combinations: which are taken, and what is counted of the others."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.client import client_session
from tests.http.refusals import refused_tokens, rises
from tests.http.token_combinations import combinations, published
from tests.http.wire import SHARED
from tests.servers import Daemon, Database, daemon_here
from tests.tokens import Issuer

TABLES = dict(combinations())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def many_keys(
    module_database: Database, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Daemon]:
    """A daemon whose issuer publishes keys of all kinds."""
    folder = tmp_path_factory.mktemp("keys")
    path = folder / "all.json"
    path.write_bytes(published(issuer))
    async with daemon_here(module_database, issuer, folder, JWKS_FILE=str(path)) as running:
        yield running


def test_there_are_enough() -> None:
    reasons = [reason for table in TABLES.values() for _, reason in table.values()]
    assert len(reasons) > 300
    assert reasons.count(None) > 80


@SHARED
@pytest.mark.parametrize("name", TABLES)
async def test_each_token(many_keys: Daemon, name: str) -> None:
    table = TABLES[name]
    async with client_session() as session:
        for reason in {reason for _, reason in table.values()}:
            before = await refused_tokens(many_keys)
            tokens = {one: build for one, (build, why) in table.items() if why == reason}
            for one, build in tokens.items():
                bearer = {"Authorization": f"Bearer {build(many_keys.issuer)}"}
                async with session.get(f"{many_keys.base}/status", headers=bearer) as response:
                    assert response.status == (200 if reason is None else 401), one
            risen = {} if reason is None else {reason: len(tokens)}
            assert await rises(many_keys, before) == risen, reason
