"""Reports to the service manager how the daemon is, and reloads when it asks for it."""

import asyncio
from collections.abc import Awaitable, Callable

from custody.ops.health import Health
from custody.ops.heartbeat import Heartbeat
from custody.ops.notify import Notifier
from custody.rewrap.background import BackgroundRewrap
from kek_backends.keyring import Keyring

_REPORT_SECONDS = 1.0
# While the boot checks wait for the database, again and again: how long the start may still take.
_START_SECONDS = 30.0
# Watchdog pings within the time that the watchdog waits.
_BEATS = 3


class Report:
    """What the daemon reports of itself.

    Args:
        health: what is ready; the daemon is, to the service manager, once the boot checks passed.
        heartbeat: whether this process is well.
        reload: reads the settings again, and never raises.
        status: says in one line how it is.
    """

    def __init__(
        self,
        health: Health,
        heartbeat: Heartbeat,
        reload: Callable[[], Awaitable[None]],
        status: Callable[[], str],
    ) -> None:
        self._health = health
        self._heartbeat = heartbeat
        self._reload = reload
        self._status = status

    async def keep_reporting(self, notifier: Notifier, hangup: asyncio.Event) -> None:
        """Report, and reload, for ever.

        Args:
            notifier: to the service manager.
            hangup: set when SIGHUP came.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._report(notifier, hangup))
            if notifier.watchdog_seconds is not None:
                tasks.create_task(self._beat(notifier, notifier.watchdog_seconds / _BEATS))

    async def _report(self, notifier: Notifier, hangup: asyncio.Event) -> None:
        ready, notified, last = False, False, ""
        while True:
            text = self._status()
            ready = ready or self._passed()
            if not ready:
                notifier.extend_start(_START_SECONDS)
            if ready and not notified:
                notified = notifier.ready(text)
            elif text != last:
                notifier.status(text)
            last = text
            if await _set_within(hangup, _REPORT_SECONDS):
                hangup.clear()
                # Of a service that still starts, the service manager awaits only that it is ready.
                if ready:
                    notifier.reloading()
                    notified = False
                await self._reload()

    def _passed(self) -> bool:
        """Say whether the boot checks have passed, to the last of them."""
        return self._health.database_is_safe and self._health.parts()["database"] is None

    async def _beat(self, notifier: Notifier, seconds: float) -> None:
        while True:
            if await self._heartbeat.beat(seconds):
                notifier.alive()
            await asyncio.sleep(seconds)


def describe(
    address: str,
    keyring: Keyring,
    health: Health,
    rewrap: BackgroundRewrap | None,
    reload_problem: str | None,
) -> str:
    """Say in one line how the daemon is.

    Args:
        address: where the vault listens.
        keyring: all that users' keys are wrapped under.
        health: what is not ready is named.
        rewrap: the worker, where there is one.
        reload_problem: why the last reload failed, if it did.
    """
    kek = keyring.keks.active
    said = [address, f"KEK {kek.kek_id or kek.uri.text}"]
    if keyring.active is not kek:
        said.append("envelope mode")
    if rewrap is None:
        said.append("no re-wrap worker")
    elif rewrap.rows_left is not None:
        said.append(f"{rewrap.rows_left} rows left to re-wrap")
    problems = [f"{part}: {what}" for part, what in health.parts().items() if what]
    if problems:
        said.insert(0, f"NOT READY: {'; '.join(problems)}")
    said += [f"degraded: {part}: {what}" for part, what in health.degraded().items()]
    if reload_problem:
        said.append(f"reload failed: {reload_problem}")
    return " | ".join(said)


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True
