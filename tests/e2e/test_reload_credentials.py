"""A reload whose manager refreshes credentials, as systemd does from 260 on (RefreshOnReload=).

That manager is not here: the folder is replaced as it replaces it, whole, before the signal.
"""

import base64
import secrets
from pathlib import Path

import pytest

from kek_backends.loader import load as load_kek
from tests.client import Client, client_session
from tests.e2e.hangup import configured
from tests.e2e.keks import Place, make_vaults
from tests.leaks import remember
from tests.sealed_rows import share_data_key
from tests.servers import Database
from tests.tokens import Issuer

OLD, NEW = "systemd:kek_2026", "systemd:kek_2027"


def put(folder: Path, keks: dict[str, str]) -> None:
    """Replace the folder of credentials by another of its name."""
    fresh = folder.with_name("fresh")
    fresh.mkdir()
    for name, text in keks.items():
        (fresh / name).write_text(text)
        (fresh / name).chmod(0o400)
    if folder.exists():
        folder.rename(folder.with_name(f"before-{secrets.token_hex(2)}"))
    fresh.rename(folder)


@pytest.mark.prove
async def test_a_kek_that_came_with_the_reload_is_read(
    database: Database, issuer: Issuer, tmp_path: Path
) -> None:
    keks = {
        name: remember(base64.b64encode(secrets.token_bytes(32)).decode())
        for name in ("kek_2026", "kek_2027")
    }
    folder = tmp_path / "credentials"
    put(folder, keks)
    environ = {"CREDENTIALS_DIRECTORY": str(folder)}
    # Another instance wraps under the new one already.
    await make_vaults(database, issuer, tmp_path, Place(NEW, "systemd-kek_2027", environ), "alice")
    old, new = (load_kek(uri, environ=environ, development=False) for uri in (OLD, NEW))
    await share_data_key(database, new, old)
    put(folder, {"kek_2026": keks["kek_2026"]})
    given = {f"raw_{name}": value for name, value in environ.items()}
    values = {"kek": OLD, "old_keks": []}
    with configured(database, issuer, tmp_path, values, probe="livez", **given) as at:
        async with client_session() as session:
            alice = Client(at.daemon, session, "alice")
            assert (await alice.key()).status == 503
            # Named, and not there yet: nothing changes.
            assert "kek_2027 does not exist" in await at.refuses(old_keks=[NEW])
            assert (await alice.key()).status == 503
            put(folder, keks)
            await at.reloads()
            answer = await alice.key()
            assert (answer.status, answer.json["kekId"]) == (200, "systemd-kek_2027")
