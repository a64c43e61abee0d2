"""The proof of binding: a KEK is used only after a wrap of its own opened for its user alone."""

import secrets
from collections.abc import Awaitable, Callable

from kek_backends.errors import Misconfigured, Tampered
from kek_backends.uri import KekUri
from kek_backends.wrap import MASTER_KEY_SIZE, Wrap


async def prove_binding(
    uri: KekUri,
    wrap: Callable[[str, bytes], Awaitable[Wrap]],
    unwrap: Callable[[str, Wrap], Awaitable[bytes]],
) -> str:
    """Prove that a wrap opens again, and for its own user only.

    Args:
        uri: for the message.
        wrap: takes a user id and a master key.
        unwrap: takes a user id and a wrap.

    Returns:
        The kek_id that was proven.

    Raises:
        Misconfigured: the KEK must not be used.
        KekError: it could not be tried.
    """
    probe = secrets.token_bytes(MASTER_KEY_SIZE)
    made = await wrap("custody-proof-own", probe)
    try:
        opened = await unwrap("custody-proof-own", made)
    except Tampered:
        # Of the KEK, not of a row: no alarm about a user's key.
        opened = b""
    if opened != probe:
        raise Misconfigured(f"KEK {uri.text}: what it wraps does not open again")
    try:
        await unwrap("custody-proof-other", made)
    except Tampered:
        return made.kek_id
    raise Misconfigured(
        f"KEK {uri.text}: a wrap opens for another user too: it is not bound to its user"
    )
