"""A host with custody, its configuration and its credentials, on a database of the tests."""

import base64
import contextlib
import json
import secrets
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from custody.http.routes import BASE_PATH
from kek_backends.systemd import SystemdKek
from kek_backends.uri import KekUri
from tests.leaks import remember
from tests.ports import free_port
from tests.servers import Daemon, Database
from tests.systemd.installation import CHECKOUT, install_units
from tests.systemd.throwaway import Answer, Bind, System, throwaway
from tests.tokens import Issuer

CREDENTIALS = "/etc/credstore.encrypted"
KEKS = "/etc/custody/keks"
_TOML = "/etc/custody/custody.toml"
_JWKS = "/etc/custody/jwks.json"


@dataclass(frozen=True)
class Host(System):
    """A system on which custody is installed.

    Args:
        daemon: its addresses, once custody.service is started.
    """

    daemon: Daemon

    def configure(self, **settings: object) -> None:
        """Change settings in custody.toml."""
        there = self.path(_TOML).exists()
        present: dict[str, Any] = tomllib.loads(self.read(_TOML)) if there else {}
        lines = (f"{name} = {json.dumps(value)}\n" for name, value in (present | settings).items())
        self.write(_TOML, "".join(lines))

    def seal(self, name: str, secret: str, path: str | None = None) -> None:
        """Keep a secret as an encrypted credential."""
        remember(secret)
        place = path or f"{CREDENTIALS}/{name}"
        self.run("systemd-creds", "encrypt", f"--name={name}", "-", place, stdin=secret)

    def make_kek(self, name: str) -> SystemdKek:
        """Make a KEK, keep it as the credential kek_NAME, and return it."""
        key = secrets.token_bytes(32)
        self.seal(f"kek_{name}", base64.b64encode(key).decode(), f"{KEKS}/{name}")
        uri = KekUri.parse(f"systemd:kek_{name}")
        return SystemdKek(uri=uri, kek_id=f"systemd-kek_{name}", key=key, development=False)

    def drop_in(self, unit: str, *lines: str) -> None:
        """Change a unit as ``systemctl edit`` does: lines, with their section above them."""
        self.write(f"/etc/systemd/system/{unit}.d/test.conf", "\n".join((*lines, "")))
        self.run("systemctl", "daemon-reload")

    def start(self, unit: str = "custody.service") -> None:
        """Start a unit that must start."""
        done = self.systemctl("start", unit)
        assert done.returncode == 0, self.journal(unit)

    def systemctl(self, *words: str) -> Answer:
        """Run systemctl, which may fail."""
        return self.run("systemctl", *words, check=False)

    def property(self, name: str, unit: str = "custody.service") -> str:
        """Return a property of a unit."""
        return self.show(name, unit=unit)[0]

    def said(self, unit: str = "custody.service") -> list[str]:
        """Return what custody itself said to an operator: the lines that are no log."""
        lines = self.journal(unit).splitlines()
        return [line for line in lines if line.startswith("custody:")]

    def main_process(self) -> int:
        """Return the daemon's process, as this machine numbers it; 0: there is none just now."""
        inside = self.property("MainPID")
        group = self.cgroup / "system.slice/custody.service/cgroup.procs"
        with contextlib.suppress(OSError):
            for process in group.read_text().split():
                if f"NSpid:\t{process}\t{inside}\n" in Path(f"/proc/{process}/status").read_text():
                    return int(process)
        return 0


@contextmanager
def host(installation: tuple[Bind, ...], database: Database, issuer: Issuer) -> Iterator[Host]:
    """Boot a host for the length of the block; its daemon is configured, and not started.

    Args:
        installation: what makes its /opt/custody.
        database: for the daemon and the job.
        issuer: of the tokens.
    """
    port, admin_port = free_port(), free_port()
    base, admin = f"http://127.0.0.1:{port}{BASE_PATH}", f"http://127.0.0.1:{admin_port}"
    daemon = Daemon(base, admin, issuer, database)
    with throwaway([CHECKOUT, *installation]) as system:
        install_units(system)
        made = Host(system.init, system.cgroup, daemon)
        made.drop_in(
            "custody.socket", "[Socket]", "ListenStream=", f"ListenStream=127.0.0.1:{port}"
        )
        system.write(_JWKS, issuer.jwks().decode())
        made.make_kek("2026")
        made.configure(
            kek="systemd:kek_2026",
            jwt_issuer=issuer.url,
            jwks_file=_JWKS,
            admin_listen=f"127.0.0.1:{admin_port}",
        )
        made.seal("custody_database_url", database.url("custody_app"))
        made.seal("custody_rewrap_database_url", database.url("custody_rewrap"))
        yield made
