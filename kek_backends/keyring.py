"""The KEKs of a process: one that wraps, any number that only unwrap."""

from collections.abc import Iterator, Sequence

from kek_backends.base import KekBackend, Wrap
from kek_backends.errors import Misconfigured, UnknownKek


class Keyring:
    """One active KEK for new wraps; an unwrap uses the KEK that the row names, never a trial.

    Args:
        active: wraps every new master key.
        old: decrypt-only KEKs.

    Raises:
        Misconfigured: two of them have one kek_id.
    """

    def __init__(self, active: KekBackend, old: Sequence[KekBackend] = ()) -> None:
        self._backends = (active, *old)
        seen: dict[str, KekBackend] = {}
        for backend in self._backends:
            other = seen.setdefault(backend.kek_id, backend)
            if other is not backend:
                raise Misconfigured(
                    f"KEK {backend.uri.text} and KEK {other.uri.text} share the kek_id "
                    f"{backend.kek_id}: remove one, or give one another with ?id="
                )

    def __iter__(self) -> Iterator[KekBackend]:
        return iter(self._backends)

    @property
    def active(self) -> KekBackend:
        """The KEK of new wraps."""
        return self._backends[0]

    async def wrap(self, user_id: str, master_key: bytes) -> Wrap:
        """Wrap under the active KEK; see :meth:`KekBackend.wrap`."""
        return await self.active.wrap(user_id, master_key)

    async def unwrap(self, user_id: str, wrap: Wrap) -> bytes:
        """Unwrap with the KEK that the wrap names; see :meth:`KekBackend.unwrap`.

        Raises:
            UnknownKek: no configured KEK holds its kek_id.
        """
        for backend in self._backends:
            if backend.holds(wrap.kek_id):
                return await backend.unwrap(user_id, wrap)
        raise UnknownKek(
            f"a row names the KEK {wrap.kek_id}, and none of CUSTODY_KEK and CUSTODY_OLD_KEKS "
            "holds it: configure it again"
        )
