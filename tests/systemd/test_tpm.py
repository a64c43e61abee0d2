"""A KEK that is sealed to a TPM: it opens with that TPM and no other, and systemd hands it over."""

import base64
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kek_backends.loader import load
from tests.bindings import of
from tests.client import Client, client_session
from tests.eventually import eventually
from tests.leaks import remember
from tests.servers import Database
from tests.systemd.conftest import need
from tests.systemd.host import KEKS, host
from tests.systemd.throwaway import Bind, unavailable
from tests.systemd.tpm import Tpm, software_tpm
from tests.tokens import Issuer

pytestmark = [pytest.mark.timeout(600), pytest.mark.prove]


@pytest.fixture
def tpm(tmp_path: Path) -> Iterator[Tpm]:
    need(unavailable())
    with software_tpm(tmp_path / "tpm") as made:
        yield made


def new_key() -> bytes:
    key = secrets.token_bytes(32)
    remember(base64.b64encode(key).decode())
    return key


async def test_it_opens_with_its_tpm_and_no_other(tpm: Tpm, tmp_path: Path) -> None:
    key = new_key()
    sealed = tpm.seal("kek", key)
    (tmp_path / "kek").write_bytes(tpm.open("kek", sealed))
    (tmp_path / "kek").chmod(0o400)
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    kek = load("systemd:kek", environ=environ, development=False)
    wrap = await kek.wrap(of("alice"), b"k" * 32)
    assert await kek.unwrap(of("alice"), wrap) == b"k" * 32
    # Nor under another name.
    with pytest.raises(subprocess.CalledProcessError):
        tpm.open("kek_2027", sealed)
    with (
        software_tpm(tmp_path / "another") as another,
        pytest.raises(subprocess.CalledProcessError),
    ):
        another.open("kek", sealed)


async def test_the_service_gets_it_from_systemd(
    tpm: Tpm, installation: tuple[Bind, ...], database: Database, issuer: Issuer
) -> None:
    """The manager itself opens it, as root, at the start; without the TPM there is no start."""
    binds = (*installation, Bind(tpm.folder, tpm.folder))
    with host(binds, database, issuer) as debian:
        # On a host with a TPM there is nothing to be said of where it is.
        debian.write(
            "/etc/systemd/system.conf.d/tpm.conf",
            f"[Manager]\nManagerEnvironment=SYSTEMD_TPM2_DEVICE={tpm.device}\n",
        )
        debian.run("systemctl", "daemon-reload")
        debian.run(
            "install",
            "-m600",
            "/dev/stdin",
            f"{KEKS}/2028",
            stdin=tpm.seal("kek_2028", new_key()).decode(),
        )
        debian.configure(kek="systemd:kek_2028")
        debian.start()
        async with client_session() as session:
            made = await Client(debian.daemon, session, "alice").init()
            assert made.json["kekId"] == "systemd-kek_2028"
        tpm.stop()
        debian.systemctl("restart", "custody")
        # Its ExecStopPost= may still be under way.
        failed = ["failed", "243"]
        await eventually(lambda: debian.show("ActiveState", "ExecMainStatus") == failed, 10)
        assert any("does not decrypt on this host" in line for line in debian.said())
        tpm.start()
        debian.start("custody.socket")
        debian.start()
        async with client_session() as session:
            assert (await Client(debian.daemon, session, "alice").key()).json == made.json
