"""Data keys for tests: one that is open, and a ring that has it."""

from typing import Any, Self

from custody.datakeys.data_key import DataKey
from custody.datakeys.records import Opened, Record
from custody.datakeys.ring import Ring
from kek_backends.base import KekBackend, Wrap
from kek_backends.binding import Binding
from kek_backends.env import EnvKek
from kek_backends.keyring import Keyring
from kek_backends.uri import KekUri

KEY = bytes(range(32))
KEY_ID = "dk-01932e00000070008000000000000001"


class FixedRing(Ring):
    """A ring whose data keys are given, and which reads no database."""

    @classmethod
    def of(cls, key: bytes = KEY, key_id: str = KEY_ID) -> Self:
        """Return a ring with one data key, which is never too old."""
        return cls.with_keys(DataKey.of(key_id, key))

    @classmethod
    def with_keys(cls, *keys: DataKey) -> Self:
        """Return a ring with these data keys; the latest is the current one."""
        kek = EnvKek(uri=KekUri.parse("env:RING"), kek_id="r", key=KEY, development=False)
        nobody: Any = None
        ring = cls(nobody, Keyring(kek), ttl=3600, max_age=86_400)
        for one in keys:
            ring.add(one)
        return ring

    def add(self, key: DataKey) -> None:
        """Have one more data key open."""
        record = Record(key.id, key.own_seal, is_lost=False, wraps=())
        self.take(record)
        self._open.hold(record, Opened(key, "r"))
        self._current = self._floor = max(self.open_ids)

    def vouch(self, key: DataKey, wrap: Wrap) -> None:
        """Have one more data key open that the current one vouches for, out of this wrap."""
        assert self.current is not None
        seal = str(self.current.vouch(key.id, key.own))
        record = Record(key.id, seal, is_lost=False, wraps=(wrap,))
        self.take(record)
        self._open.hold(record, Opened(key, wrap.kek_id))

    def take(self, record: Record) -> None:
        """Have read one more record."""
        self._unopened.take((*(self._unopened.records or {}).values(), record))

    def forget(self, key_id: str) -> None:
        """Have one data key less open."""
        self._open.drop(key_id)
        if key_id == self._current:
            self._current = None

    def close(self, *key_ids: str) -> None:
        """Be a ring that could not open these data keys; without any, none of its own."""
        for key_id in key_ids or self.open_ids:
            self.forget(key_id)
            self._unopened.unavailable[key_id] = f"the data key {key_id}: closed by a test"

    async def _load(self) -> None:
        """What is given is all there is."""


async def record_of(
    *keks: KekBackend, key: bytes = KEY, key_id: str = KEY_ID, is_lost: bool = False
) -> Record:
    """Return the record of a data key with a wrap under each KEK."""
    binding = Binding.of_data_key(key_id)
    wraps = [await kek.wrap(binding, key) for kek in keks]
    return Record(key_id, DataKey.of(key_id, key).own_seal, is_lost, tuple(wraps))
