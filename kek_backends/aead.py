"""The two local wrap formats: AES-256-GCM (format 1, read only) and XAES-256-GCM (format 2).

Lengths are checked before anything is sliced or decrypted: ``AESGCM`` would take a 24-byte
nonce without complaint, and that is not XAES-256-GCM.
"""

import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.cmac import CMAC

from kek_backends.errors import Tampered

KEY_SIZE = 32
GCM_NONCE_SIZE = 12
XAES_NONCE_SIZE = 24
TAG_SIZE = 16

_LABEL = b"custody master key wrap v2"


def associated_data(user_id: str, kek_id: str) -> bytes:
    """Return what binds a format 2 wrap to its user and its KEK.

    Each part has its length in front (4 bytes, big-endian), so no two pairs of user and kek_id
    give the same bytes.

    Args:
        user_id: the user of the authenticated request or of the row's key column.
        kek_id: the stamp that the row carries.
    """
    parts = (_LABEL, user_id.encode(), kek_id.encode())
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def xaes_encrypt(key: bytes, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """Encrypt with XAES-256-GCM (C2SP XAES-256-GCM).

    Args:
        key: 32 bytes.
        nonce: 24 bytes, random: 2^80 messages under one key are safe, so no wrap counter is kept.
        plaintext: what to encrypt.
        aad: associated data, authenticated only.

    Returns:
        The ciphertext with its 16-byte tag at the end.
    """
    subkey, subnonce = _derive(key, nonce)
    return AESGCM(subkey).encrypt(subnonce, plaintext, aad)


def xaes_decrypt(key: bytes, nonce: bytes, ciphertext: bytes, aad: bytes) -> bytes:
    """Decrypt what :func:`xaes_encrypt` made.

    Raises:
        Tampered: key, nonce, ciphertext and associated data do not belong together.
    """
    subkey, subnonce = _derive(key, nonce)
    return _open(subkey, subnonce, ciphertext, aad)


def xaes_nonce() -> bytes:
    """Return a fresh random nonce of 24 bytes."""
    return secrets.token_bytes(XAES_NONCE_SIZE)


def gcm_decrypt(key: bytes, nonce: bytes, ciphertext: bytes) -> bytes:
    """Decrypt a format 1 wrap: AES-256-GCM (NIST SP 800-38D), 12-byte nonce, no associated data.

    Raises:
        Tampered: key, nonce and ciphertext do not belong together.
    """
    if len(nonce) != GCM_NONCE_SIZE:
        raise Tampered(f"a format 1 nonce has {GCM_NONCE_SIZE} bytes, this one {len(nonce)}")
    return _open(key, nonce, ciphertext, b"")


def _open(key: bytes, nonce: bytes, ciphertext: bytes, aad: bytes) -> bytes:
    if len(ciphertext) < TAG_SIZE:
        raise Tampered("the wrap is shorter than its tag")
    try:
        return AESGCM(key).decrypt(nonce, ciphertext, aad)
    except InvalidTag:
        # "from None": the original exception holds nothing, and its frames would hold the key.
        raise Tampered("the wrap does not open under this KEK for this user") from None


def _derive(key: bytes, nonce: bytes) -> tuple[bytes, bytes]:
    """Derive the AES-256-GCM key and nonce (NIST SP 800-108r1 counter mode with AES-CMAC)."""
    if len(key) != KEY_SIZE:
        raise ValueError(f"an XAES-256-GCM key has {KEY_SIZE} bytes")
    if len(nonce) != XAES_NONCE_SIZE:
        raise Tampered(f"a format 2 nonce has {XAES_NONCE_SIZE} bytes, this one {len(nonce)}")
    head, tail = nonce[:GCM_NONCE_SIZE], nonce[GCM_NONCE_SIZE:]
    return _prf(key, 1, head) + _prf(key, 2, head), tail


def _prf(key: bytes, counter: int, head: bytes) -> bytes:
    mac = CMAC(AES256(key))
    mac.update(counter.to_bytes(2, "big") + b"X\x00" + head)
    return mac.finalize()
