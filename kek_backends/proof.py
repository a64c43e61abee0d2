"""The proof of binding: a KEK is used only after a wrap of its own opened for its binding alone."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable

from kek_backends.binding import Binding
from kek_backends.errors import Misconfigured, Tampered
from kek_backends.uri import KekUri
from kek_backends.wrap import MASTER_KEY_SIZE, Wrap

_OWN = Binding("custody-proof-own")
# Each differs in one thing alone.
_OTHERS = {
    Binding("custody-proof-other"): "another user",
    Binding("custody-proof-own", 1): "another generation",
    Binding.of_data_key("custody-proof-own"): "another purpose",
}


async def prove_binding(
    uri: KekUri,
    wrap: Callable[[Binding, bytes], Awaitable[Wrap]],
    unwrap: Callable[[Binding, Wrap], Awaitable[bytes]],
) -> str:
    """Prove that a wrap opens again, and for its own user, generation and purpose only.

    Args:
        uri: for the message.
        wrap: takes a binding and a key.
        unwrap: takes a binding and a wrap.

    Returns:
        The kek_id that was proven.

    Raises:
        Misconfigured: the KEK must not be used.
        KekError: it could not be tried.
    """
    probe = secrets.token_bytes(MASTER_KEY_SIZE)
    made = await wrap(_OWN, probe)
    try:
        opened = await unwrap(_OWN, made)
    except Tampered:
        # Of the KEK, not of a row: no alarm about a user's key.
        opened = b""
    if opened != probe:
        raise Misconfigured(f"KEK {uri.text}: what it wraps does not open again")
    results = await asyncio.gather(
        *(unwrap(other, made) for other in _OTHERS), return_exceptions=True
    )
    for other, result in zip(_OTHERS.values(), results, strict=True):
        if isinstance(result, bytes):
            raise Misconfigured(
                f"KEK {uri.text}: a wrap opens for {other} too: it is not bound as it must be"
            )
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, Tampered):
            raise result
    return made.kek_id
