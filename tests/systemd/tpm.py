"""A TPM in software: a real TPM 2.0 by its answers, with its keys in a folder."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.eventually import soon


@dataclass
class Tpm:
    """A TPM, with its keys in a folder."""

    folder: Path
    process: "subprocess.Popen[bytes]" = field(init=False)

    @property
    def device(self) -> str:
        """What systemd calls it."""
        return f"swtpm:path={self.folder}/tpm"

    def start(self) -> None:
        """Start it, and wait until it listens."""
        sockets = [self.folder / name for name in ("tpm", "tpm.ctrl")]
        for path in sockets:
            path.unlink(missing_ok=True)
        command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.folder}"]
        command += ["--server", f"type=unixio,path={sockets[0]}"]
        command += ["--ctrl", f"type=unixio,path={sockets[1]}"]
        command += ["--flags", "not-need-init,startup-clear"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        soon(lambda: all(path.exists() for path in sockets))

    def stop(self) -> None:
        """Take it away."""
        self.process.kill()
        self.process.wait()

    def seal(self, name: str, secret: bytes) -> bytes:
        """Return a credential that only this TPM opens."""
        return self._creds("encrypt", "--with-key=tpm2", name, secret)

    def open(self, name: str, sealed: bytes) -> bytes:
        """Open a credential.

        Raises:
            subprocess.CalledProcessError: it does not open here.
        """
        return self._creds("decrypt", "", name, sealed)

    def _creds(self, verb: str, key: str, name: str, given: bytes) -> bytes:
        command = ["systemd-creds", verb, f"--name={name}", f"--tpm2-device={self.device}"]
        done = subprocess.run(
            [*command, *([key] if key else []), "-", "-"],
            input=given,
            capture_output=True,
            check=True,
            timeout=60,
        )
        return done.stdout


@contextmanager
def software_tpm(folder: Path) -> Iterator[Tpm]:
    """Run a TPM for the length of the block; where there is no swtpm the test is skipped."""
    if shutil.which("swtpm") is None:
        lacking = pytest.fail if os.environ.get("CI") else pytest.skip
        lacking("swtpm is not installed (package swtpm)")
    folder.mkdir(exist_ok=True)
    tpm = Tpm(folder)
    tpm.start()
    try:
        yield tpm
    finally:
        tpm.stop()
