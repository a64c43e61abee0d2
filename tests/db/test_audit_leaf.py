"""The leaf of a row is the same in Python and in the database, whatever the row holds."""

from typing import Any

from custody.audit.leaf import leaf_of
from custody.db.queries import query
from custody.db.scope import transaction
from tests.db.connecting import engine_of
from tests.servers import Database

ADD = (
    "INSERT INTO auth.encryption_vault_audit (id, user_id, action, ip_address, user_agent, context,"
    " status, created_at, state, seal)"
    " VALUES ($1, $2, $3, $4, $5, $6, $7, $8::text::timestamptz, $9, $10)"
)
NOW = "2026-11-28 16:47:43.123456+00"
ROWS: list[tuple[Any, ...]] = [
    ("plain", "alice", "fetch", "203.0.113.9", "agent", None, 200, NOW, None, bytes(36)),
    ("null", "", "", None, None, None, 0, NOW, None, None),
    ("unsealed", "bob", "init", "2001:db8::1", "agent", "context", 201, NOW, "f" * 64, None),
    ("empty", "", "", "", "", "", -1, NOW, "", b""),
    (
        "unicode",
        "\u00e9\U0001f511\u0301",
        "\u2028",
        "\ufeff",
        "\x7f\x01",
        "\uffff",
        1,
        NOW,
        "\n",
        b"\x00",
    ),
    ("extreme", "a" * 5000, "b", None, "c" * 70000, "d", 2**31 - 1, NOW, "e", bytes(1000)),
    ("least", "a", "b", None, None, None, -(2**31), "4713-01-01 00:00:00+00 BC", None, None),
    ("latest", "a", "b", None, None, None, 1, "294276-12-31 23:59:59.999999+00", None, None),
    ("before", "a", "b", None, None, None, 1, "1999-12-31 23:59:59.999999+00", None, None),
    ("endless", "a", "b", None, None, None, 1, "infinity", None, None),
    ("-endless", "a", "b", None, None, None, 1, "-infinity", None, None),
]


async def test_both_compute_the_same(database: Database) -> None:
    async with database.connect() as superuser:
        for row in ROWS:
            await superuser.execute(ADD, *row)
        found = await superuser.fetchrow(
            "SELECT * FROM auth.custody_audit_leaves(0, 1000000, 1000000)"
        )
    assert found is not None
    async with (
        engine_of(database.url("custody_owner")) as engine,
        transaction(engine) as connection,
    ):
        await connection.execute(query("open_audit"))
        rows = await connection.fetch(query("read_audit_rows"), 0, 1000, 1000)
    leaves = [leaf_of(row) for row in rows]
    assert [row["id"] for row in rows] == [row[0] for row in ROWS]
    theirs = [found["leaves"][at : at + 32] for at in range(0, len(found["leaves"]), 32)]
    assert (found["count"], theirs) == (len(ROWS), leaves)
    assert len(set(leaves)) == len(ROWS)
