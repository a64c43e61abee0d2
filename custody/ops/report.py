"""Tells the service manager how the daemon is, and reloads when it asks for it."""

import asyncio
from collections.abc import Awaitable, Callable

from custody.ops.health import Health
from custody.ops.heartbeat import Heartbeat
from custody.ops.notify import Notifier
from custody.rewrap.background import BackgroundRewrap
from kek_backends.keyring import Keyring

_TELL_SECONDS = 1.0
# While the boot checks wait for the database, again and again: how long the start may still take.
_START_SECONDS = 30.0
# The sign of life is given this many times within the time that the watchdog waits.
_BEATS = 3


class Report:
    """What the daemon tells of itself.

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

    async def keep_telling(self, notifier: Notifier, hangup: asyncio.Event) -> None:
        """Tell, and reload, for ever.

        Args:
            notifier: who is told.
            hangup: set when SIGHUP came.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tell(notifier, hangup))
            if notifier.watchdog_seconds is not None:
                tasks.create_task(self._beat(notifier, notifier.watchdog_seconds / _BEATS))

    async def _tell(self, notifier: Notifier, hangup: asyncio.Event) -> None:
        ready, told, said = False, False, ""
        while True:
            text = self._status()
            ready = ready or self._passed()
            if not ready:
                notifier.extend_start(_START_SECONDS)
            if ready and not told:
                told = notifier.ready(text)
            elif text != said:
                notifier.status(text)
            said = text
            if await _set_within(hangup, _TELL_SECONDS):
                hangup.clear()
                # Of a service that still starts, the service manager awaits only that it is ready.
                if ready:
                    notifier.reloading()
                    told = False
                await self._reload()

    def _passed(self) -> bool:
        """Tell whether the boot checks have passed, to the last of them."""
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
    rewrapping: BackgroundRewrap | None,
    reload_problem: str | None,
) -> str:
    """Say in one line how the daemon is.

    Args:
        address: where the vault listens.
        keyring: its active KEK is named.
        health: what is not ready is named.
        rewrapping: the worker, where there is one.
        reload_problem: why the last reload failed, if it did.
    """
    said = [address, f"KEK {keyring.active.kek_id or keyring.active.uri.text}"]
    if rewrapping is None:
        said.append("no re-wrap worker")
    elif rewrapping.rows_left is not None:
        said.append(f"{rewrapping.rows_left} rows left to re-wrap")
    problems = [f"{part}: {what}" for part, what in health.parts().items() if what]
    if problems:
        said.insert(0, f"NOT READY: {'; '.join(problems)}")
    if reload_problem:
        said.append(f"reload failed: {reload_problem}")
    return " | ".join(said)


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True
