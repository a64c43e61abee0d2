"""A KMS that fails under a serving daemon: the documented error in time, the others unharmed, and
service back within seconds of the cure, without a restart."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.bao_server import Bao
from tests.client import Client, becomes, client_session
from tests.e2e import quick
from tests.e2e.cloud_faults import (
    AZURE_FAULTS,
    GCP_FAULTS,
    REGION_FAULTS,
    sick_azure_kv,
    sick_gcp_kms,
    sick_region,
)
from tests.e2e.kek_faults import (
    AWS_FAULTS,
    OPENBAO_FAULTS,
    TOKEN_FAULTS,
    Case,
    sick_aws_kms,
    sick_openbao,
    sick_token,
    two_kinds_of_users,
)
from tests.e2e.keks import Place, make_place, overrides
from tests.eventually import eventually
from tests.load import load
from tests.moto_server import Moto
from tests.servers import Daemon, Database, daemon_beside
from tests.tokens import Issuer

# What a request may take with a KEK that is down, and what a busy machine adds to it.
DEADLINE = 5.0 + 1.5
BACK_WITHIN = 5.0


async def refused(victims: list[Client]) -> None:
    """Each call is answered in time, with the documented error and its audit row."""
    started = time.monotonic()
    for answer in await asyncio.gather(*(victim.key() for victim in victims)):
        assert (answer.status, answer.code) == (503, "KEK_UNAVAILABLE")
        assert "Retry-After" in answer.headers
    assert time.monotonic() - started < DEADLINE
    newcomer = Client(victims[0].daemon, victims[0]._session, "newcomer")
    started = time.monotonic()
    answers = [await newcomer.init(), await victims[0].key()]
    for answer in answers:
        assert answer.status in (200, 503)
    assert time.monotonic() - started < 2 * DEADLINE
    trail = await victims[0].daemon.database.audit("victim-1")
    assert trail[-1] == ("failed_fetch", "kek-unavailable", 503)


async def goes_through(
    case: Case, daemon: Daemon, victims: list[Client], healthy: list[Client], place: Place
) -> None:
    """Break it, look, mend it, look."""
    users = [client.user for client in healthy]
    async with load(daemon, users, keep_alive=True) as seen:
        try:
            await asyncio.to_thread(case.begin)
            await refused(victims)
            async with (
                client_session() as session,
                session.get(f"{daemon.admin}/livez", timeout=aiohttp.ClientTimeout(2)) as answer,
            ):
                assert answer.status == 200
            parts = await becomes(daemon, 503, kek=case.named)
            assert place.uri in parts["kek"]
        finally:
            await asyncio.to_thread(case.cure)

        async def all_back() -> bool:
            return {(await victim.key()).status for victim in victims} == {200}

        await eventually(all_back, BACK_WITHIN)
        await becomes(daemon, 200, kek="ok")
    # Nobody whose KEK is well has noticed anything.
    assert seen.lost() == []
    assert seen.answered > 3 * len(users)


def each(faults: Sequence[str], *some: str) -> list[Any]:
    """Return all faults for the daemon as it is, and a few for one that looks more often."""
    return [
        *(pytest.param(name, quick.__name__, id=f"quick-{name}") for name in some),
        *(pytest.param(name, "custody", id=name, marks=pytest.mark.prove) for name in faults),
    ]


@pytest.mark.prove
@pytest.mark.parametrize(("name", "module"), each(OPENBAO_FAULTS, "token revoked", "key deleted"))
async def test_openbao(
    name: str, database: Database, issuer: Issuer, tmp_path: Path, own_bao: Bao, *, module: str
) -> None:
    with sick_openbao(name, own_bao, tmp_path) as (case, place):
        async with two_kinds_of_users(database, issuer, tmp_path, place, module=module) as users:
            await goes_through(case, *users, place)


@pytest.mark.prove
@pytest.mark.parametrize(("name", "module"), each(AWS_FAULTS, "denied", "throttling"))
async def test_aws_kms(
    name: str, database: Database, issuer: Issuer, tmp_path: Path, *, module: str
) -> None:
    with sick_aws_kms(name) as (case, place):
        async with two_kinds_of_users(database, issuer, tmp_path, place, module=module) as users:
            await goes_through(case, *users, place)


@pytest.mark.prove
@pytest.mark.parametrize("name", TOKEN_FAULTS)
async def test_pkcs11(name: str, database: Database, issuer: Issuer, tmp_path: Path) -> None:
    with sick_token(name, tmp_path) as (case, place):
        async with two_kinds_of_users(database, issuer, tmp_path, place) as users:
            await goes_through(case, *users, place)


@pytest.mark.prove
@pytest.mark.parametrize("name", OPENBAO_FAULTS)
async def test_openbao_over_mtls(
    name: str, database: Database, issuer: Issuer, tmp_path: Path, own_bao: Bao
) -> None:
    with sick_openbao(name, own_bao, tmp_path, mtls=True) as (case, place):
        async with two_kinds_of_users(database, issuer, tmp_path, place) as users:
            await goes_through(case, *users, place)


@pytest.mark.prove
@pytest.mark.parametrize("name", GCP_FAULTS)
async def test_gcp_kms(name: str, database: Database, issuer: Issuer, tmp_path: Path) -> None:
    with sick_gcp_kms(name, tmp_path) as (case, place):
        async with two_kinds_of_users(database, issuer, tmp_path, place) as users:
            await goes_through(case, *users, place)


@pytest.mark.prove
@pytest.mark.parametrize("name", AZURE_FAULTS)
async def test_azure_kv(name: str, database: Database, issuer: Issuer, tmp_path: Path) -> None:
    with sick_azure_kv(name, tmp_path) as (case, place):
        async with two_kinds_of_users(database, issuer, tmp_path, place) as users:
            await goes_through(case, *users, place)


@pytest.mark.prove
@pytest.mark.parametrize("name", REGION_FAULTS)
async def test_one_region_of_a_key_fails(
    name: str, database: Database, issuer: Issuer, tmp_path: Path, moto: Moto
) -> None:
    """A daemon that asks another region serves the same users meanwhile, and none has an error."""
    (tmp_path / "there").mkdir()
    healthy = make_place("env", tmp_path)
    with sick_region(name, moto, "us-east-1") as (case, here, there):
        async with two_kinds_of_users(database, issuer, tmp_path, here, healthy) as users:
            # Not the one whose trail is looked at.
            victims = [client.user for client in users[1][2:]]
            settings = overrides(there, healthy)
            with daemon_beside(database, issuer, tmp_path / "there", **settings) as elsewhere:
                async with load(elsewhere, victims, keep_alive=True) as seen:
                    await goes_through(case, *users, here)
            assert seen.lost() == []
            assert seen.answered > 3 * len(victims)
