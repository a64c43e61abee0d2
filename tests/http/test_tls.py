"""The vault over TLS, and certificates that can't be used."""

import ssl
from pathlib import Path

import aiohttp
import pytest

from custody.settings import ConfigurationError
from custody.sockets.addresses import ListenError
from custody.sockets.listeners import tls_context
from tests.certificates import make_certificate
from tests.ports import free_port
from tests.servers import Database, daemon_here
from tests.tokens import Issuer


async def test_vault_over_tls(database: Database, issuer: Issuer, tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    trust = ssl.create_default_context(cafile=cert)
    async with (
        daemon_here(database, issuer, tmp_path, TLS_CERT=str(cert), TLS_KEY=str(key)) as daemon,
        aiohttp.ClientSession() as session,
        session.get(
            f"{daemon.base}/status", headers={"Authorization": issuer.bearer()}, ssl=trust
        ) as answer,
    ):
        assert daemon.base.startswith("https://127.0.0.1:")
        assert answer.status == 200


def test_what_tls_is_spoken(tmp_path: Path) -> None:
    context = tls_context(*make_certificate(tmp_path))
    assert context is not None
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    # Ephemeral keys: whoever steals that of the certificate reads nothing of before.
    kinds = {cipher["kea"] for cipher in context.get_ciphers() if cipher["protocol"] != "TLSv1.3"}
    assert kinds <= {"kx-ecdhe", "kx-dhe"}


async def test_certificate_that_is_none(database: Database, issuer: Issuer, tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("nothing")
    with pytest.raises(ConfigurationError, match="CUSTODY_TLS_CERT"):
        async with daemon_here(
            database, issuer, tmp_path, TLS_CERT=str(bad), TLS_KEY=str(tmp_path / "missing")
        ):
            pass


async def test_unix_socket(database: Database, issuer: Issuer, tmp_path: Path) -> None:
    path = tmp_path / "vault.sock"
    async with (
        daemon_here(database, issuer, tmp_path, LISTEN=f"unix:{path}") as daemon,
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
        session.get(
            "http://localhost/api/v1/me/encryption-vault/status",
            headers={"Authorization": issuer.bearer()},
        ) as answer,
    ):
        assert daemon.base.startswith(f"unix:{path}")
        assert answer.status == 200


async def test_port_that_is_taken(database: Database, issuer: Issuer, tmp_path: Path) -> None:
    port = free_port()
    listen = f"127.0.0.1:{port}"
    with pytest.raises(ListenError, match=f"CUSTODY_LISTEN: can't listen on {listen}"):
        async with daemon_here(database, issuer, tmp_path, LISTEN=listen, ADMIN_LISTEN=listen):
            pass
