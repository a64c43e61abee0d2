"""The KEKs of a process: one that wraps, any number that only unwrap."""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence

from kek_backends.base import FORMAT_CURRENT, KekBackend, OwnedWrap, Rewrapped, Wrap
from kek_backends.binding import Binding
from kek_backends.errors import KekError, Misconfigured, Tampered, UnknownKek

# How many keys in a row are re-wrapped here before others get their turn: about a millisecond.
_YIELD_EVERY = 25


class Keyring:
    """One active KEK for new wraps; an unwrap uses the KEK that the row names, never a trial.

    Args:
        active: wraps every new key.
        old: decrypt-only KEKs.

    Raises:
        Misconfigured: one of them is listed twice, or two have one kek_id.
    """

    def __init__(self, active: KekBackend, old: Sequence[KekBackend] = ()) -> None:
        self._backends = (active, *old)
        seen: dict[str, KekBackend] = {}
        for backend in self._backends:
            # A KMS gives its kek_ids only when asked, and no two of its keys the same one.
            other = seen.setdefault(backend.kek_id or backend.uri.key_text, backend)
            if other is not backend:
                raise Misconfigured(
                    f"KEK {backend.uri.key_text} is listed twice: remove one"
                    if backend.uri.key_text == other.uri.key_text
                    else f"KEK {backend.uri.text} and KEK {other.uri.text} share the kek_id "
                    f"{backend.kek_id}: remove one, or give one another with ?id="
                )

    def __iter__(self) -> Iterator[KekBackend]:
        return iter(self._backends)

    @property
    def keks(self) -> "Keyring":
        """Those that are KEKs: all of them, unless there is something else that wraps."""
        return self

    @property
    def kek_ids(self) -> tuple[str, ...]:
        """What the wraps carry that can be unwrapped, as far as that is known now."""
        return tuple(backend.kek_id for backend in self if backend.kek_id is not None)

    @property
    def active(self) -> KekBackend:
        """The KEK of new wraps."""
        return self._backends[0]

    def replace(self, other: "Keyring") -> tuple[KekBackend, ...]:
        """Use the KEKs of another keyring from now on, all at once.

        Args:
            other: with the same active KEK.

        Returns:
            The KEKs that are in use no more; calls may still be under way in them.

        Raises:
            ValueError: the other one has another active KEK.
        """
        if other.active is not self.active:
            raise ValueError("the active KEK changes with a restart only")
        dropped = tuple(backend for backend in self if backend not in other)
        self._backends = tuple(other)
        return dropped

    def find(self, kek_id: str) -> KekBackend | None:
        """Return the KEK whose wraps carry this kek_id, or None where none is configured."""
        moved_on = None
        for backend in self:
            if backend.holds(kek_id):
                # An alias holds what it pointed at before; the key named outright comes first.
                if backend.kek_id == kek_id:
                    return backend
                moved_on = moved_on or backend
        return moved_on

    async def wrap(self, binding: Binding, key: bytes) -> Wrap:
        """Wrap under the active KEK; see :meth:`KekBackend.wrap`."""
        return await self.active.wrap(binding, key)

    async def unwrap(self, binding: Binding, wrap: Wrap) -> bytes:
        """Unwrap with the KEK that the wrap names; see :meth:`KekBackend.unwrap`.

        Raises:
            UnknownKek: no configured KEK holds its kek_id.
        """
        return await self._holder(wrap).unwrap(binding, wrap)

    async def rewrap(self, items: Sequence[OwnedWrap]) -> list[Rewrapped]:
        """Bring wraps to the active KEK: inside its KMS where it can, through this process else.

        A wrap of an old format always comes through here: only its key shows whose it is.

        Args:
            items: wraps of any of the KEKs.

        Returns:
            For each item, in order, its wrap under the active KEK, or why there is none.
        """
        done: list[Rewrapped] = [UnknownKek("not tried")] * len(items)
        inside: list[int] = []
        through: list[int] = []
        for at, item in enumerate(items):
            source = self.find(item.wrap.kek_id)
            in_kms = source is not None and self.active.can_rewrap_from(source)
            current = item.wrap.format_version == FORMAT_CURRENT
            (inside if in_kms and current else through).append(at)
        await self._carry_over_all(items, through, done)
        if inside:
            try:
                results = await self.active.rewrap([items[at] for at in inside])
            except KekError as error:
                results = [error] * len(inside)
            for at, result in zip(inside, results, strict=True):
                done[at] = result
        return done

    async def close(self) -> None:
        """Close all of them."""
        for backend in self:
            with contextlib.suppress(KekError):
                await backend.close()

    async def _carry_over_all(
        self, items: Sequence[OwnedWrap], which: Sequence[int], done: list[Rewrapped]
    ) -> None:
        """Unwrap and wrap, as many at once as the slowest KEK has use for."""
        queue = iter(which)

        async def carry() -> None:
            for count, at in enumerate(queue):
                done[at] = await self._carry_over(items[at])
                if count % _YIELD_EVERY == 0:
                    await asyncio.sleep(0)  # nothing else waits for a KEK in this process

        at_once = max(backend.concurrency for backend in self)
        await asyncio.gather(*(carry() for _ in range(min(at_once, len(which)))))

    async def _carry_over(self, item: OwnedWrap) -> Rewrapped:
        try:
            key = await self.unwrap(item.binding, item.wrap)
            if item.is_right is not None and not item.is_right(key):
                return Tampered("the wrap opens to another key than this user's")
            return await self.wrap(item.binding, key)
        except KekError as error:
            return error

    def _holder(self, wrap: Wrap) -> KekBackend:
        backend = self.find(wrap.kek_id)
        if backend is None:
            raise UnknownKek(
                f"a row names the KEK {wrap.kek_id}, and none of CUSTODY_KEK and CUSTODY_OLD_KEKS "
                "holds it: configure it again"
            )
        return backend
