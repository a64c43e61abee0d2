"""A daemon whose settings are in a file, and change there."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e import quick
from tests.eventually import eventually
from tests.servers import Daemon, Database, daemon_beside
from tests.tokens import Issuer

ENDS = ("reloaded", "reload_failed")


@dataclass
class Configured:
    """A daemon beside us, and the TOML file that it reads.

    Args:
        file: of its settings.
        values: that the file has, by their names in lower case.
        daemon: the daemon, once it runs.
    """

    file: Path
    values: dict[str, Any]
    daemon: Daemon = field(init=False)

    def write(self, **changes: Any) -> None:
        """Change the file; a setting that is None goes."""
        self.values.update(changes)
        there = {name: value for name, value in self.values.items() if value is not None}
        # Strings, numbers and lists are the same in JSON.
        lines = (f"{name} = {json.dumps(value)}\n" for name, value in there.items())
        self.file.write_text("".join(lines))

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
    database: Database, issuer: Issuer, folder: Path, values: dict[str, Any], **overrides: str
) -> Iterator[Configured]:
    """Run a daemon with these values in its file; overrides are those of ``daemon_beside``.

    Its pauses are short ones: they are not the subject, as a rule. Variables win over the file, so
    a value that is there is no variable.
    """
    values = {"rate_limit": 0, **values}
    at = Configured(folder / "custody.toml", {})
    at.write(**values)
    unset = {name.upper(): "" for name in values}
    given = {"module": quick.__name__, "CONFIG": str(at.file)} | unset | overrides
    with daemon_beside(database, issuer, folder, **given) as at.daemon:
        yield at
