"""What a check is given, and how it says what is wrong."""

import base64
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Self, TypeVar

from kek_backends.base import MASTER_KEY_SIZE, KekBackend, Wrap
from kek_backends.binding import Binding
from kek_backends.errors import KekError
from kek_backends.loader import load_here

T = TypeVar("T")

_GENERATION = 7


@dataclass(frozen=True, slots=True)
class Subject:
    """A backend under test.

    Args:
        open: makes a new instance each time it is called, all of them for one KEK that wraps and
            unwraps. The instance need not be refreshed yet; the check closes it.
        secrets: texts that must never be shown: the KEK in base64, a token.
    """

    open: Callable[[], Awaitable[KekBackend]]
    secrets: Sequence[str] = field(default=(), repr=False)

    @classmethod
    def named(
        cls,
        uri: str,
        *,
        environ: Mapping[str, str],
        development: bool = False,
        secrets: Sequence[str] = (),
    ) -> Self:
        """Return the subject that a KEK URI names, found by its entry point as the daemon does.

        The daemon keeps a backend that is not its own in a thread; here it is as it is.

        Args:
            uri: for example ``env:MANA_AUTH_KEK``.
            environ: the variables that the backend may read.
            development: whether it may make up a missing key.
            secrets: texts that must never be shown.
        """

        async def open_() -> KekBackend:
            return load_here(uri, environ=environ, development=development)

        return cls(open_, secrets)

    @asynccontextmanager
    async def backend(self) -> AsyncIterator[KekBackend]:
        """Open an instance, refresh it as the daemon does at its start, and close it at the end."""
        kek = await self.open()
        try:
            await good("a refresh must succeed", kek.refresh())
            yield kek
        finally:
            await kek.close()


def expect(condition: object, sentence: str) -> None:
    """Raise AssertionError with a sentence where a condition is not met.

    ``assert`` would say nothing when Python runs with -O.
    """
    if not condition:
        raise AssertionError(sentence)


async def good(sentence: str, work: Awaitable[T]) -> T:
    """Return what a call returns that must succeed."""
    try:
        return await work
    except (Exception, SystemExit, GeneratorExit) as error:
        raise AssertionError(f"{sentence}, but: {type(error).__name__}: {error}") from error


async def refused(
    sentence: str, work: Awaitable[object], kinds: type[KekError] | tuple[type[KekError], ...]
) -> KekError:
    """Return the error of a call that must fail with one of these types."""
    try:
        await work
    except kinds as error:
        return error
    except (Exception, SystemExit, GeneratorExit) as error:
        named = kinds if isinstance(kinds, tuple) else (kinds,)
        wanted = " or ".join(kind.__name__ for kind in named)
        raise AssertionError(
            f"{sentence} with {wanted}, but it raised {type(error).__name__}: {error}"
        ) from error
    raise AssertionError(f"{sentence}, but it succeeded")


def new_key() -> bytes:
    """Return a fresh key."""
    return secrets.token_bytes(MASTER_KEY_SIZE)


def of(user_id: str, generation: int = _GENERATION) -> Binding:
    """Return what a user's master key is bound to."""
    return Binding(user_id, generation)


async def wrapped(kek: KekBackend, owner: Binding | str, key: bytes) -> Wrap:
    """Wrap, which must succeed.

    Args:
        kek: wraps.
        owner: what to bind to; of a user whose generation does not matter, the id.
        key: 32 bytes.
    """
    return await good("wrapping a key must succeed", kek.wrap(_binding(owner), key))


async def expect_opens(
    kek: KekBackend, owner: Binding | str, wrap: Wrap, key: bytes, which: str
) -> None:
    """Unwrap, which must succeed and return this key.

    Args:
        kek: unwraps.
        owner: what it is bound to, as for :func:`wrapped`.
        wrap: the columns.
        key: what must come out, 32 bytes.
        which: names the wrap in the sentence.
    """
    opened = await good(f"{which} must open for its own binding", kek.unwrap(_binding(owner), wrap))
    expect(opened == key, f"{which} opened to another key than was wrapped")


def _binding(owner: Binding | str) -> Binding:
    return owner if isinstance(owner, Binding) else of(owner)


def forms(secret: bytes) -> tuple[str, ...]:
    """Return the texts in which bytes usually show."""
    return (
        repr(secret)[2:-1],
        secret.hex(),
        base64.b64encode(secret).decode(),
        base64.urlsafe_b64encode(secret).decode(),
    )
