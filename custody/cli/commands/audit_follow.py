"""custody audit follow."""

import asyncio
import os
import signal
from pathlib import Path

from custody.audit.export import FORMATS
from custody.audit.follower import Follower
from custody.audit.place_file import place_file
from custody.audit.targets.file import FileTarget
from custody.audit.targets.journal import JournalTarget
from custody.audit.targets.stream import SyslogStream
from custody.audit.targets.syslog import SyslogSocket
from custody.audit.targets.target import Target
from custody.cli.commands import event_loop
from custody.cli.commands.audit_role import unseen_reader
from custody.cli.commands.startup import prepare
from custody.loopback import is_loopback
from custody.ops.notify import Notifier
from custody.settings import ConfigurationError, Plain, Settings
from custody.settings.export_target import ExportTarget, Scheme

_VARIABLE = "CUSTODY_AUDIT_EXPORT"


def run(state: Path) -> None:
    """Follow the audit."""
    event_loop.run(_follow(prepare(), state))


async def _follow(settings: Settings, state: Path) -> None:
    uri, to = _configured(settings)
    async with unseen_reader(settings) as (reader, variable):
        with place_file(state, uri) as kept:
            manager = Notifier.from_environ(os.environ, os.getpid())
            follower = Follower(reader, FORMATS[to.format_], _target(to), kept, manager)
            following = asyncio.create_task(follower.follow(variable))
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, following.cancel)
            try:
                await asyncio.wait({following})
            finally:
                following.cancel()
                await asyncio.wait({following})
            if not following.cancelled():
                following.result()


def _configured(settings: Settings) -> tuple[str, ExportTarget]:
    """Return where to, as it is written and as it is meant.

    Raises:
        ConfigurationError: it is not set, or would cross a network in clear.
    """
    uri = settings.audit_export
    if uri is None:
        example = "file:/var/log/custody-audit/audit.jsonl"
        raise ConfigurationError(f"{_VARIABLE} must be set: where to, for example {example}")
    to = ExportTarget.parse(uri)
    is_plain = to.scheme is Scheme.STREAM and not to.tls and not is_loopback(to.host)
    if is_plain and not settings.allows_plain(Plain.SYSLOG):
        raise ConfigurationError(
            f"{_VARIABLE}: who asked for which key, from where, would cross the network in clear; "
            f"use syslog+tls://, or allow it: CUSTODY_ALLOW_PLAIN={Plain.SYSLOG}"
        )
    return uri, to


def _target(to: ExportTarget) -> Target:
    match to.scheme:
        case Scheme.FILE:
            return FileTarget(Path(to.path), FORMATS[to.format_])
        case Scheme.JOURNAL:
            return JournalTarget()
        case Scheme.SOCKET:
            return SyslogSocket(to.path)
        case Scheme.STREAM:
            return SyslogStream(to.host, to.port, tls=to.tls)
