"""KEKs whose 32 bytes are in this process: what ``env`` and ``systemd`` share."""

import base64
import binascii
import hashlib
import hmac

from kek_backends import aead
from kek_backends.base import FORMAT_CURRENT, FORMAT_UNBOUND, FORMAT_USER, KekBackend, Wrap
from kek_backends.binding import Binding
from kek_backends.errors import Misconfigured, Tampered
from kek_backends.key_text import CURE
from kek_backends.uri import KekUri

ZERO_KEY = bytes(aead.KEY_SIZE)

_FINGERPRINT_LABEL = b"custody kek fingerprint v1"


class LocalKek(KekBackend):
    """A KEK in memory. Wraps are format 3; formats 1 and 2 are read and never written.

    Args:
        uri: where the key came from.
        kek_id: the stamp for new wraps.
        key: 32 bytes.
        development: True only in development mode: the all-zero key is refused otherwise.

    Raises:
        Misconfigured: the key is all zero, outside development.
    """

    def __init__(self, *, uri: KekUri, kek_id: str, key: bytes, development: bool) -> None:
        if len(key) != aead.KEY_SIZE:
            raise ValueError(f"a local KEK has {aead.KEY_SIZE} bytes")
        if hmac.compare_digest(key, ZERO_KEY) and not development:
            raise Misconfigured(f"KEK {uri.text}: the all-zero key protects nothing; {CURE}")
        self._uri = uri
        self._kek_id = kek_id
        self._key = key
        self._xaes = aead.XaesKey(key)

    @property
    def uri(self) -> KekUri:
        """The URI this backend was built from."""
        return self._uri

    @property
    def kek_id(self) -> str:
        """The stamp that new wraps carry."""
        return self._kek_id

    @property
    def in_process(self) -> bool:
        """Its calls never wait."""
        return True

    def fingerprint(self, kek_id: str) -> str:  # noqa: ARG002 - there is one key
        """HMAC-SHA-256 of a fixed label under the key, in hex: one-way, and the same everywhere."""
        return hmac.new(self._key, _FINGERPRINT_LABEL, hashlib.sha256).hexdigest()

    async def _wrap(self, binding: Binding, key: bytes) -> Wrap:
        return wrap_under(self._xaes, self._kek_id, binding, key)

    async def _unwrap(self, binding: Binding, wrap: Wrap) -> bytes:
        if wrap.format_version == FORMAT_CURRENT:
            return unwrap_under(self._xaes, binding, wrap)
        if wrap.format_version == FORMAT_USER:
            aad = aead.associated_data(binding.subject, wrap.kek_id)
            return self._xaes.decrypt(_decode(wrap.wrap_iv), _decode(wrap.wrapped_mk), aad)
        if wrap.format_version == FORMAT_UNBOUND:
            return aead.gcm_decrypt(self._key, _decode(wrap.wrap_iv), _decode(wrap.wrapped_mk))
        raise Tampered(f"{self._uri.text}: no such wrap format: {wrap.format_version}")


def wrap_under(xaes: aead.XaesKey, kek_id: str, binding: Binding, key: bytes) -> Wrap:
    """Return a wrap of format 3 that is made in this process.

    Args:
        xaes: the key that wraps.
        kek_id: the stamp; the wrap is bound to it as well.
        binding: for this alone will it open.
        key: 32 bytes.
    """
    nonce = aead.xaes_nonce()
    ciphertext = xaes.encrypt(nonce, key, binding.encode(kek_id))
    return Wrap(
        wrapped_mk=base64.b64encode(ciphertext).decode(),
        wrap_iv=base64.b64encode(nonce).decode(),
        format_version=FORMAT_CURRENT,
        kek_id=kek_id,
    )


def unwrap_under(xaes: aead.XaesKey, binding: Binding, wrap: Wrap) -> bytes:
    """Open what :func:`wrap_under` made.

    Args:
        xaes: the key that wrapped.
        binding: as it was wrapped.
        wrap: the columns, of format 3.

    Raises:
        Tampered: they do not belong together.
    """
    aad = binding.encode(wrap.kek_id)
    return xaes.decrypt(_decode(wrap.wrap_iv), _decode(wrap.wrapped_mk), aad)


def _decode(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError):
        raise Tampered("the row's wrap is not base64") from None
