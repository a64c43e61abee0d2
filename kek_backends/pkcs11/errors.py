"""What an error of a module, or of its process, means for a KEK."""

import re

from kek_backends.errors import KekError, KeyMissing, Misconfigured, Tampered, Transient
from kek_backends.uri import KekUri


class WrongPin(Misconfigured):
    """The token refuses the PIN. Tried again and again, it would lock itself."""


_NAME = re.compile(r"[A-Za-z0-9]{1,60}")
# By the names of python-pkcs11, and those of ours.
_MEANINGS: dict[str, tuple[type[KekError], str]] = {
    "Tampered": (Tampered, "the wrap does not open for this binding under this key"),
    "PinIncorrect": (
        WrongPin,
        (
            "the token refuses the PIN; it is not tried again, which would lock the token: correct "
            "the file that pin-source names"
        ),
    ),
    "FinalTry": (
        Misconfigured,
        (
            "one more wrong PIN would lock the token, so none is tried; log in once by hand with "
            "the right one"
        ),
    ),
    "PinLocked": (
        Misconfigured,
        "the PIN of the token is locked: its security officer must set a new one",
    ),
    "PinExpired": (Misconfigured, "the PIN has expired: set a new one"),
    "UserPinNotInitialized": (Misconfigured, "the token has no user PIN yet: initialise it"),
    "NoModule": (
        Misconfigured,
        "the file that module-path names can't be loaded as a PKCS#11 module",
    ),
    "NoSuchToken": (Transient, "there is no such token now"),
    "ManyTokens": (Misconfigured, "more than one token is like this: add its serial="),
    "NoSuchKey": (KeyMissing, "the token has no such key"),
    "ManyKeys": (Misconfigured, "more than one key is like this: add its id="),
    "NotAes256": (Misconfigured, "the key is not one of AES with 256 bits"),
    "NotForEncryption": (
        Misconfigured,
        "the key may not encrypt and decrypt (CKA_ENCRYPT, CKA_DECRYPT)",
    ),
    "NotSensitive": (
        Misconfigured,
        (
            "whoever has the PIN can read the key out (CKA_SENSITIVE is false): make one that is "
            "sensitive"
        ),
    ),
    "NoId": (Misconfigured, "the key has no id (CKA_ID), by which rows could name it: set one"),
    "NoGcm": (
        Misconfigured,
        "the token has no AES-GCM (CKM_AES_GCM): nothing else of PKCS#11 binds a wrap to its user",
    ),
    "MechanismInvalid": (Misconfigured, "the token does not do AES-GCM with this key"),
    "MechanismParamInvalid": (
        Misconfigured,
        (
            "the token refuses the parameters of AES-GCM: an IV of 12 bytes, associated data, a "
            "tag of 128 bits"
        ),
    ),
    "FunctionNotPermitted": (Misconfigured, "the token does not permit this use of the key"),
}
for _name in ("PinInvalid", "PinLenRange"):
    _MEANINGS[_name] = _MEANINGS["PinIncorrect"]


def meaning(uri: KekUri, doing: str, name: object) -> KekError:
    """Return the error that a name stands for.

    Args:
        uri: for the message.
        doing: what failed.
        name: as the process of the module sent it; what looks like none stays out of the message.

    Returns:
        For an unknown one :class:`Transient`: that stops nothing for good.
    """
    text = name if isinstance(name, str) and _NAME.fullmatch(name) else "no readable name"
    kind, phrase = _MEANINGS.get(text, (Transient, "the module fails for now"))
    start = "KEK " if issubclass(kind, Misconfigured) else ""
    return kind(f"{start}{uri.text}: {doing}: {phrase} ({text})")
