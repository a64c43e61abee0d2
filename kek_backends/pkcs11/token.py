"""A token, in the process of its module: logged in, its key found, one call after the other.

python-pkcs11 tells the module that no two threads call it (C_Initialize without arguments, PKCS #11
section 5.4). Two that do damage its memory: SoftHSM then crashes, or refuses honest wraps.
"""

import fcntl
import hashlib
import os
from pathlib import Path
from typing import Any

import pkcs11
from pkcs11 import Attribute, GCMParams, KeyType, Mechanism, ObjectClass, PKCS11Error, TokenFlag

IV_SIZE, TAG_BITS = 12, 128
_KEY_SIZE = 32
# Of one message alone, always the same: the nonce is never that of another (they are random).
_FINGERPRINT_IV = hashlib.sha256(b"custody pkcs11 fingerprint v1").digest()[:IV_SIZE]
_FINGERPRINT_TEXT = b"custody pkcs11 fingerprint v1   "


class Refused(Exception):
    """What was found to be wrong here, by a name of ours; see :mod:`kek_backends.pkcs11.errors`."""


class Token:
    """The token and the key of an address.

    Args:
        module: path of the library.
        token: what is true of the token, by the names of RFC 7512.
        label: of the key, or None.
        key_id: of the key, or None.
        pin: of the user.

    Raises:
        Refused: nothing here can be used.
        PKCS11Error: of the module.
    """

    def __init__(
        self, module: str, token: dict[str, str], label: str | None, key_id: bytes | None, pin: str
    ) -> None:
        self._template: dict[Attribute, Any] = {Attribute.CLASS: ObjectClass.SECRET_KEY}
        if label is not None:
            self._template[Attribute.LABEL] = label
        if key_id is not None:
            self._template[Attribute.ID] = key_id
        slot, self._token = _find(_loaded(module), token)
        if Mechanism.AES_GCM not in slot.get_mechanisms():
            raise Refused("NoGcm")
        self._session = _opened(module, slot, self._token, pin)
        self._key = self._find_key()
        self._canary = self.encrypt(bytes(_KEY_SIZE), b"canary")

    def describe(self) -> dict[str, Any]:
        """Return what is to be known of token and key; asks for no cryptography."""
        key = self._find_key()
        return {
            "serial": self._token.serial.decode("latin-1").strip(),
            "key_id": key[Attribute.ID].hex(),
            "extractable": bool(key[Attribute.EXTRACTABLE]),
            "wrong_pins": TokenFlag.USER_PIN_COUNT_LOW in TokenFlag(self._token.flags),
        }

    def fingerprint(self) -> str | None:
        """Return what changes with the key's bytes; None of a token that makes its own IVs."""
        made = self.encrypt(_FINGERPRINT_TEXT, b"fingerprint", _FINGERPRINT_IV)
        if made[0] != _FINGERPRINT_IV:
            return None
        return hashlib.sha256(b"custody pkcs11 fingerprint v1" + made[1]).hexdigest()

    def encrypt(self, text: bytes, aad: bytes, iv: bytes | None = None) -> tuple[bytes, bytes]:
        """Encrypt with AES-GCM.

        Args:
            text: the plaintext.
            aad: what it is bound to.
            iv: 12 bytes; random ones unless given.

        Returns:
            The IV that was used, and the ciphertext with its tag.
        """
        # Bytes of its own, whoever made them: a token that makes its own IV writes it there.
        nonce = bytes(bytearray(iv or os.urandom(IV_SIZE)))
        parameters = GCMParams(nonce=nonce, aad=aad, tag_bits=TAG_BITS)
        made = self._key.encrypt(text, mechanism=Mechanism.AES_GCM, mechanism_param=parameters)
        return nonce, bytes(made)

    def decrypt(self, iv: bytes, made: bytes, aad: bytes) -> bytes:
        """Decrypt what :meth:`encrypt` made.

        Raises:
            Refused: it does not open, and another does.
            PKCS11Error: nothing opens now.
        """
        try:
            return self._decrypt(iv, made, aad)
        except PKCS11Error:
            # Modules have many names for it, SoftHSM the one for everything. What was made here
            # and opens now says whose fault it was.
            self._decrypt(*self._canary, b"canary")
        raise Refused("Tampered")

    def _decrypt(self, iv: bytes, made: bytes, aad: bytes) -> bytes:
        parameters = GCMParams(nonce=iv, aad=aad, tag_bits=TAG_BITS)
        opened = self._key.decrypt(made, mechanism=Mechanism.AES_GCM, mechanism_param=parameters)
        return bytes(opened)

    def _find_key(self) -> Any:
        found = list(self._session.get_objects(self._template))
        if len(found) != 1:
            raise Refused("NoSuchKey" if not found else "ManyKeys")
        key = found[0]
        if key[Attribute.KEY_TYPE] != KeyType.AES or key[Attribute.VALUE_LEN] != _KEY_SIZE:
            raise Refused("NotAes256")
        if not (key[Attribute.ENCRYPT] and key[Attribute.DECRYPT]):
            raise Refused("NotForEncryption")
        if not key[Attribute.SENSITIVE]:
            raise Refused("NotSensitive")
        if not key[Attribute.ID]:
            raise Refused("NoId")
        return key


def _loaded(module: str) -> Any:
    try:
        return pkcs11.lib(module)
    except PKCS11Error as error:
        if type(error) is PKCS11Error:  # of the linker, not of the module
            raise Refused("NoModule") from None
        raise


def _find(lib: Any, wanted: dict[str, str]) -> tuple[Any, Any]:
    """Return the one slot and token of which all is true."""
    found = []
    for slot in lib.get_slots(token_present=True):
        token = slot.get_token()
        known = {
            "token": token.label,
            "manufacturer": token.manufacturer_id,
            "serial": token.serial.decode("latin-1").strip(),
            "model": token.model,
            "slot-id": str(slot.slot_id),
        }
        if all(known[name] == value for name, value in wanted.items()):
            found.append((slot, token))
    if len(found) != 1:
        raise Refused("NoSuchToken" if not found else "ManyTokens")
    return found[0]


def _opened(module: str, slot: Any, token: Any, pin: str) -> Any:
    """Return a session, logged in.

    One process of this host after the other: each sees whether those before have left it a try.
    """
    with Path(module).open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        flags = TokenFlag(slot.get_token().flags)
        if TokenFlag.USER_PIN_LOCKED in flags:
            raise Refused("PinLocked")
        if TokenFlag.USER_PIN_FINAL_TRY in flags:
            raise Refused("FinalTry")
        return token.open(user_pin=pin)
