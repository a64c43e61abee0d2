"""A KEK, an audit trail or a stored wrap that fails: its answer, its row, and nothing lost."""

import base64
from collections.abc import Callable

import pytest

from custody.vault import kek_timeout
from kek_backends.errors import Denied, KekError, Transient
from kek_backends.keyring import Keyring
from kek_backends.uri import KekUri
from tests.client import Client, generation_of, tag_of
from tests.failing_kek import FailingKek
from tests.sealed_rows import data_key_of, reseal
from tests.servers import Daemon

Device = Callable[[str], Client]


@pytest.fixture(autouse=True)
def kek(monkeypatch: pytest.MonkeyPatch) -> FailingKek:
    """The KEK of the daemon, which begins after it."""
    uri = KekUri.parse("env:FAILING")
    made = FailingKek(uri=uri, kek_id="failing-v1", key=bytes(range(32)), development=False)
    monkeypatch.setattr("custody.keks.keks.load_keyring", lambda *_uris, **_rest: Keyring(made))
    return made


@pytest.mark.parametrize("failure", [Transient("down"), Denied("no"), None])
async def test_kek_that_fails_or_hangs(
    daemon: Daemon,
    device: Device,
    kek: FailingKek,
    failure: KekError | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kek_timeout, "KEK_TIMEOUT_SECONDS", 0.2)
    alice, bob = device("alice"), device("bob")
    key = (await alice.init()).json["masterKey"]
    kek.failure, kek.hangs = failure, failure is None
    for answer in (await alice.key(), await alice.init(), await alice.rotate(), await bob.init()):
        assert (answer.status, answer.code) == (503, "KEK_UNAVAILABLE")
        assert int(answer.headers["Retry-After"]) > 0
        assert key.encode() not in answer.body
    assert await daemon.database.audit("alice") == [
        ("init", "created", 200),
        ("failed_fetch", "kek-unavailable", 503),
        ("init", "kek-unavailable", 503),
        ("rotate", "kek-unavailable", 503),
    ]
    assert await daemon.database.audit("bob") == [("init", "kek-unavailable", 503)]
    kek.failure, kek.hangs = None, False
    assert (await alice.key()).json["masterKey"] == key


async def test_kek_that_hangs_to_the_end_of_the_request_leaves_time_for_its_row(
    daemon: Daemon, device: Device, kek: FailingKek, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = device("alice")
    await alice.init()
    monkeypatch.setattr("custody.http.frontend.REQUEST_SECONDS", 2)
    kek.hangs = True
    assert (await alice.key()).code == "KEK_UNAVAILABLE"
    assert (await daemon.database.audit("alice"))[-1] == ("failed_fetch", "kek-unavailable", 503)


async def test_audit_row_that_is_swallowed_holds_the_key_back(
    daemon: Daemon, device: Device
) -> None:
    alice = device("alice")
    key = (await alice.init()).json["masterKey"]
    await daemon.database.execute(
        "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER swallow BEFORE INSERT ON auth.encryption_vault_audit"
        " FOR EACH ROW EXECUTE FUNCTION swallow()"
    )
    for answer in (await alice.key(), await alice.init(), await alice.rotate()):
        assert (answer.status, answer.code) == (503, "AUDIT_UNAVAILABLE")
    await daemon.database.execute("DROP TRIGGER swallow ON auth.encryption_vault_audit")
    assert (await alice.key()).json["masterKey"] == key


@pytest.mark.parametrize(
    ("wrapped", "iv"),
    [("junk", "x"), ("A" * 63 + "=", "A" * 16), ("A" * 64, "A" * 12), ("ключ", "A" * 16)],
)
async def test_recovery_wrap_that_can_open_nothing_never_becomes_the_only_one(
    daemon: Daemon, device: Device, kek: FailingKek, wrapped: str, iv: str
) -> None:
    # The service that custody replaces stored whatever it was sent.
    alice = device("alice")
    key = (await alice.init()).json["masterKey"]
    await daemon.database.execute(
        "UPDATE auth.encryption_vaults SET recovery_wrapped_mk = $1, recovery_iv = $2", wrapped, iv
    )
    await reseal(daemon.database, await data_key_of(daemon.database, kek), "alice")
    answer = await alice.enable_zk()
    assert (answer.status, answer.code) == (400, "RECOVERY_WRAP_MISSING")
    assert (await alice.key()).json["masterKey"] == key


async def test_old_row_without_a_server_wrap_keeps_its_recovery_wrap(
    daemon: Daemon, device: Device, kek: FailingKek
) -> None:
    alice = device("alice")
    await alice.init()
    await daemon.database.execute(
        "UPDATE auth.encryption_vaults SET wrapped_mk = NULL, wrap_iv = NULL,"
        " recovery_wrapped_mk = $1, recovery_iv = $2",
        base64.b64encode(bytes(48)).decode(),
        base64.b64encode(bytes(12)).decode(),
    )
    await reseal(daemon.database, await data_key_of(daemon.database, kek), "alice")
    answer = await alice.clear_recovery()
    assert (answer.status, answer.code) == (409, "ZK_ACTIVE")
    assert (await alice.key()).code == "UNWRAP_FAILED"


async def test_vault_made_after_an_erasure_has_a_later_generation(
    daemon: Daemon, device: Device
) -> None:
    alice = device("alice")
    await alice.init()
    stale = await alice.rotate()
    await daemon.database.execute("DELETE FROM auth.encryption_vaults")
    assert generation_of(await alice.init()) > generation_of(stale)
    assert (await alice.rotate(if_match=tag_of(stale))).code == "STALE_GENERATION"
