"""custody in /opt/custody, and its units: where the how-to has them."""

from pathlib import Path

from tests.servers import ROOT
from tests.systemd.howto import sections
from tests.systemd.throwaway import Bind, System

PAGE = "install-on-debian"
SOURCES = Path("/usr/local/src/custody")
TARGET = Path("/opt/custody")
# The checkout, where the how-to has it.
CHECKOUT = Bind(ROOT, SOURCES, read_only=True)


def install_units(system: System) -> None:
    """Run the section "Users, folders, units"."""
    (commands,) = sections(PAGE)["Users, folders, units"]
    system.run("bash", "-euc", commands)
