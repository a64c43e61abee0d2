"""Probes the KEKs: at boot, and again and again."""

import asyncio

import structlog

from custody.settings import ConfigurationError
from kek_backends.base import KekBackend
from kek_backends.errors import KekError, Misconfigured, Transient
from kek_backends.keyring import Keyring

_AGAIN_SECONDS = 1.0

log = structlog.get_logger()


async def probe_keks(keyring: Keyring) -> None:
    """Ask every KMS for its key, and prove that the active one binds a wrap to its user.

    One that is down now is left to :func:`watch_kek`.

    Raises:
        ConfigurationError: a KEK can't be used as it is configured.
    """
    results = await asyncio.gather(
        *(_probe(backend, active=backend is keyring.active) for backend in keyring)
    )
    if problems := [result for result in results if result]:
        raise ConfigurationError("; ".join(problems))


async def _probe(backend: KekBackend, *, active: bool) -> str | None:
    try:
        await backend.refresh()
        if active:
            await backend.prove()
    except Transient as error:
        log.warning("kek_unavailable", kek=backend.uri.text, reason=str(error))
    except Misconfigured as error:
        return str(error)  # begins with the KEK
    except Exception as error:  # noqa: BLE001 - a backend of others may raise anything
        return f"KEK {_reason(error, backend)}"
    return None


class KekWatch:
    """Watches KEKs, one task each, for the length of a block: it may outlive a token or a version.

    Args:
        keyring: the KEKs.
    """

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._tasks: dict[KekBackend, asyncio.Task[None]] = {}

    async def __aenter__(self) -> None:
        """Begin."""
        self.follow()

    async def __aexit__(self, *_: object) -> None:
        """Watch none any more."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()

    def follow(self) -> None:
        """Watch the KEKs that the keyring has now, and no others."""
        backends = set(self._keyring)
        for backend in self._tasks.keys() - backends:
            self._tasks.pop(backend).cancel()
        for backend in backends - self._tasks.keys():
            self._tasks[backend] = asyncio.create_task(watch_kek(backend))


async def watch_kek(backend: KekBackend) -> None:
    """Refresh a KEK for ever: often while it has a problem, so that it is back within seconds.

    A new version of its key, or an alias that points elsewhere, is noticed here.
    """
    problem, kek_id = backend.problem, backend.kek_id
    while True:
        await _until_due(backend)
        try:
            await backend.refresh()
        except Exception as error:  # noqa: BLE001 - this must go on for ever
            reason: str | None = _reason(error, backend)
        else:
            reason = backend.problem
        if backend.kek_id != kek_id:
            kek_id = backend.kek_id
            log.info("kek_moved", kek=backend.uri.text, kek_id=kek_id)
        if (reason is None) != (problem is None):
            if reason is None:
                log.info("kek_available", kek=backend.uri.text)
            else:
                log.warning("kek_unavailable", kek=backend.uri.text, reason=reason)
        problem = reason


async def _until_due(backend: KekBackend) -> None:
    """Wait until the next refresh; a call of a user may show in between that it is due now."""
    waited = 0.0
    while True:
        await asyncio.sleep(_AGAIN_SECONDS)
        waited += _AGAIN_SECONDS
        if backend.problem is not None or waited >= backend.refresh_seconds:
            return


def _reason(error: Exception, backend: KekBackend) -> str:
    """Return what may be shown of an error: of one that is not ours, only its type."""
    if isinstance(error, KekError):
        return str(error)
    return f"{backend.uri.text}: {type(error).__name__} while it was asked"
