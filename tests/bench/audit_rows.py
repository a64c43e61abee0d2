"""Audit rows by the million, a year of them, and the audit table in another shape."""

import time

from tests.bench.users import FIRST, USER_AGENT
from tests.servers import Database

TABLE = "auth.encryption_vault_audit"
DAYS = 360
PARTITIONS = 12
_CHUNK = 1_000_000
_STATEMENT_SECONDS = 3600

# In the order of time, as life adds them, of users picked at random. No trigger: it holds the
# deadline of a request, and there is none.
_ADD = f"""
INSERT INTO {TABLE} (id, user_id, action, ip_address, user_agent, context, status, created_at)
SELECT uuidv7(age)::text, ({FIRST} + floor(random() * $1::bigint)::bigint)::text, 'fetch',
       '192.0.2.1', $2::text, NULL, 200, now() + age
FROM (SELECT ($3::bigint + number - $4::bigint)::float8 / $4::bigint * interval '{DAYS} days' AS age
      FROM generate_series(1, $5::bigint) AS number) AS ages
"""  # noqa: S608 - of constants alone

# By id, not by created_at: an id begins with its time (RFC 9562, section 5.7), and only so can the
# primary key stay on the id alone, which is what keeps an action from being recorded twice.
_PARTITIONED = f"""
ALTER TABLE {TABLE} RENAME TO audit_of_one_table;
CREATE TABLE {TABLE} (LIKE auth.audit_of_one_table INCLUDING DEFAULTS)
    PARTITION BY RANGE (id);
DROP TABLE auth.audit_of_one_table;
ALTER TABLE {TABLE} ADD PRIMARY KEY (id);
CREATE SEQUENCE auth.audit_numbers;
ALTER TABLE {TABLE} ALTER COLUMN number SET DEFAULT nextval('auth.audit_numbers');
GRANT USAGE ON SEQUENCE auth.audit_numbers TO custody_app;
CREATE INDEX encryption_vault_audit_number_idx ON {TABLE} (number);
CREATE INDEX encryption_vault_audit_user_number_idx ON {TABLE} (user_id, number);
CREATE INDEX encryption_vault_audit_state_idx ON {TABLE} (user_id, number)
    WHERE state IS NOT NULL;
CREATE INDEX encryption_vault_audit_created_brin ON {TABLE} USING brin (created_at);
CREATE CONSTRAINT TRIGGER encryption_vault_audit_deadline AFTER INSERT ON {TABLE}
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION auth.custody_hold_deadline();
ALTER TABLE {TABLE} ENABLE ROW LEVEL SECURITY;
ALTER TABLE {TABLE} FORCE ROW LEVEL SECURITY;
CREATE POLICY encryption_vault_audit_own_row ON {TABLE} TO custody_app
    USING (user_id = nullif(current_setting('app.current_user_id', true), ''))
    WITH CHECK (user_id = nullif(current_setting('app.current_user_id', true), ''));
GRANT INSERT (id, user_id, action, ip_address, user_agent, context, status, state, seal)
    ON {TABLE} TO custody_app;
DO $$
DECLARE
    length CONSTANT interval := interval '{DAYS} days' / {PARTITIONS};
    first CONSTANT timestamptz := now() - interval '{DAYS} days' - interval '1 hour';
    bounds text[];
BEGIN
    SELECT array_agg(left(uuidv7(first + n * length - clock_timestamp())::text, 13) ORDER BY n)
    INTO bounds FROM generate_series(0, {PARTITIONS} + 1) AS n;
    FOR n IN 0..{PARTITIONS} LOOP
        EXECUTE format(
            'CREATE TABLE auth.audit_%s PARTITION OF {TABLE} FOR VALUES FROM (%L) TO (%L)',
            n, bounds[n + 1], bounds[n + 2]);
    END LOOP;
END
$$;
"""  # noqa: S608 - of constants alone

# A table that has no partitions is no partition tree.
_SIZE = """
SELECT 'rows' AS what,
       coalesce((SELECT sum(pg_table_size(relid)) FROM pg_partition_tree($1::regclass)),
                pg_table_size($1::regclass))::float8 AS bytes
UNION ALL
SELECT pg_get_indexdef(root.indexrelid),
       coalesce((SELECT sum(pg_relation_size(relid)) FROM pg_partition_tree(root.indexrelid)),
                pg_relation_size(root.indexrelid))::float8
FROM pg_index AS root WHERE root.indrelid = $1::regclass
"""


async def partition(database: Database) -> None:
    """Put an empty partitioned table in the place of the audit table."""
    await database.execute(_PARTITIONED)


async def add_rows(database: Database, count: int, users: int) -> list[float]:
    """Add a year of audit rows.

    Args:
        database: a migrated one.
        count: how many.
        users: they are of so many.

    Returns:
        Rows a second, of each million in turn.
    """
    rates = []
    async with database.connect() as superuser:
        await superuser.execute("SET session_replication_role = replica")
        for start in range(0, count, _CHUNK):
            chunk = min(_CHUNK, count - start)
            began = time.perf_counter()
            values = users, USER_AGENT, start, count, chunk
            await superuser.execute(_ADD, *values, timeout=_STATEMENT_SECONDS)
            rates.append(chunk / (time.perf_counter() - began))
        await superuser.execute(f"VACUUM ANALYZE {TABLE}", timeout=_STATEMENT_SECONDS)
        await superuser.execute("CHECKPOINT", timeout=_STATEMENT_SECONDS)
    return rates


async def size(database: Database) -> dict[str, float]:
    """Return what the audit table takes, in MiB: its rows, and each index by its columns."""
    found = await database.fetch(_SIZE, TABLE)
    return {row["what"].rpartition(" USING ")[2]: round(row["bytes"] / 2**20, 1) for row in found}
