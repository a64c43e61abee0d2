"""The registry of KEKs, sealed: what somebody else has put there counts as none."""

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.keks.registry import KekRegistry
from kek_backends.base import Binding
from kek_backends.env import EnvKek
from kek_backends.errors import Misconfigured, Transient
from kek_backends.keyring import Keyring
from kek_backends.uri import KekUri
from tests.db.data_keys import FixedSealer, add_sealed_row, new_id
from tests.db.kek_registry import record, register, retire
from tests.db.psql import psql
from tests.servers import Database

FORGET = "; or, if that record is not yours: custody kek forget k1"
POISON = "0" * 64
WRAP = "UPDATE auth.encryption_vaults SET wrapped_mk = $1, wrap_iv = $2 WHERE user_id = $3"


class Knowing(EnvKek):
    """Keeps what it was told to trust."""

    known: frozenset[str] = frozenset()

    def trust(self, kek_ids: frozenset[str]) -> None:
        self.known = kek_ids


def kek(key: bytes = b"k" * 32, kek_id: str = "k1") -> Knowing:
    uri = KekUri.parse(f"env:KEY?id={kek_id}")
    return Knowing(uri=uri, kek_id=kek_id, key=key, development=False)


def registry(
    engine: AsyncEngine, one: EnvKek, sealer: FixedSealer | None = None, *, legacy: bool = False
) -> KekRegistry:
    return KekRegistry(engine, Keyring(one), sealer or FixedSealer(), legacy=legacy)


async def poison(database: Database, *, seal: str | None = None, active: bool = False) -> None:
    """Register the kek_id before its KEK is there, as the thief of a password does."""
    await register(database, "k1", POISON, seal=seal, active=active)


async def assert_sealed(database: Database, engine: AsyncEngine) -> None:
    """The record is the KEK's own, and holds."""
    row = await record(database, "k1")
    assert (row["fingerprint"], row["state"]) == (kek().fingerprint("k1"), "active")
    await registry(engine, kek()).compare()
    with pytest.raises(Misconfigured, match="stands for other key material"):
        await registry(engine, kek(b"x" * 32)).check()


async def test_a_record_is_sealed(database: Database, engine: AsyncEngine) -> None:
    await registry(engine, kek()).check()
    assert (await record(database, "k1"))["seal"] is not None
    await assert_sealed(database, engine)
    version = "SELECT xmin::text FROM auth.encryption_keks"
    before = await database.value(version)
    await registry(engine, kek()).check()
    assert await database.value(version) == before


@pytest.mark.parametrize("active", [False, True])
@pytest.mark.parametrize("seal", [None, "", "junk", "ключ"])
async def test_a_poisoned_record_counts_as_none(
    database: Database, engine: AsyncEngine, seal: str | None, *, active: bool
) -> None:
    await poison(database, seal=seal, active=active)
    await registry(engine, kek()).check()
    await assert_sealed(database, engine)


async def test_a_seal_for_another_kek_id_or_backend_does_not_hold(
    database: Database, engine: AsyncEngine
) -> None:
    await registry(engine, kek(b"x" * 32, "k2")).check()
    other = await record(database, "k2")
    await register(database, "k1", other["fingerprint"], seal=other["seal"])
    await registry(engine, kek()).check()
    await assert_sealed(database, engine)
    await database.execute("UPDATE auth.encryption_keks SET backend = 'vault' WHERE kek_id = 'k1'")
    await registry(engine, kek()).check()
    assert (await record(database, "k1"))["backend"] == "env"


async def test_rows_prove_a_kek_whose_record_does_not_count(
    database: Database, engine: AsyncEngine
) -> None:
    await registry(engine, kek()).check()
    wrap = await kek().wrap(Binding("alice", 1), b"m" * 32)
    await add_sealed_row(database, "alice", "s", "k1")
    await database.execute(WRAP, wrap.wrapped_mk, wrap.wrap_iv, "alice")
    for seal in (None, "junk"):
        await database.execute("UPDATE auth.encryption_keks SET seal = $1", seal)
        with pytest.raises(Misconfigured, match="opens none of the 1 rows"):
            await registry(engine, kek(b"x" * 32)).check()
        await registry(engine, kek()).check()
        await assert_sealed(database, engine)


async def test_a_data_key_outweighs_rows_that_anybody_may_have_put_there(
    database: Database, engine: AsyncEngine
) -> None:
    await add_sealed_row(database, "mallory", "s", "k1")
    with pytest.raises(Misconfigured, match="opens none of the 1 rows"):
        await registry(engine, kek()).check()
    key_id = new_id()
    wrap = await kek().wrap(Binding.of_data_key(key_id), b"d" * 32)
    await database.execute("INSERT INTO auth.encryption_data_keys VALUES ($1, 's')", key_id)
    await database.execute(
        "INSERT INTO auth.encryption_data_key_wraps VALUES ($1, 'k1', $2, $3, 3)",
        key_id,
        wrap.wrapped_mk,
        wrap.wrap_iv,
    )
    with pytest.raises(Misconfigured, match="opens none of the 1 rows"):
        await registry(engine, kek(b"x" * 32)).check()
    await registry(engine, kek()).check()
    await assert_sealed(database, engine)


async def test_while_no_data_key_is_open_what_is_recorded_is_believed(
    database: Database, engine: AsyncEngine
) -> None:
    closed = FixedSealer(is_open=False)
    await poison(database)
    with pytest.raises(Misconfigured) as caught:
        await registry(engine, kek(), closed).check()
    assert str(caught.value).endswith(FORGET)
    assert (await record(database, "k1"))["fingerprint"] == POISON
    await registry(engine, kek()).check()
    before = await record(database, "k1")
    asked = registry(engine, kek(), closed)
    await asked.check()
    await asked.admit("k1")
    assert await record(database, "k1") == before


async def test_without_a_data_key_nothing_new_is_recorded(
    database: Database, engine: AsyncEngine
) -> None:
    closed = FixedSealer(is_open=False)
    asked = registry(engine, kek(), closed)
    await asked.check()
    with pytest.raises(Transient, match="while no data key is open"):
        await asked.admit("k1")
    assert await database.fetch("SELECT * FROM auth.encryption_keks") == []
    closed.is_open = True
    await asked.record()
    await assert_sealed(database, engine)


async def test_whoever_was_first_is_right(database: Database, engine: AsyncEngine) -> None:
    """Two compare the same, and only then record."""
    one, other = registry(engine, kek()), registry(engine, kek(b"x" * 32))
    await one.compare()
    await other.compare()
    await one.record()
    with pytest.raises(Misconfigured, match="stands for other key material"):
        await other.record()
    assert other.problems
    await assert_sealed(database, engine)


@pytest.mark.parametrize("seal", [None, "junk"])
async def test_a_retirement_by_others_is_named_with_its_cure(
    database: Database, engine: AsyncEngine, seal: str | None
) -> None:
    await register(database, "k1", kek().fingerprint("k1"), seal=seal)
    assert await retire(database, "k1") == "retired"
    for _ in range(2):
        with pytest.raises(Misconfigured) as caught:
            await registry(engine, kek()).check()
        assert "the kek_id k1 is retired" in str(caught.value)
        assert FORGET in str(caught.value)
    forget = "SELECT auth.custody_forget_kek('k1')"
    assert psql(database, "custody_owner", forget) == "forgotten"
    await registry(engine, kek()).check()
    await assert_sealed(database, engine)


async def test_a_retirement_of_ours_has_no_such_cure(
    database: Database, engine: AsyncEngine
) -> None:
    await registry(engine, kek()).check()
    await database.execute("UPDATE auth.encryption_keks SET state = 'decrypt-only'")
    assert await retire(database, "k1") == "retired"
    with pytest.raises(Misconfigured) as caught:
        await registry(engine, kek()).check()
    assert "forget" not in str(caught.value)


async def test_only_sealed_records_make_a_kek_id_known(
    database: Database, engine: AsyncEngine
) -> None:
    one = kek()
    await register(database, "planted", "f")
    await registry(engine, one).check()
    assert one.known == {"k1"}
    await registry(engine, one, legacy=True).check()
    assert one.known == {"k1", "planted"}
    # What was told stays while nothing can be judged.
    await registry(engine, one, FixedSealer(is_open=False)).check()
    assert one.known == {"k1", "planted"}


async def test_without_a_sealer_records_are_believed(
    database: Database, engine: AsyncEngine
) -> None:
    await poison(database)
    with pytest.raises(Misconfigured) as caught:
        await KekRegistry(engine, Keyring(kek())).check()
    assert "forget" not in str(caught.value)
