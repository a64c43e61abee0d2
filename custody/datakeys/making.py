"""A new data key, under the active KEK."""

import asyncio
import secrets

from custody.datakeys.data_key import DataKey, new_id
from custody.datakeys.mac import KEY_SIZE
from kek_backends.base import Wrap
from kek_backends.binding import Binding
from kek_backends.errors import Misconfigured, Transient
from kek_backends.keyring import Keyring

# A KMS gives up by itself before; a backend of others may not.
_SECONDS = 5.0


async def make_data_key(keyring: Keyring, after: str = "") -> tuple[DataKey, Wrap]:
    """Return a new data key and its wrap, which opens: nothing else may be stored.

    Args:
        keyring: the active KEK wraps it.
        after: as for :func:`new_id`.

    Raises:
        Misconfigured: the wrap opens to another key.
        KekError: the KMS can't be asked now.
    """
    key_id, key = new_id(after), secrets.token_bytes(KEY_SIZE)
    binding = Binding.of_data_key(key_id)
    uri = keyring.active.uri.text
    try:
        async with asyncio.timeout(_SECONDS):
            wrap = await keyring.wrap(binding, key)
            opened = await keyring.unwrap(binding, wrap)
    except TimeoutError:
        raise Transient(f"KEK {uri}: no answer in time") from None
    if not secrets.compare_digest(opened, key):
        raise Misconfigured(f"KEK {uri}: what it wraps opens to another key")
    return DataKey.of(key_id, key), wrap
