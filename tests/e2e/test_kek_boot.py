"""What the daemon does with its KEKs at boot, and what the doctor says of them."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from custody.settings import ConfigurationError
from tests.bao_server import Bao, least_policy, to_the_next_second
from tests.client import Client, becomes, client_session, readiness
from tests.db.command import custody
from tests.e2e.keks import Place, make_place, make_vaults, move_data_key, overrides
from tests.faulty_proxy import Fault, faulty_proxy
from tests.kek.kms_stub import kms_stub
from tests.leaks import remember
from tests.moto_server import Moto
from tests.servers import Database, daemon_beside, daemon_here, settings_for
from tests.softhsm import odd_module, soft_hsm
from tests.tokens import Issuer

RETIRE = "SELECT auth.custody_retire_kek($1)"


async def refusal(database: Database, issuer: Issuer, folder: Path, *places: Place) -> str:
    """Boot for real, and return the one line that it ends with."""
    environ = settings_for(database, issuer, folder, **overrides(*places))
    done = await asyncio.to_thread(custody, environ, "serve")
    assert done.code == 78, done.err
    return done.complaint


@pytest.mark.prove
async def test_changed_credential_under_a_known_kek_id_refuses_the_boot(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    place = make_place("systemd", tmp_path)
    await make_vaults(database, issuer, tmp_path, place, "alice")
    credential = tmp_path / place.uri.removeprefix("systemd:")
    credential.chmod(0o600)
    credential.write_bytes(b"\x17" * 32)
    line = await refusal(database, issuer, tmp_path, place)
    assert f"KEK {place.uri}: the kek_id {place.stamp} stands for other key material" in line


@pytest.mark.prove
async def test_transit_key_made_again_refuses_the_boot(
    database: Database, issuer: Issuer, tmp_path: Path, bao: Bao, moto: Moto
) -> None:
    place = make_place("vault", tmp_path, bao, moto)
    await make_vaults(database, issuer, tmp_path, place, "alice")
    key = place.uri.partition("/")[2]
    bao.delete_key(key)
    line = await refusal(database, issuer, tmp_path, place)
    assert f"KEK {place.uri}: there is no such key" in line
    await asyncio.sleep(to_the_next_second())
    bao.make_key(key)
    line = await refusal(database, issuer, tmp_path, place)
    assert f"KEK {place.uri}: the kek_id {place.stamp} stands for other key material" in line


@pytest.mark.prove
@pytest.mark.usefixtures("pace")
async def test_transit_key_made_again_under_a_serving_daemon_is_never_written_to(
    database: Database, issuer: Issuer, tmp_path: Path, bao: Bao, moto: Moto
) -> None:
    place = make_place("vault", tmp_path, bao, moto)
    key = place.uri.partition("/")[2]
    async with (
        daemon_here(database, issuer, tmp_path, **overrides(place)) as daemon,
        client_session() as session,
    ):
        assert (await Client(daemon, session, "alice").init()).status == 200
        bao.delete_key(key)
        await asyncio.sleep(to_the_next_second())
        bao.make_key(key, derived=False)
        # At once: nothing has asked for the key since.
        answer = await Client(daemon, session, "bob").init()
        assert (answer.status, answer.code) == (503, "KEK_UNAVAILABLE")
        await becomes(daemon, 503, kek="stands for other key material")
        for user in ("alice", "bob"):
            answer = await Client(daemon, session, user).rotate()
            assert (answer.status, answer.code) == (503, "KEK_UNAVAILABLE")
    assert await database.value("SELECT count(*) FROM auth.encryption_vaults") == 1


@pytest.mark.prove
@pytest.mark.usefixtures("pace")
async def test_kms_that_is_down_at_boot_comes_up_later(
    database: Database, issuer: Issuer, tmp_path: Path, bao: Bao, moto: Moto
) -> None:
    """Up and not ready; users of the other KEK are served meanwhile."""
    other = make_place("env", tmp_path, bao, moto)
    await make_vaults(database, issuer, tmp_path, other, "alice")
    place = make_place("vault", tmp_path, bao, moto)
    with faulty_proxy(bao.port) as proxy:
        place.environ["VAULT_ADDR"] = proxy.address
        proxy.fault = Fault.REFUSE
        async with (
            daemon_here(database, issuer, tmp_path, **overrides(place, other)) as daemon,
            client_session() as session,
        ):
            status, parts = await readiness(daemon)
            assert status == 503
            assert parts["kek"].startswith(f"{place.uri}: the server can't be reached")
            assert (await Client(daemon, session, "alice").key()).status == 200
            bob = Client(daemon, session, "bob")
            answer = await bob.init()
            assert (answer.status, answer.code) == (503, "KEK_UNAVAILABLE")
            proxy.fault = Fault.NONE
            await becomes(daemon, 200, kek="ok")
            assert (await bob.init()).json["kekId"] == place.stamp


@pytest.mark.parametrize(
    "case",
    [
        ("systemd:kek", {}, "LoadCredential="),
        ("vault:transit/key", {}, "set one of VAULT_TOKEN"),
        ("vault:transit/key", {"VAULT_TOKEN": "t"}, "VAULT_ADDR must be set"),
        ("aws-kms:not a key", {}, "alias (alias/NAME)"),
        ("aws-kms:alias/key", {}, "AWS_REGION"),
        ("gcp-kms:key", {}, "is not the name of a key"),
        ("azure-kv:key", {}, "is not the identifier of a key"),
        (
            "kms:key",
            {},
            "no backend is named 'kms'; known: aws-kms, azure-kv, env, gcp-kms, pkcs11, systemd,",
        ),
    ],
)
async def test_bad_configuration_stops_the_boot_with_one_line(
    database: Database,
    issuer: Issuer,
    tmp_path: Path,
    case: tuple[str, dict[str, str], str],
) -> None:
    uri, environ, expected = case
    line = await refusal(database, issuer, tmp_path, Place(uri, "", environ))
    assert f"KEK {uri}: " in line
    assert expected in line


@pytest.mark.prove
async def test_kms_that_refuses_stops_the_boot(
    database: Database, issuer: Issuer, tmp_path: Path, bao: Bao, moto: Moto
) -> None:
    missing = Place("vault:transit/misspelt", "", bao.environ("misspelt"))
    line = await refusal(database, issuer, tmp_path, missing)
    assert "KEK vault:transit/misspelt: there is no such key, mount or namespace" in line
    nothing = Place("aws-kms:alias/misspelt", "", moto.environ)
    assert "KEK aws-kms:alias/misspelt: " in await refusal(database, issuer, tmp_path, nothing)
    twice = make_place("vault", tmp_path, bao, moto)
    assert "is listed twice" in await refusal(database, issuer, tmp_path, twice, twice)


@pytest.mark.prove
async def test_row_of_an_unknown_kek_is_named(
    pace: str, database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    place = make_place("env", tmp_path)
    with daemon_beside(database, issuer, tmp_path, module=pace, **overrides(place)) as daemon:
        async with client_session() as session:
            alice = Client(daemon, session, "alice")
            assert (await alice.init()).status == 200
            await database.execute("UPDATE auth.encryption_vaults SET kek_id = 'lost-v1'")
            answer = await alice.key()
            assert (answer.status, answer.code) == (503, "KEK_UNAVAILABLE")
            problem = "rows carry the kek_id lost-v1, and no configured KEK holds it"
            await becomes(daemon, 503, kek=problem)
            assert daemon.log is not None
            lines = [json.loads(line) for line in daemon.log.read_text().splitlines() if line]
            assert any(problem in line.get("problem", "") for line in lines)
            assert any(line["event"] == "kek_not_configured" for line in lines)
            await database.execute("UPDATE auth.encryption_vaults SET kek_id = $1", place.stamp)
            await becomes(daemon, 200, kek="ok")
            assert (await alice.key()).status == 200
    assert ("failed_fetch", "kek-not-configured", 503) in await database.audit("alice")


@pytest.mark.prove
async def test_retired_kek_is_never_written_again(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    """By a daemon that still runs with it, and by one that boots with it."""
    first, second = (make_place("env", tmp_path) for _ in range(2))
    async with (
        daemon_here(database, issuer, tmp_path, **overrides(first)) as stale,
        client_session() as session,
    ):
        alice = Client(stale, session, "alice")
        assert (await alice.init()).status == 200
        async with daemon_here(database, issuer, tmp_path, **overrides(second, first)) as fresh:
            assert (await Client(fresh, session, "alice").rotate()).status == 200
        await move_data_key(database, first, second)
        async with database.connect("custody_rewrap") as rewrap:
            assert await rewrap.fetchval(RETIRE, second.stamp) == "active"
            # The stale daemon keeps it from being retired, as long as it is heard of.
            assert await rewrap.fetchval(RETIRE, first.stamp) == "written"
            await database.execute("DELETE FROM auth.custody_instances")
            assert await rewrap.fetchval(RETIRE, first.stamp) == "retired"
        for answer in (await alice.rotate(), await Client(stale, session, "bob").init()):
            assert (answer.status, answer.code) == (503, "KEK_UNAVAILABLE")
    assert await database.fetch("SELECT user_id FROM auth.encryption_vaults") != []
    assert await database.value(
        "SELECT kek_id FROM auth.encryption_vaults WHERE user_id = 'alice'"
    ) == (second.stamp)
    with pytest.raises(ConfigurationError, match=f"the kek_id {first.stamp} is retired"):
        await make_vaults(database, issuer, tmp_path, first, "alice")


async def examined(
    database: Database, issuer: Issuer, folder: Path, place: Place
) -> dict[str, list[str]]:
    """Run the doctor, and return its messages by verdict."""
    environ = settings_for(database, issuer, folder, **overrides(place))
    done = await asyncio.to_thread(custody, environ, "doctor", "--json")
    seen: dict[str, list[str]] = {}
    for one in json.loads(done.out):
        if one["part"].startswith("kek"):
            seen.setdefault(one["verdict"], []).append(one["message"])
    assert done.code == (1 if "finding" in seen else 69 if "down" in seen else 0), done.err
    return seen


async def test_doctor_finds_what_is_wrong_with_a_transit_key(
    database: Database, issuer: Issuer, tmp_path: Path, bao: Bao
) -> None:
    key = bao.make_key(derived=False)
    policy = (
        least_policy(key)
        .replace('"update"] }', '"create", "update"] }', 1)
        .replace("transit/decrypt", "transit/none")
    )
    environ = bao.environ(key, policy, ttl="30m")
    seen = await examined(database, issuer, tmp_path, Place(f"vault:transit/{key}", "", environ))
    found = "\n".join(seen["finding"])
    assert "the policy may create keys" in found
    assert f'the policy lacks "update" on transit/decrypt/{key}' in found
    assert "the token expires in" in found
    assert "the key is not derived" in found


@pytest.mark.prove
async def test_doctor_finds_what_is_wrong_with_a_kms_key(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    with kms_stub() as stub:
        missing = Place("aws-kms:alias/nothing", "", stub.environ)
        (message,) = (await examined(database, issuer, tmp_path, missing))["finding"]
        assert "alias" in message
        stub.make_key("alias/custody")
        stub.denied |= {"Decrypt", "ReEncryptFrom"}
        place = Place("aws-kms:alias/custody", "", stub.environ)
        found = "\n".join((await examined(database, issuer, tmp_path, place))["finding"])
        assert "kms:Decrypt" in found
        assert "kms:ReEncryptFrom" in found
        stub.denied.clear()
        seen = await examined(database, issuer, tmp_path, place)
        assert not {"finding", "down"} & set(seen)


@pytest.mark.prove
async def test_doctor_is_content_with_what_is_well(
    database: Database, issuer: Issuer, tmp_path: Path, bao: Bao, moto: Moto
) -> None:
    for backend in ("env", "systemd", "vault", "aws-kms"):
        place = make_place(backend, tmp_path, bao, moto)
        if backend == "vault":
            key = place.uri.partition("/")[2]
            place = Place(place.uri, place.stamp, bao.environ(key, period="24h"))
        seen: dict[str, Any] = await examined(database, issuer, tmp_path, place)
        assert not {"finding", "down"} & set(seen), seen
        assert any(f"wraps and unwraps; kek_id {place.stamp}" in one for one in seen["ok"])


@pytest.mark.prove
async def test_doctor_says_that_the_active_kek_is_retired(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    first, second = (make_place("env", tmp_path) for _ in range(2))
    for places in ((first,), (second, first)):
        async with daemon_here(database, issuer, tmp_path, **overrides(*places)):
            pass
    await move_data_key(database, first, second)
    async with database.connect("custody_rewrap") as rewrap:
        assert await rewrap.fetchval(RETIRE, first.stamp) == "retired"
    seen = await examined(database, issuer, tmp_path, first)
    assert any(f"the kek_id {first.stamp} is retired" in one for one in seen["finding"])


@pytest.mark.prove
@pytest.mark.usefixtures("pace")
async def test_retirement_under_a_serving_daemon_is_named(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    first, second = (make_place("env", tmp_path) for _ in range(2))
    async with daemon_here(database, issuer, tmp_path, **overrides(first)) as daemon:
        async with daemon_here(database, issuer, tmp_path, **overrides(second, first)):
            pass
        await move_data_key(database, first, second)
        async with database.connect("custody_rewrap") as rewrap:
            assert await rewrap.fetchval(RETIRE, first.stamp) == "written"
            await database.execute("DELETE FROM auth.custody_instances")
            assert await rewrap.fetchval(RETIRE, first.stamp) == "retired"
        await becomes(daemon, 503, kek=f"the kek_id {first.stamp} is retired")


@pytest.mark.prove
async def test_alias_that_moves_back_is_active_again(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    with kms_stub() as stub:
        keys = [stub.make_key("alias/custody")]
        place = Place("aws-kms:alias/custody", "", stub.environ)
        async with (
            daemon_here(database, issuer, tmp_path, **overrides(place)) as daemon,
            client_session() as session,
        ):
            keys.append(stub.make_key())
            for user, key in (("a", keys[1]), ("b", keys[0])):
                stub.kms.update_alias(key.id, "alias/custody")
                answer = await Client(daemon, session, user).init()
                assert answer.json["kekId"] == f"aws-kms:{key.arn}"
            states = {
                row["kek_id"]: row["state"]
                for row in await database.fetch("SELECT kek_id, state FROM auth.encryption_keks")
            }
        assert states[f"aws-kms:{keys[0].arn}"] == "active"
        assert states[f"aws-kms:{keys[1].arn}"] == "decrypt-only"


async def test_nobody_sees_wraps_of_a_registered_kek(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    """The function that shows rows for the first proof is shut by the first record."""
    with kms_stub() as stub:
        key = stub.make_key("alias/custody")
        place = Place("aws-kms:alias/custody", "", stub.environ)
        await make_vaults(database, issuer, tmp_path, place, "alice")
        async with database.connect("custody_app") as app:
            sample = "SELECT count(*) FROM auth.custody_sample_rows($1)"
            assert await app.fetchval(sample, f"aws-kms:{key.arn}") == 0


@pytest.mark.parametrize("text", ["{}", "env:{}", "{}?id=x", "env:{}?id=x"])
async def test_key_in_place_of_its_name_is_not_shown(
    database: Database, issuer: Issuer, tmp_path: Path, text: str
) -> None:
    key = remember("dGhpcyBpcyBhIGtleSBpbiBwbGFjZSBvZiBhIG5hbWU=")
    environ = settings_for(database, issuer, tmp_path, KEK=text.format(key))
    done = await asyncio.to_thread(custody, environ, "serve")
    assert done.code == 78
    assert "what looks like a key" in done.complaint
    assert key[:20] not in done.out + done.err


async def test_two_keys_under_one_kek_id_refuse_the_boot(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    with kms_stub() as stub:
        key = stub.make_key("alias/custody")
        kms = Place("aws-kms:alias/custody", "", stub.environ)
        other = make_place("env", tmp_path)
        uri = f"{other.uri.partition('?')[0]}?id=aws-kms:{key.arn}"
        line = await refusal(database, issuer, tmp_path, kms, Place(uri, "", other.environ))
        assert "an id may not begin with aws-kms:" in line


@pytest.mark.prove
async def test_a_wrong_pin_ends_the_boot_after_one_try(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    (tmp_path / "hsm").mkdir()
    token = soft_hsm(tmp_path / "hsm").make_token()
    token.make_key("custody")
    token.write_pin(remember("a-pin-that-is-wrong"))
    with odd_module(tmp_path) as odd:
        place = Place(token.uri(module_path=odd.path), "", token.hsm.environ | odd.environ)
        line = await refusal(database, issuer, tmp_path, place)
        assert f"KEK {place.uri}: open: the token refuses the PIN" in line
        assert odd.logins == 1
