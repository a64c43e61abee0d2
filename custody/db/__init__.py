"""The database: engine, scopes, group commit, queries, migrations, posture."""
