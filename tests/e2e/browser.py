"""What the web client does with the vault, in Python: the other side of every promise.

It is a port of the behaviour, not of the code: recovery wraps are AES-256-GCM under a key that
HKDF-SHA256 derives from a 32-byte recovery code, and records are encrypted with the master key.
"""

import asyncio
import base64
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tests.client import Answer, Client
from tests.leaks import remember
from tests.servers import Daemon

_INFO = b"mana-recovery-v1"
_IV_SIZE = 12
_TRIES = 4  # the first and three more
_WAIT_SECONDS = 0.2


class NeedsRecoveryCode(Exception):
    """The vault is in zero-knowledge mode and this device has no code."""


class WrongRecoveryCode(Exception):
    """The code does not open the recovery wrap."""


def new_recovery_code() -> bytes:
    """Return a recovery code as a user would note it down: 32 random bytes."""
    code = secrets.token_bytes(32)
    remember(encode(code))
    return code


def encode(data: bytes) -> str:
    """Encode as standard base64."""
    return base64.b64encode(data).decode()


def tag_of(answer: Answer) -> str:
    """Return the ETag of an answer; names of headers come in any case."""
    return next(value for name, value in answer.headers.items() if name.lower() == "etag")


def generation_of(answer: Answer) -> int:
    """Return the generation that an answer's ETag names."""
    tag = tag_of(answer)
    assert tag.startswith('"')
    assert tag.endswith('"')
    return int(tag[1:-1])


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
        WrongRecoveryCode: it does not open.
    """
    iv, wrapped = (base64.b64decode(blob[name]) for name in ("recoveryIv", "recoveryWrappedMk"))
    try:
        key = AESGCM(recovery_key(code)).decrypt(iv, wrapped, None)
    except InvalidTag:
        raise WrongRecoveryCode from None
    remember(encode(key))
    return key


@dataclass(frozen=True)
class Record:
    """A record as the app stores it: only the master key opens it."""

    iv: bytes
    ciphertext: bytes


class Browser:
    """One device of a user, with the web client inside.

    Attributes:
        key: the master key it holds, once unlocked.
        etag: the generation it saw last.
        answers: every answer it got, in order.
    """

    def __init__(self, daemon: Daemon, session: aiohttp.ClientSession, user: str) -> None:
        self.client = Client(daemon, session, user)
        self.key: bytes | None = None
        self.etag: str | None = None
        self.answers: list[Answer] = []

    async def sign_in(self, code: bytes | None = None) -> None:
        """Unlock: fetch the key, make the vault at the first time, or open the recovery wrap.

        Raises:
            NeedsRecoveryCode: in zero-knowledge mode without a code.
            WrongRecoveryCode: the code does not open the wrap.
        """
        answer = await self.call("GET", "/key")
        if answer.status == 404 and answer.code == "VAULT_NOT_INITIALISED":
            answer = await self.call("POST", "/init")
        self.unlock(answer, code)

    def unlock(self, answer: Answer, code: bytes | None = None) -> None:
        """Take the key out of an answer."""
        assert answer.status == 200, answer.body
        self.etag = tag_of(answer)
        if answer.json.get("requiresRecoveryCode") is True:
            self.key = None
            if code is None:
                raise NeedsRecoveryCode
            self.key = open_recovery(code, answer.json)
        else:
            self.key = base64.b64decode(answer.json["masterKey"], validate=True)
        assert len(self.key) == 32

    async def set_recovery(self, code: bytes) -> Answer:
        """Store a recovery wrap of the key that this device holds, if nobody has rotated it."""
        wrapped, iv = seal_recovery(code, self.held)
        body = {"recoveryWrappedMk": wrapped, "recoveryIv": iv}
        return await self.call("POST", "/recovery-wrap", body, if_match=self.etag)

    async def clear_recovery(self) -> Answer:
        """Remove the recovery wrap."""
        return await self.call("DELETE", "/recovery-wrap", if_match=self.etag)

    async def enable_zk(self) -> Answer:
        """Turn zero-knowledge mode on."""
        return await self.call("POST", "/zero-knowledge", {"enable": True}, if_match=self.etag)

    async def disable_zk(self, key: bytes | None = None) -> Answer:
        """Turn zero-knowledge mode off with the key that this device holds, or another."""
        body = {"enable": False, "masterKey": encode(key or self.held)}
        return await self.call("POST", "/zero-knowledge", body, if_match=self.etag)

    async def rotate(self) -> Answer:
        """Ask for a fresh key, and hold it if there is one."""
        answer = await self.call("POST", "/rotate", if_match=self.etag)
        if answer.status == 200:
            self.unlock(answer)
        return answer

    async def call(self, method: str, path: str, body: Any = None, **options: Any) -> Answer:
        """Call a route; 408, 429, 5xx and network errors are tried again three times."""
        for left in reversed(range(_TRIES)):
            try:
                answer = await self.client.call(method, path, body, **options)
            except aiohttp.ClientConnectionError:
                if not left:
                    raise
            else:
                self.answers.append(answer)
                again = answer.status in {408, 429} or answer.status >= 500
                if not (again and left):
                    break
            await asyncio.sleep(_WAIT_SECONDS)
        # The client parses every 2xx as JSON: an empty one would throw.
        assert isinstance(answer.json, dict)
        return answer

    @property
    def held(self) -> bytes:
        """The key that this device holds."""
        assert self.key is not None, "locked"
        return self.key

    def encrypt(self, text: bytes) -> Record:
        """Encrypt a record with the master key."""
        iv = secrets.token_bytes(_IV_SIZE)
        return Record(iv, AESGCM(self.held).encrypt(iv, text, None))

    def decrypt(self, record: Record) -> bytes:
        """Open a record.

        Raises:
            InvalidTag: it was encrypted under another key.
        """
        return AESGCM(self.held).decrypt(record.iv, record.ciphertext, None)
