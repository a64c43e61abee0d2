"""What the web client does with the vault, in Python: the other side of every promise.

It is a port of the behaviour, not of the code: recovery wraps are AES-256-GCM under a key that
HKDF-SHA256 derives from a 32-byte recovery code, and records are encrypted with the master key.
"""

import asyncio
import base64
import secrets
from collections.abc import Mapping
from typing import Any

import aiohttp
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tests.client import Answer, Client, generation_of
from tests.leaks import remember
from tests.servers import Daemon

_INFO = b"mana-recovery-v1"
_IV_SIZE = 12
# What an old device must not do to a newer key.
_CHANGES = {"/recovery-wrap", "/zero-knowledge", "/rotate"}
_TRIES = 4  # the first and three more
_WAIT_SECONDS = 0.2


class NeedsRecoveryCode(Exception):
    """The vault is in zero-knowledge mode and this device has no code."""


def new_recovery_code() -> bytes:
    """Return a recovery code as a user would note it down: 32 random bytes."""
    code = secrets.token_bytes(32)
    remember(encode(code))
    return code


def encode(data: bytes) -> str:
    """Encode as standard base64."""
    return base64.b64encode(data).decode()


def recovery_key(code: bytes) -> bytes:
    """Derive the key of recovery wraps from a code."""
    key = HKDF(algorithm=hashes.SHA256(), length=32, salt=b"", info=_INFO).derive(code)
    remember(encode(key))
    return key


def seal_recovery(code: bytes, master_key: bytes) -> tuple[str, str]:
    """Wrap a master key under a recovery code: 48 bytes and a 12-byte IV, in base64."""
    iv = secrets.token_bytes(_IV_SIZE)
    return encode(AESGCM(recovery_key(code)).encrypt(iv, master_key, None)), encode(iv)


def open_recovery(code: bytes, blob: Mapping[str, Any]) -> bytes:
    """Unwrap the master key of a recovery blob.

    Raises:
        InvalidTag: the code is another one.
    """
    iv, wrapped = (base64.b64decode(blob[name]) for name in ("recoveryIv", "recoveryWrappedMk"))
    key = AESGCM(recovery_key(code)).decrypt(iv, wrapped, None)
    remember(encode(key))
    return key


class Browser(Client):
    """One device of a user, with the web client inside.

    Attributes:
        held: the key that this device holds; nothing while it is locked.
        generation: of the key that it saw last; what it changes must be of that one.
        answers: every answer it got, in order.
    """

    def __init__(self, daemon: Daemon, session: aiohttp.ClientSession, user: str) -> None:
        super().__init__(daemon, session, user)
        self.held = b""
        self.generation = 0
        self.answers: list[Answer] = []

    async def sign_in(self, code: bytes | None = None) -> None:
        """Unlock: fetch the key, make the vault at the first time, or open the recovery wrap.

        Raises:
            NeedsRecoveryCode: in zero-knowledge mode without a code.
            InvalidTag: the code does not open the wrap.
        """
        answer = await self.key()
        if answer.status == 404 and answer.code == "VAULT_NOT_INITIALISED":
            answer = await self.init()
        self.unlock(answer, code)

    def unlock(self, answer: Answer, code: bytes | None = None) -> None:
        """Take the key out of an answer."""
        self.generation = generation_of(answer)
        self.held = b""
        if answer.json.get("requiresRecoveryCode") is not True:
            self.held = base64.b64decode(answer.json["masterKey"], validate=True)
        elif code is None:
            raise NeedsRecoveryCode
        else:
            self.held = open_recovery(code, answer.json)
        assert len(self.held) == 32

    async def keep(self, code: bytes) -> Answer:
        """Store a recovery wrap of the key that this device holds."""
        return await self.set_recovery(*seal_recovery(code, self.held))

    async def call(self, method: str, path: str, body: Any = None, **options: Any) -> Answer:
        """Call a route; 408, 429, 5xx and network errors are tried again three times.

        A fresh key is held at once.
        """
        if path in _CHANGES:
            options["if_match"] = f'"{self.generation}"'
        for left in reversed(range(_TRIES)):
            try:
                answer = await super().call(method, path, body, **options)
            except aiohttp.ClientConnectionError:
                if not left:
                    raise
            else:
                self.answers.append(answer)
                if not left or (answer.status < 500 and answer.status not in {408, 429}):
                    break
            await asyncio.sleep(_WAIT_SECONDS)
        # The client parses every 2xx as JSON: an empty one would throw.
        assert isinstance(answer.json, dict)
        if path == "/rotate" and answer.status == 200:
            self.unlock(answer)
        return answer

    def encrypt(self, text: bytes) -> tuple[bytes, bytes]:
        """Encrypt a record with the master key; return its IV and what only that key opens."""
        iv = secrets.token_bytes(_IV_SIZE)
        return iv, AESGCM(self.held).encrypt(iv, text, None)

    def decrypt(self, record: tuple[bytes, bytes]) -> bytes:
        """Open a record.

        Raises:
            InvalidTag: it was encrypted under another key.
        """
        return AESGCM(self.held).decrypt(*record, None)
