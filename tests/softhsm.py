"""Tokens of SoftHSM 2, made as the how-to makes them; and a module before it that misbehaves."""

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.leaks import remember

_MODULES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so")
_PACKAGES = "softhsm2 opensc gcc libc6-dev"


def _lacking(what: str) -> None:
    say = pytest.fail if os.environ.get("CI") else pytest.skip
    say(f"{what} is not there: apt-get install --no-install-recommends {_PACKAGES}")


def module() -> str:
    """Return the path of SoftHSM's module; where there is none, the test is skipped."""
    found = [path for path in _MODULES if Path(path).is_file()]
    if not found or not shutil.which("softhsm2-util") or not shutil.which("pkcs11-tool"):
        _lacking("SoftHSM 2, or pkcs11-tool")
    return found[0]


@dataclass(frozen=True)
class SoftToken:
    """A token with a user PIN; its keys are made by :meth:`make_key`."""

    hsm: "SoftHsm"
    label: str
    pin: str = field(repr=False)

    @property
    def pin_file(self) -> Path:
        """What pin-source names."""
        return self.hsm.folder / f"{self.label}.pin"

    def write_pin(self, pin: str) -> None:
        """Put a PIN into the file."""
        self.pin_file.write_text(f"{pin}\n")
        self.pin_file.chmod(0o400 if os.geteuid() == 0 else 0o600)

    def tool(self, *arguments: str) -> str:
        """Run pkcs11-tool, logged in."""
        login = ["--module", module(), "--token-label", self.label, "--login", "--pin", self.pin]
        return self.hsm.run("pkcs11-tool", *login, *arguments)

    def make_key(self, label: str, key_id: str = "01", *more: str, kind: str = "AES:32") -> str:
        """Make a key, sensitive unless ``more`` says otherwise, and return its label."""
        options = more or ("--sensitive", "--private")
        self.tool("--keygen", "--key-type", kind, "--label", label, "--id", key_id, *options)
        return label

    def delete_key(self, key_id: str = "01") -> None:
        """Destroy a key."""
        self.tool("--delete-object", "--type", "secrkey", "--id", key_id)

    def uri(self, label: str = "custody", module_path: str | None = None) -> str:
        """Return the URI of a key."""
        place = f"module-path={module_path or module()}&pin-source=file:{self.pin_file}"
        return f"pkcs11:token={quote(self.label)};object={quote(label)}?{place}"

    @property
    def serial(self) -> str:
        """The serial of the token."""
        lines = self.hsm.run("softhsm2-util", "--show-slots").splitlines()
        words = [line.split(":", 1) for line in lines if ":" in line]
        found = [
            value.strip() for name, value in words if name.strip() in ("Serial number", "Label")
        ]
        return dict(zip(found[1::2], found[::2], strict=False))[self.label]


@dataclass(frozen=True)
class SoftHsm:
    """Where tokens are, on disk."""

    folder: Path

    @property
    def environ(self) -> dict[str, str]:
        """What the module reads."""
        return {"SOFTHSM2_CONF": str(self.folder / "softhsm2.conf")}

    @property
    def tokens(self) -> Path:
        """The folder of all tokens: away, they are taken out."""
        return self.folder / "tokens"

    def make_token(self, label: str | None = None) -> SoftToken:
        """Make a token."""
        token = SoftToken(self, label or f"token-{secrets.token_hex(4)}", secrets.token_hex(8))
        remember(token.pin)
        pins = ["--so-pin", secrets.token_hex(8), "--pin", token.pin]
        self.run("softhsm2-util", "--init-token", "--free", "--label", token.label, *pins)
        token.write_pin(token.pin)
        return token

    def run(self, *command: str) -> str:
        """Run a command that uses the tokens."""
        done = subprocess.run(
            command, env={**os.environ, **self.environ}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command[0]}: {done.stderr or done.stdout}"
        return done.stdout


class Mirror:
    """What is in the files of the tokens below a folder now, for when a process was killed.

    SoftHSM writes the file of a token anew at each login, and not all at once: whoever is killed
    then leaves it empty, and the token is gone. An HSM keeps its state itself.
    """

    def __init__(self, folder: Path) -> None:
        self._kept = {path: path.read_bytes() for path in folder.rglob("token.object")}

    def mend(self) -> None:
        """Write anew what is shorter than it was; nobody may use the tokens meanwhile."""
        for path, data in self._kept.items():
            if path.stat().st_size < len(data):
                path.write_bytes(data)


def soft_hsm(folder: Path) -> SoftHsm:
    """Prepare a folder for tokens."""
    module()
    made = SoftHsm(folder)
    made.tokens.mkdir()
    (folder / "softhsm2.conf").write_text(
        f"directories.tokendir = {made.tokens}\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    return made


@cache
def _odd_module() -> Path:
    source = Path(__file__).parent / "kek" / "odd_module.c"
    made = Path(os.environ["CUSTODY_TEST_LOGS"]) / f"odd-module-{os.getpid()}.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", made, source, "-ldl"], check=True)
    return made


@dataclass(frozen=True)
class OddModule:
    """A module that hands all to SoftHSM, but for what it is told to do otherwise."""

    path: str
    folder: Path

    @property
    def environ(self) -> dict[str, str]:
        """What it reads."""
        return {
            "ODD_MODULE_REAL": module(),
            "ODD_MODULE_MODE": str(self.folder / "mode"),
            "ODD_MODULE_LOGINS": str(self.folder / "logins"),
        }

    def do(self, mode: str) -> None:
        """Behave oddly from now on; see odd_module.c."""
        (self.folder / "mode.new").write_text(mode)
        (self.folder / "mode.new").replace(self.folder / "mode")

    @property
    def logins(self) -> int:
        """How often somebody has tried to log in."""
        file = self.folder / "logins"
        return len(file.read_bytes()) if file.exists() else 0


@contextmanager
def odd_module(folder: Path) -> Iterator[OddModule]:
    """Have the module that misbehaves, for the length of the block."""
    if not shutil.which("cc"):
        _lacking("a compiler of C")
    odd = OddModule(str(_odd_module()), folder)
    odd.do("well")
    yield odd
    odd.do("well")
