"""Wraps of an OpenBao key by the thousand, made in few calls."""

import base64
from collections.abc import Iterable, Mapping

from kek_backends.binding import Binding
from tests.bao_server import Bao
from tests.bindings import of

# OpenBao refuses JSON of more than 1000 strings.
_BATCH = 160


def context(binding: Binding) -> str:
    """Return what a derived key binds a wrap by."""
    return base64.b64encode(binding.encode()).decode()


def encrypt(bao: Bao, name: str, keys: Iterable[tuple[str, bytes]]) -> Mapping[str, str]:
    """Wrap master keys with a derived key.

    Args:
        bao: the server.
        name: of the transit key.
        keys: user ids, each with the master key.

    Returns:
        The ciphertext of each user's.
    """
    wraps = {}
    pairs = list(keys)
    for start in range(0, len(pairs), _BATCH):
        batch = pairs[start : start + _BATCH]
        items = [
            {"plaintext": base64.b64encode(key).decode(), "context": context(of(user))}
            for user, key in batch
        ]
        answer = bao.ask("POST", f"transit/encrypt/{name}", {"batch_input": items})
        for (user, _), result in zip(batch, answer["data"]["batch_results"], strict=True):
            wraps[user] = result["ciphertext"]
    return wraps
