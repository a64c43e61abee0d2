"""The database: engine, scopes, queries, migrations, and the embedded PostgreSQL."""
