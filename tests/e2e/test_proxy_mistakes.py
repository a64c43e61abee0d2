"""Mistakes with a proxy in front: each is seen as docs/how-to/behind-a-proxy.md says."""

import pytest

from tests.e2e.front import SETTINGS, addresses_of, front
from tests.http.wire import SHARED
from tests.proxies import KINDS
from tests.servers import Daemon, Database, daemon_here
from tests.tokens import Issuer


@pytest.mark.prove
@SHARED
@pytest.mark.parametrize("kind", KINDS)
async def test_no_trusted_proxies(
    kind: str,
    module_database: Database,
    issuer: Issuer,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    untrusting = dict(SETTINGS) | {"TRUSTED_PROXIES": ""}
    folder = tmp_path_factory.mktemp("untrusting")
    async with (
        daemon_here(module_database, issuer, folder, **untrusting) as daemon,
        front(kind, daemon) as at,
        at.client(f"untrusted-{kind}") as client,
    ):
        await client.init()
    assert await addresses_of(module_database, f"untrusted-{kind}") == ["127.0.0.1"]


@pytest.mark.prove
@SHARED
async def test_a_slash_behind_the_name(behind: Daemon) -> None:
    changes = {"proxy_pass http://custody;": "proxy_pass http://custody/;"}
    async with front("nginx", behind, changes) as at, at.client("slashed") as client:
        answer = await client.key()
        assert (answer.status, answer.code) == (404, "NOT_FOUND")
        assert answer.headers["Server"] == "custody"


@pytest.mark.prove
@SHARED
async def test_gzip(behind: Daemon) -> None:
    changes = {"gzip off;": "gzip on; gzip_types application/json;"}
    async with front("nginx", behind, changes) as at, at.client("zipped") as client:
        tag = (await client.init()).headers["ETag"]
        assert tag.startswith("W/")
        answer = await client.rotate(if_match=tag)
        assert (answer.status, answer.code) == (412, "STALE_GENERATION")
