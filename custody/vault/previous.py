"""The master key before the live one, kept under the live one while a rotation is pending.

Not under a KEK: a key that is derived from the live master key wraps it. So it opens where the live
one does and nowhere else; it costs no call of a KMS; and whatever moves wraps, retires KEKs or ends
data keys can't miss it (docs/adr, 26). The row's seal covers it as it is stored.
"""

from custody.datakeys.mac import derive
from custody.vault.model import PreviousKey
from kek_backends.aead import XaesKey
from kek_backends.binding import Binding
from kek_backends.local import unwrap_under, wrap_under
from kek_backends.wrap import FORMAT_CURRENT, Wrap

_USE = "custody previous master key wrap v1"
# What stands in the place of a kek_id. No KEK has it: none has a space.
_STAMP = "the live key"


def keep(user_id: str, live: bytes, generation: int, key: bytes) -> PreviousKey:
    """Wrap a master key under the one that takes its place.

    Args:
        user_id: whose.
        live: the one that takes its place, 32 bytes.
        generation: of the one that is kept.
        key: the one that is kept, 32 bytes.
    """
    wrap = wrap_under(_wrapping(live), _STAMP, Binding(user_id, generation), key)
    return PreviousKey(generation, wrap.wrapped_mk, wrap.wrap_iv)


def open_previous(user_id: str, live: bytes, previous: PreviousKey) -> bytes:
    """Open what :func:`keep` made.

    Args:
        user_id: whose, by the verified token or the primary key.
        live: the live master key.
        previous: as it is stored.

    Raises:
        Tampered: it does not open under this key, for this user and generation.
    """
    wrap = Wrap(previous.wrapped_mk, previous.iv, FORMAT_CURRENT, _STAMP)
    return unwrap_under(_wrapping(live), Binding(user_id, previous.generation), wrap)


def _wrapping(live: bytes) -> XaesKey:
    return XaesKey(derive(live, _USE))
