"""A backend as a third party would write it: a subclass of the real interface."""

from collections.abc import Mapping
from typing import Self

from kek_backends.base import KekBackend, Wrap
from kek_backends.uri import KekUri


class SdkError(Exception):
    """An SDK's exception: its text holds what was decrypted, as hvac's does."""


class FakeKms(KekBackend):
    """A KMS in this process. ``master_key`` is what it unwraps to; ``error`` is what it raises."""

    def __init__(
        self,
        kek_id: str = "fake-v1",
        *,
        master_key: bytes = b"k" * 32,
        error: Exception | None = None,
        text: str = "fake:key",
    ) -> None:
        self._kek_id = kek_id
        self._master_key = master_key
        self._error = error
        self._text = text
        self.calls: list[str] = []

    @classmethod
    def from_uri(cls, uri: KekUri, *, environ: Mapping[str, str], development: bool) -> Self:
        return cls(uri.kek_id or f"fake-{uri.path}", text=uri.text)

    @property
    def uri(self) -> KekUri:
        return KekUri.parse(self._text)

    @property
    def kek_id(self) -> str:
        return self._kek_id

    @property
    def fingerprint(self) -> str | None:
        return None

    async def _wrap(self, user_id: str, master_key: bytes) -> Wrap:
        self.calls.append(f"wrap {user_id}")
        if self._error is not None:
            raise self._error
        return Wrap("opaque", "", 2, self._kek_id)

    async def _unwrap(self, user_id: str, wrap: Wrap) -> bytes:
        self.calls.append(f"unwrap {user_id}")
        if self._error is not None:
            raise self._error
        return self._master_key
