"""A package index in which everything has a newer release too, and pip set to it.

    python3 .ci/newer_index.py WHEELS COMMAND…

The wheels of a folder are served on loopback, and of each project a release 9999 that must not even
be asked for its dependencies: they are nowhere, and nothing works with it. The command runs with
pip set to this index alone; its exit code is ours. No test of what the index of today holds can
show what a lock does on the day when all of it is old.
"""

import functools
import os
import re
import subprocess
import sys
import tempfile
import threading
import zipfile
from email.parser import BytesHeaderParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_NEWER = "9999"


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and of a folder what is in it: as an index does. Says nothing."""

    def log_message(self, *_: object) -> None:
        """Leave the terminal to the command."""


def fill(index: Path, wheels: Path) -> int:
    """Lay out an index.

    Args:
        index: an empty folder; it gets one folder for each project.
        wheels: a folder of wheels.

    Returns:
        How many projects it has.
    """
    found = sorted(wheels.glob("*.whl"))
    for wheel in found:
        name = re.sub(r"[-_.]+", "-", wheel.name.partition("-")[0]).lower()
        project = index / name
        project.mkdir(exist_ok=True)
        (project / wheel.name).symlink_to(wheel)
        _write_newer(project, name, _extras(wheel))
    return len(found)


def _extras(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        # Only the wheel's own: some carry the metadata of others further down.
        (name,) = (
            name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)
        )
        return BytesHeaderParser().parsebytes(archive.read(name)).get_all("Provides-Extra", [])


def _write_newer(project: Path, name: str, extras: list[str]) -> None:
    plain = name.replace("-", "_")
    folder = f"{plain}-{_NEWER}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {_NEWER}\n"
    metadata += "Requires-Dist: is-in-no-lock\n"
    for extra in extras:
        metadata += f"Provides-Extra: {extra}\n"
        metadata += f"Requires-Dist: is-in-no-lock-either; extra == '{extra}'\n"
    with zipfile.ZipFile(project / f"{plain}-{_NEWER}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{folder}/METADATA", metadata)
        archive.writestr(
            f"{folder}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(
            f"{folder}/RECORD",
            "".join(f"{folder}/{n},,\n" for n in ("METADATA", "WHEEL", "RECORD")),
        )


def main(wheels: str, *command: str) -> int:
    """Serve, run the command, stop serving.

    Args:
        wheels: a folder of wheels.
        command: what to run.

    Returns:
        The command's exit code.
    """
    with tempfile.TemporaryDirectory() as folder:
        count = fill(Path(folder), Path(wheels).resolve())
        handler = functools.partial(Quiet, directory=folder)
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{server.server_port}/"
            sys.stdout.write(f"an index of {count} projects with newer releases: {address}\n")
            sys.stdout.flush()
            # Nothing of what this machine tells pip; and no cache, which may know another index.
            environ = {name: value for name, value in os.environ.items() if name[:4] != "PIP_"}
            environ |= {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": address}
            environ |= {"PIP_NO_CACHE_DIR": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
            try:
                return subprocess.run(command, check=False, env=environ).returncode
            finally:
                server.shutdown()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
