"""The recovery code, and the wrap of a master key that it opens: the old service's formats."""

import os
import re
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from custody.client.errors import MalformedRecoveryCode, WrongRecoveryCode

SECRET_BYTES: Final = 32
KEY_BYTES: Final = 32
IV_BYTES: Final = 12
WRAP_BYTES: Final = 48
_INFO: Final = b"mana-recovery-v1"
_SEPARATORS: Final = re.compile(r"[\s\ufeff-]")
_HEX: Final = re.compile(r"[0-9a-fA-F]{64}")


def make_code() -> str:
    """Make a new recovery code, for the user to keep."""
    return format_code(os.urandom(SECRET_BYTES))


def format_code(secret: bytes) -> str:
    """Write a secret as a code: 16 groups of four upper-case hexadecimal digits.

    Raises:
        MalformedRecoveryCode: not 32 bytes.
    """
    if len(secret) != SECRET_BYTES:
        raise MalformedRecoveryCode
    return secret.hex("-", -2).upper()


def parse_code(code: str) -> bytes:
    """Return the secret of a code; case, white space and dashes do not matter.

    Raises:
        MalformedRecoveryCode: not 64 hexadecimal digits. It does not say where.
    """
    digits = _SEPARATORS.sub("", code)
    if not _HEX.fullmatch(digits):
        raise MalformedRecoveryCode
    return bytes.fromhex(digits)


def wrap(master_key: bytes, code: str) -> tuple[bytes, bytes]:
    """Wrap a master key by a code, and open it again before anybody relies on it.

    Returns:
        The wrap (48 bytes) and its IV (12 bytes), fresh each time.

    Raises:
        MalformedRecoveryCode: no code.
        WrongRecoveryCode: what was made does not open: nothing may be sent.
    """
    iv = os.urandom(IV_BYTES)
    wrapped = AESGCM(_wrapping_key(code)).encrypt(iv, master_key, None)
    if unwrap(wrapped, iv, code) != master_key:
        raise WrongRecoveryCode
    return wrapped, iv


def unwrap(wrapped: bytes, iv: bytes, code: str) -> bytes:
    """Open a wrap.

    Raises:
        MalformedRecoveryCode: no code.
        WrongRecoveryCode: another code, or a wrap that was changed or has a wrong length.
    """
    key = _wrapping_key(code)
    # AESGCM takes IVs of other lengths without complaint.
    if len(wrapped) != WRAP_BYTES or len(iv) != IV_BYTES:
        raise WrongRecoveryCode
    try:
        return AESGCM(key).decrypt(iv, wrapped, None)
    except InvalidTag:
        raise WrongRecoveryCode from None


def _wrapping_key(code: str) -> bytes:
    # No salt: the secret has 256 bits of its own.
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=_INFO).derive(parse_code(code))
