"""A database as the service that custody replaces makes it, filled with rows that it wrote."""

import json
from typing import Any

from custody.db.engine import Dsn
from custody.db.migrate import migrate
from tests.servers import ROOT, Database

VECTORS: dict[str, Any] = json.loads((ROOT / "tests/vectors/format1-rows.json").read_text())
KEK: str = VECTORS["kek_base64"]
ROWS: list[dict[str, Any]] = VECTORS["rows"]

_USERS = """
CREATE TABLE auth.users (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    email TEXT NOT NULL UNIQUE,
    email_verified BOOLEAN NOT NULL DEFAULT false,
    image TEXT,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    role TEXT NOT NULL DEFAULT 'user',
    tier TEXT NOT NULL DEFAULT 'public',
    deleted_at TIMESTAMPTZ,
    kind TEXT NOT NULL DEFAULT 'human',
    two_factor_enabled BOOLEAN
);
"""

_VAULTS = """
CREATE TABLE auth.encryption_vaults (
    user_id TEXT PRIMARY KEY REFERENCES auth.users(id) ON DELETE CASCADE,
    wrapped_mk TEXT,
    wrap_iv TEXT,
    format_version SMALLINT NOT NULL DEFAULT 1,
    kek_id TEXT NOT NULL DEFAULT 'env-v1',
    recovery_wrapped_mk TEXT,
    recovery_iv TEXT,
    recovery_format_version SMALLINT NOT NULL DEFAULT 1,
    recovery_set_at TIMESTAMPTZ,
    zero_knowledge BOOLEAN NOT NULL DEFAULT false,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    rotated_at TIMESTAMPTZ
);
ALTER TABLE auth.encryption_vaults
    ADD CONSTRAINT encryption_vaults_has_wrap
        CHECK (wrapped_mk IS NOT NULL OR recovery_wrapped_mk IS NOT NULL),
    ADD CONSTRAINT encryption_vaults_wrap_iv_pair
        CHECK ((wrapped_mk IS NULL) = (wrap_iv IS NULL)),
    ADD CONSTRAINT encryption_vaults_zk_consistency
        CHECK (NOT zero_knowledge OR (wrapped_mk IS NULL AND recovery_wrapped_mk IS NOT NULL));
"""

# From before recovery wraps and zero-knowledge mode.
_OLDER_VAULTS = """
CREATE TABLE auth.encryption_vaults (
    user_id TEXT PRIMARY KEY REFERENCES auth.users(id) ON DELETE CASCADE,
    wrapped_mk TEXT NOT NULL,
    wrap_iv TEXT NOT NULL,
    format_version SMALLINT NOT NULL DEFAULT 1,
    kek_id TEXT NOT NULL DEFAULT 'env-v1',
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    rotated_at TIMESTAMPTZ
);
"""

_REST = """
CREATE INDEX encryption_vaults_user_id_idx ON auth.encryption_vaults (user_id);
CREATE TABLE auth.encryption_vault_audit (
    id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES auth.users(id) ON DELETE CASCADE,
    action TEXT NOT NULL,
    ip_address TEXT,
    user_agent TEXT,
    context TEXT,
    status INTEGER NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX encryption_vault_audit_user_id_idx ON auth.encryption_vault_audit (user_id);
CREATE INDEX encryption_vault_audit_created_at_idx ON auth.encryption_vault_audit (created_at);
ALTER TABLE auth.encryption_vaults ENABLE ROW LEVEL SECURITY;
ALTER TABLE auth.encryption_vaults FORCE ROW LEVEL SECURITY;
CREATE POLICY encryption_vaults_user_isolation ON auth.encryption_vaults
    USING (user_id = current_setting('app.current_user_id', true))
    WITH CHECK (user_id = current_setting('app.current_user_id', true));
ALTER TABLE auth.encryption_vault_audit ENABLE ROW LEVEL SECURITY;
ALTER TABLE auth.encryption_vault_audit FORCE ROW LEVEL SECURITY;
CREATE POLICY encryption_vault_audit_user_isolation ON auth.encryption_vault_audit
    USING (user_id = current_setting('app.current_user_id', true))
    WITH CHECK (user_id = current_setting('app.current_user_id', true));
"""

# All audit rows of the old service, whole.
AUDIT = (
    "SELECT id, user_id, action, ip_address, user_agent, context, status, created_at"
    " FROM auth.encryption_vault_audit WHERE id LIKE 'cuid-%' ORDER BY id"
)

_WRAPS = ("wrapped_mk", "wrap_iv", "format_version", "kek_id")
_RECOVERY = ("recovery_wrapped_mk", "recovery_iv", "recovery_format_version", "zero_knowledge")


async def build(
    database: Database, role: str = "custody_owner", *, older: bool = False
) -> list[Any]:
    """Make the old service's tables as a role, and fill them; return its audit.

    Args:
        database: an empty database that belongs to the role.
        role: custody_owner, or postgres for a service that ran as superuser.
        older: the form from before recovery wraps.
    """
    rows = [row for row in ROWS if not (older and row["wrapped_mk"] is None)]
    columns = ("user_id", *_WRAPS, *(() if older else _RECOVERY))
    users = [row["user_id"] for row in rows]
    async with database.connect(role) as owner:
        tables = _USERS + (_OLDER_VAULTS if older else _VAULTS) + _REST
        await owner.execute(f"CREATE SCHEMA auth; {tables}")
    async with database.connect() as superuser:
        await superuser.execute(
            "INSERT INTO auth.users (id, name, email)"
            " SELECT id, 'Name', id || '@example.org' FROM unnest($1::text[]) AS id",
            [*users, "no-vault"],
        )
        await superuser.copy_records_to_table(
            "encryption_vaults",
            schema_name="auth",
            columns=columns,
            records=[tuple(row[column] for column in columns) for row in rows],
        )
        await superuser.execute(
            "INSERT INTO auth.encryption_vault_audit"
            " SELECT 'cuid-' || lpad(n::text, 4, '0'), id, 'init', '192.0.2.1', 'Firefox',"
            " CASE n % 2 WHEN 1 THEN 'created' END, 200, '2025-01-02T03:04:05Z'"
            " FROM unnest($1::text[]) WITH ORDINALITY AS one (id, n)",
            users,
        )
        if not older:
            await superuser.execute(
                "UPDATE auth.encryption_vaults SET recovery_set_at = '2025-02-03T04:05:06Z'"
                " WHERE recovery_wrapped_mk IS NOT NULL"
            )
    return await database.fetch(AUDIT)


async def move(
    database: Database, role: str = "custody_owner", *, older: bool = False
) -> list[Any]:
    """Make one as :func:`build` does, and migrate it; return the audit of before."""
    audit = await build(database, role, older=older)
    await migrate(Dsn(database.url(role)))
    return audit
