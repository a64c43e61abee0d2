"""auto_explain as docs/self-hosting.md would have it: no wrap reaches the server's log."""

import pytest

from tests.client import Client, client_session
from tests.majors import since
from tests.servers import Daemon

SETTINGS = {
    "log_parameter_max_length": "0",
    "log_verbose": "off",
    # The most that may be on beside them.
    "log_analyze": "on",
    "log_nested_statements": "on",
    "log_min_duration": "0",
}


@pytest.mark.prove
@since(16, "auto_explain keeps parameters out of the log")
async def test_auto_explain_shows_no_wrap(daemon: Daemon) -> None:
    database = daemon.database
    log = database.server.folder / "postgres.log"
    before = log.stat().st_size
    loads = f"ALTER DATABASE {database.name} SET session_preload_libraries = 'auto_explain'"
    async with database.connect() as superuser:
        await superuser.execute(f"LOAD 'auto_explain'; {loads}")
        for name, value in SETTINGS.items():
            await superuser.execute(
                f"ALTER DATABASE {database.name} SET auto_explain.{name} = '{value}'"
            )
        await superuser.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    async with client_session() as session:
        device = Client(daemon, session, "alice")
        calls = (device.init, device.key, device.rotate, device.key)
        assert [(await call()).status for call in calls] == [200] * 4
    logged = log.read_text()[before:]
    assert "UPDATE auth.encryption_vaults" in logged
    for row in await database.fetch("SELECT wrapped_mk, wrap_iv FROM auth.encryption_vaults"):
        assert row["wrapped_mk"] not in logged
        assert row["wrap_iv"] not in logged
