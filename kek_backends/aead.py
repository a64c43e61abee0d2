"""What local wraps are made with: XAES-256-GCM (formats 2 and 3) and AES-256-GCM (format 1).

Lengths are checked before anything is sliced or decrypted: ``AESGCM`` would take a 24-byte
nonce without complaint, and that is not XAES-256-GCM.
"""

import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB

from kek_backends.errors import Tampered

KEY_SIZE = 32
GCM_NONCE_SIZE = 12
XAES_NONCE_SIZE = 24
TAG_SIZE = 16
_BLOCK_SIZE = 16
_ONE_TO_TWO = (1 ^ 2) << 8 * (_BLOCK_SIZE - 2)
_ALL_ONES = (1 << 8 * _BLOCK_SIZE) - 1

# With its length in front: 26.
_LABEL = b"\x00\x00\x00\x1acustody master key wrap v2"


def associated_data(user_id: str, kek_id: str) -> bytes:
    """Return what binds a format 2 wrap to its user and its KEK: such wraps are read only.

    Each part has its length in front (4 bytes, big-endian), so no two pairs of user and kek_id
    give the same bytes.

    Args:
        user_id: the user of the authenticated request or of the row's key column.
        kek_id: the stamp that the row carries.
    """
    user, kek = user_id.encode(), kek_id.encode()
    lengths = len(user).to_bytes(4, "big"), len(kek).to_bytes(4, "big")
    return b"".join((_LABEL, lengths[0], user, lengths[1], kek))


class XaesKey:
    """A key for XAES-256-GCM (C2SP XAES-256-GCM).

    Args:
        key: 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_SIZE:
            raise ValueError(f"an XAES-256-GCM key has {KEY_SIZE} bytes")
        # The bare block cipher, of which AES-CMAC is made; it keeps no state between blocks.
        self._aes = Cipher(AES256(key), ECB()).encryptor()  # noqa: S305 - no message, see _derive
        self._k1 = _doubled(self._aes.update(bytes(_BLOCK_SIZE)))

    def __repr__(self) -> str:
        return "XaesKey(…)"

    def encrypt(self, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
        """Encrypt.

        Args:
            nonce: 24 bytes, random: 2^80 messages under one key are safe, so no wrap counter is
                kept.
            plaintext: what to encrypt.
            aad: associated data, authenticated only.

        Returns:
            The ciphertext with its 16-byte tag at the end.
        """
        subkey, subnonce = self._derive(nonce)
        return AESGCM(subkey).encrypt(subnonce, plaintext, aad)

    def decrypt(self, nonce: bytes, ciphertext: bytes, aad: bytes) -> bytes:
        """Decrypt what :meth:`encrypt` made.

        Raises:
            Tampered: key, nonce, ciphertext and associated data do not belong together.
        """
        subkey, subnonce = self._derive(nonce)
        return _open(subkey, subnonce, ciphertext, aad)

    def _derive(self, nonce: bytes) -> tuple[bytes, bytes]:
        """Derive the AES-256-GCM key and nonce (NIST SP 800-108r1 counter mode with AES-CMAC).

        Both inputs of the PRF are one whole block, whose CMAC (NIST SP 800-38B, section 6.2) is
        the block cipher's answer to the block and K1.
        """
        if len(nonce) != XAES_NONCE_SIZE:
            raise Tampered(
                f"an XAES-256-GCM nonce has {XAES_NONCE_SIZE} bytes, this one {len(nonce)}"
            )
        # The two inputs differ in their counter alone, 1 and 2.
        first = int.from_bytes(b"\x00\x01X\x00" + nonce[:GCM_NONCE_SIZE], "big") ^ self._k1
        second = first ^ _ONE_TO_TWO
        blocks = (first << 8 * _BLOCK_SIZE | second).to_bytes(2 * _BLOCK_SIZE, "big")
        return self._aes.update(blocks), nonce[GCM_NONCE_SIZE:]


def xaes_encrypt(key: bytes, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """Encrypt one message; see :meth:`XaesKey.encrypt`."""
    return XaesKey(key).encrypt(nonce, plaintext, aad)


def xaes_decrypt(key: bytes, nonce: bytes, ciphertext: bytes, aad: bytes) -> bytes:
    """Decrypt one message; see :meth:`XaesKey.decrypt`."""
    return XaesKey(key).decrypt(nonce, ciphertext, aad)


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
        raise Tampered("the wrap does not open under this KEK for this binding") from None


def _doubled(block: bytes) -> int:
    """Double a block in GF(2^128): CMAC's step from AES(0) to K1."""
    value = int.from_bytes(block, "big") << 1
    return value & _ALL_ONES ^ (0x87 if value > _ALL_ONES else 0)
