"""Envelope mode: users' keys are wrapped here, under a data key, and no KMS is asked for them.

It is safe as a KEK in memory is. A wrap is bound to its user, its generation and its data key's id;
the key that wraps is derived from the data key for that alone; and a data key opens only under a
KEK. What is new is that it is kept: until its ring drops it, whoever reads the memory of this
process reads every user's key.
"""

from collections.abc import Iterator, Mapping
from typing import Self

from custody.datakeys.data_key import is_id, prefix_of
from custody.datakeys.errors import DataKeyError, NoSuchDataKey
from custody.datakeys.ring import RESTORE, Ring
from kek_backends.base import FORMAT_CURRENT, KekBackend, Wrap
from kek_backends.binding import Binding
from kek_backends.errors import Misconfigured, Tampered, Transient, UnknownKek
from kek_backends.keyring import Keyring
from kek_backends.local import unwrap_under, wrap_under
from kek_backends.uri import DATA_KEY_PREFIX, KekUri, Mode


class Envelope(KekBackend):
    """The data keys as a KEK: new wraps carry the id of the current one, each opens its own.

    Args:
        ring: the data keys that are open.
        kek: URI of the KEK that is active: new data keys are wrapped under it.
    """

    def __init__(self, ring: Ring, kek: KekUri) -> None:
        self._ring = ring
        self._uri = kek.in_mode(Mode.ENVELOPE)

    @classmethod
    def from_uri(cls, uri: KekUri, *, environ: Mapping[str, str], development: bool) -> Self:
        """Refuse: no URI names it alone.

        Raises:
            Misconfigured: always.
        """
        del environ, development
        raise Misconfigured(f"KEK {uri.text}: name the KEK that data keys are wrapped under")

    @property
    def uri(self) -> KekUri:
        """That of the KEK which is active, in envelope mode."""
        return self._uri

    @property
    def kek_id(self) -> str | None:
        """The id of the data key that new wraps are made with; None while none is open."""
        key = self._ring.current
        return None if key is None else key.id

    def fingerprint(self, kek_id: str) -> str | None:
        """Return the seal that a data key makes of its own record."""
        key = self._ring.find(prefix_of(kek_id))
        return None if key is None else key.own_seal

    def holds(self, kek_id: str) -> bool:
        """Say whether a kek_id is one of a data key, on record or not."""
        return is_id(kek_id)

    def refusal(self, kek_id: str) -> str | None:
        """Say why a data key is not open, or that there is none of this id."""
        if self._ring.find(prefix_of(kek_id)) is not None:
            return None
        return self._ring.reason(kek_id) or (
            f"rows are wrapped under the data key {kek_id}, and there is no record of it: {RESTORE}"
        )

    @property
    def in_process(self) -> bool:
        """Its calls never wait for a data key that is open; see :meth:`refusal`."""
        return True

    async def _wrap(self, binding: Binding, key: bytes) -> Wrap:
        data_key = self._ring.current
        if data_key is None:
            raise Transient(f"{self._uri.text}: {self._ring.problem}")
        if not self._ring.is_on_record:
            # Nobody could open it again. What is wrapped already is still given out.
            raise Transient(f"{self._uri.text}: the data key {data_key.id} is not on record")
        return wrap_under(data_key.wrapping, data_key.id, binding, key)

    async def _unwrap(self, binding: Binding, wrap: Wrap) -> bytes:
        if wrap.format_version != FORMAT_CURRENT:
            raise Tampered("no wrap of an old format was ever made under a data key")
        data_key = self._ring.find(prefix_of(wrap.kek_id))
        if data_key is None:
            try:
                data_key = await self._ring.get(prefix_of(wrap.kek_id))
            except NoSuchDataKey as error:
                raise UnknownKek(f"{self._uri.text}: {error}: {RESTORE}") from None
            except DataKeyError as error:
                raise Transient(f"{self._uri.text}: {error}") from None
        return unwrap_under(data_key.wrapping, binding, wrap)


class UserKeyring(Keyring):
    """All that users' keys are wrapped under: the KEKs and the data keys, whichever of them wraps.

    Args:
        keks: the configured KEKs; the mode of the active one says which wraps.
        ring: the data keys, opened by those.
    """

    def __init__(self, keks: Keyring, ring: Ring) -> None:
        self._keks = keks
        self._ring = ring
        self._envelope = Envelope(ring, keks.active.uri)
        self._is_envelope = keks.active.uri.mode is Mode.ENVELOPE

    def __iter__(self) -> Iterator[KekBackend]:
        active, *others = self._keks
        first = (self._envelope, active) if self._is_envelope else (active, self._envelope)
        return iter((*first, *others))

    @property
    def keks(self) -> Keyring:
        """The KEKs alone: of them one wraps data keys."""
        return self._keks

    @property
    def active(self) -> KekBackend:
        """What new wraps of users' keys are made with."""
        return self._envelope if self._is_envelope else self._keks.active

    @property
    def kek_ids(self) -> tuple[str, ...]:
        """Those of the KEKs, and the ids of the data keys that are open."""
        return (*self._keks.kek_ids, *self._ring.open_ids)

    def replace(self, other: Keyring) -> tuple[KekBackend, ...]:
        """Use the KEKs of another keyring from now on; see :meth:`Keyring.replace`."""
        return self._keks.replace(other)

    def find(self, kek_id: str) -> KekBackend | None:
        """Return what a kek_id stands for; see :meth:`Keyring.find`."""
        if kek_id.startswith(DATA_KEY_PREFIX):
            return self._envelope if self._envelope.holds(kek_id) else None
        return self._keks.find(kek_id)
