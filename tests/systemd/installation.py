"""custody in /opt/custody, and its units: installed as the how-to says, or quickly."""

import os
import re
import subprocess
import sys
import sysconfig
from contextlib import suppress
from functools import cache
from pathlib import Path

from tests.servers import ROOT
from tests.systemd.howto import sections
from tests.systemd.throwaway import Bind, System, throwaway

PAGE = "install-on-debian"
SOURCES = Path("/usr/local/src/custody")
TARGET = Path("/opt/custody")
_SECONDS = 600
_PASSED_ON = re.compile(r"PIP_\w+|SSL_CERT_\w+|REQUESTS_CA_BUNDLE|(?i:https?|no)_proxy")
_COMMAND = f"""#!{TARGET}/bin/python3
from custody.cli import main

main()
"""


@cache
def interpreter() -> tuple[int, ...]:
    """Return the version of the system's Python, which users other than root may execute."""
    asked = ["/usr/bin/python3", "-c", "import sys; print(*sys.version_info[:2])"]
    with suppress(OSError):
        done = subprocess.run(asked, capture_output=True, text=True, check=True)
        return tuple(map(int, done.stdout.split()))
    return ()


def sources() -> Bind:
    """Return the checkout, where the how-to has it."""
    return Bind(ROOT, SOURCES, read_only=True)


def install_custody(folder: Path) -> None:
    """Fill a folder with what is in /opt/custody after the section "custody".

    Args:
        folder: an empty one.
    """
    (commands,) = sections(PAGE)["custody"]
    environ = {name: value for name, value in os.environ.items() if _PASSED_ON.fullmatch(name)}
    with throwaway([sources(), Bind(folder, TARGET)]) as system:
        made = "python3 -m venv /opt/custody\n"
        if system.run("bash", "-c", made, check=False).returncode:
            # Without Debian's python3-venv: the pip of whoever runs the tests fills it.
            bare = made.replace("venv", "venv --clear --without-pip")
            pip = f"{sys.executable} -m pip --python /opt/custody/bin/python --quiet install pip"
            system.run("bash", "-euc", bare + pip, environ=environ, seconds=_SECONDS)
        commands = commands.replace(made, "")
        system.run("bash", "-euc", commands, environ=environ, seconds=_SECONDS)


def borrow_custody(folder: Path) -> tuple[Bind, ...]:
    """Fill a folder with a custody that is the checkout, with the packages that run the tests.

    Args:
        folder: an empty one.

    Returns:
        What makes it one, in a host: there it may be used, and not changed.
    """
    made = ["/usr/bin/python3", "-m", "venv", "--without-pip", str(folder)]
    subprocess.run(made, check=True, timeout=60)
    (below,) = folder.glob("lib/python3*/site-packages")
    # By a bind: users of the host could not reach the folder itself.
    packages = Path("packages")
    (folder / packages).mkdir()
    (below / "borrowed.pth").write_text(f"{SOURCES}\n{TARGET / packages}\n", "utf-8")
    command = folder / "bin/custody"
    command.write_text(_COMMAND, "utf-8")
    command.chmod(0o755)
    ours = Path(sysconfig.get_path("platlib"))
    return (
        Bind(folder, TARGET, read_only=True),
        Bind(ours, TARGET / packages, read_only=True),
    )


def install_units(system: System) -> None:
    """Run the section "Users, folders, units"."""
    (commands,) = sections(PAGE)["Users, folders, units"]
    system.run("bash", "-euc", commands)
