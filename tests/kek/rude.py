"""Backends of third parties that do what none may: see test_foreign.py."""

import asyncio
import threading
import time
from collections.abc import Mapping
from typing import Self

from kek_backends.base import Wrap
from kek_backends.binding import Binding
from kek_backends.findings import Finding
from kek_backends.uri import KekUri
from tests.kek.broken import Good

SECRET = "the-plaintext-of-another-user"


class Polite(Good):
    """A good one; what it is to do next is in ``fault``, by the name of the method."""

    # Of the class: the daemon's side has no instance at hand.
    faults: dict[str, "type[BaseException] | threading.Event | float"] = {}  # noqa: RUF012
    closed = 0

    @classmethod
    def from_uri(cls, uri: KekUri, *, environ: Mapping[str, str], development: bool) -> Self:
        _meet("from_uri")
        return cls(uri=uri, kek_id=uri.kek_id or cls.stamp, key=cls.key(), development=False)

    def holds(self, kek_id: str) -> bool:
        _meet("holds")
        return super().holds(kek_id) or kek_id == "of-before"

    def fingerprint(self, kek_id: str) -> str:
        _meet("fingerprint")
        return super().fingerprint(kek_id)

    @property
    def problem(self) -> str | None:
        _meet("problem")
        return None

    async def refresh(self) -> None:
        _meet("refresh")

    async def close(self) -> None:
        Polite.closed += 1
        _meet("close")

    async def examine(self, *, active: bool) -> list[Finding]:
        _meet("examine")
        return await super().examine(active=active)

    async def wrap(self, binding: Binding, key: bytes) -> Wrap:
        _meet("wrap")
        return await super().wrap(binding, key)

    async def unwrap(self, binding: Binding, wrap: Wrap) -> bytes:
        if "task" in self.faults:
            self._stray = asyncio.get_running_loop().create_task(_stray())
        if "hang" in self.faults:
            await asyncio.Event().wait()
        _meet("unwrap")
        return await super().unwrap(binding, wrap)


def _meet(method: str) -> None:
    fault = Polite.faults.get(method)
    if isinstance(fault, threading.Event):
        fault.wait()
    elif isinstance(fault, float):
        time.sleep(fault)
    elif fault is not None:
        try:
            raise ValueError(SECRET)
        except ValueError as error:
            raise fault(SECRET) from error


async def _stray() -> None:
    _meet("task")
