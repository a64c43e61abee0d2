"""A daemon whose settings are in a file, and change there."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e import quick
from tests.eventually import eventually
from tests.servers import Daemon, Database, daemon_beside
from tests.tokens import Issuer

ENDS = ("reloaded", "reload_failed")


@dataclass(frozen=True)
class Configured:
    """A daemon beside us, and the TOML file that it reads.

    Args:
        daemon: the daemon.
        file: of its settings.
        values: that the file has, by their names in lower case.
    """

    daemon: Daemon
    file: Path
    values: dict[str, Any]

    def write(self, **changes: Any) -> None:
        """Change the file; a setting that is None goes."""
        self.values.update(changes)
        self.file.write_text(as_toml(self.values))

    def hang_up(self) -> None:
        """Send SIGHUP."""
        self.daemon.running.send_signal(signal.SIGHUP)

    async def change(self, **changes: Any) -> dict[str, Any]:
        """Change the file, unless there is nothing to change, and have it read.

        Returns:
            What is logged.
        """
        if changes:
            self.write(**changes)
        before = len(self.daemon.events(*ENDS))
        self.hang_up()
        return (await eventually(lambda: self.daemon.events(*ENDS)[before:]))[0]

    async def reloads(self, **changes: Any) -> None:
        """Change the file and have it read, which succeeds."""
        logged = await self.change(**changes)
        assert logged["event"] == "reloaded", logged

    async def refuses(self, **changes: Any) -> str:
        """Change the file and have it read, which fails; returns the reason."""
        logged = await self.change(**changes)
        assert logged["event"] == "reload_failed", logged
        assert logged["level"] == "error"
        return str(logged["reason"])


@contextmanager
def configured(
    database: Database,
    issuer: Issuer,
    folder: Path,
    values: dict[str, Any],
    *,
    ready: bool = True,
    module: str = quick.__name__,
    **overrides: str,
) -> Iterator[Configured]:
    """Run a daemon with these values in its file, once it is ready, or alive.

    Its pauses are short ones: they are not the subject, as a rule. Overrides are variables of
    ``settings_for``. Variables win over the file, so a value that is there is no variable.
    """
    file = folder / "custody.toml"
    file.write_text(as_toml(values))
    unset = {name.upper(): "" for name in values}
    options = {"module": module, "probe": "readyz" if ready else "livez"}
    overrides = unset | {"CONFIG": str(file)} | overrides | options
    with daemon_beside(database, issuer, folder, **overrides) as daemon:
        yield Configured(daemon, file, dict(values))


def as_toml(values: dict[str, Any]) -> str:
    """Write values as TOML: strings, numbers and lists are the same in JSON."""
    return "".join(
        f"{name} = {json.dumps(value)}\n" for name, value in values.items() if value is not None
    )
