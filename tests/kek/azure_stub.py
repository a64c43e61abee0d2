"""Azure Key Vault and Managed HSM on loopback, over TLS: a stub of ours, by the REST reference.

No real one is to be had. Entra ID, which gives the tokens, is in it.
"""

import base64
import json
import secrets
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.certificates import make_certificate
from tests.http_servers import Asked, HttpServer, serving
from tests.leaks import remember

TENANT = "9f1d2e3c-0000-4000-8000-1234567890ab"
_OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
_TAG_SIZE = 16


@dataclass
class Key:
    """A key: its kind, and the material of each version."""

    id: str
    kty: str
    versions: dict[str, Any] = field(default_factory=dict)
    disabled: set[str] = field(default_factory=set)
    current: str = ""

    def rotate(self) -> None:
        self.current = secrets.token_hex(16)
        material = _rsa(len(self.versions)) if self.kty != "oct-HSM" else secrets.token_bytes(32)
        self.versions[self.current] = material

    @property
    def uri(self) -> str:
        return f"azure-kv:{self.id}"


class Refused(Exception):
    """An error as Azure gives it."""

    def __init__(self, status: int, code: str, inner: str = "") -> None:
        super().__init__(code)
        self.status, self.code, self.inner = status, code, inner


Fault: TypeAlias = Callable[[Asked], None]


class AzureStub(HttpServer):
    """Key Vault and Entra ID.

    ``faults`` is what is done instead of ``get``, ``token``, ``encrypt``, ``wrapkey`` and so on.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(self._respond)
        cert, key = make_certificate(folder)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        # In the thread of its connection, not in the one that accepts.
        self.socket = context.wrap_socket(
            self.socket, server_side=True, do_handshake_on_connect=False
        )
        self.url = self.url.replace("http:", "https:")
        self.keys: dict[str, Key] = {}
        self.faults: dict[str, Fault] = {}
        self.tokens: dict[str, float] = {}
        self.lifetime = 3600
        self.asked: list[str] = []
        self.environ = {
            "AZURE_TENANT_ID": TENANT,
            "AZURE_CLIENT_ID": "custody",
            "AZURE_CLIENT_SECRET": remember(secrets.token_urlsafe(24)),
            "AZURE_AUTHORITY_HOST": self.url,
            "REQUESTS_CA_BUNDLE": str(cert),
        }

    def make_key(self, name: str = "kek", kty: str = "RSA-HSM") -> Key:
        key = Key(f"{self.url}/keys/{name}", kty)
        key.rotate()
        self.keys[name] = key
        return key

    def _respond(self, asked: Asked) -> None:
        path = asked.path.partition("?")[0].strip("/").split("/")
        operation = path[3] if len(path) > 3 and path[0] == "keys" else "get"
        if path[0] == TENANT:
            operation = "token" if path[-1] == "token" else "discovery"
        self.asked.append(operation)
        try:
            if fault := self.faults.get(operation):
                fault(asked)
            elif operation == "discovery":
                self._discover(asked)
            elif operation == "token":
                self._token(asked)
            else:
                self._use(asked, path, operation)
        except Refused as error:
            # A careless server: its text repeats what was sent.
            problem = {"code": error.code, "message": f"refused: {asked.body.decode()}"}
            inner = {"innererror": {"code": error.inner}} if error.inner else {}
            say(asked, {"error": problem | inner}, error.status)

    def _discover(self, asked: Asked) -> None:
        base = f"{self.url}/{TENANT}"
        say(
            asked,
            {
                "issuer": f"{base}/v2.0",
                "token_endpoint": f"{base}/oauth2/v2.0/token",
                "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
            },
        )

    def _token(self, asked: Asked) -> None:
        token = remember(secrets.token_urlsafe(24))
        self.tokens[token] = time.monotonic() + self.lifetime
        say(asked, {"access_token": token, "expires_in": self.lifetime, "token_type": "Bearer"})

    def _use(self, asked: Asked, path: list[str], operation: str) -> None:
        token = (asked.headers.get("Authorization") or "").removeprefix("Bearer ")
        if self.tokens.get(token, 0.0) < time.monotonic():
            raise Refused(401, "Unauthorized")
        key = self.keys.get(path[1])
        if key is None:
            raise Refused(404, "KeyNotFound")
        if operation == "get":
            kid = f"{key.id}/{key.current}"
            enabled = key.current not in key.disabled
            say(asked, {"key": {"kid": kid, "kty": key.kty}, "attributes": {"enabled": enabled}})
            return
        version = path[2]
        if version not in key.versions:
            raise Refused(404, "KeyNotFound")
        if version in key.disabled:
            raise Refused(403, "Forbidden", "KeyDisabled")
        sent = json.loads(asked.body)
        alg = sent.pop("alg")
        values = {name: _bytes(value) for name, value in sent.items()}
        work: Any = {
            ("encrypt", "A256GCM"): _gcm_encrypt,
            ("decrypt", "A256GCM"): _gcm_decrypt,
            ("wrapkey", "RSA-OAEP-256"): _rsa_wrap,
            ("unwrapkey", "RSA-OAEP-256"): _rsa_unwrap,
        }.get((operation, alg))
        is_symmetric = isinstance(key.versions[version], bytes)
        if work is None or (alg == "A256GCM") is not is_symmetric:
            raise Refused(400, "BadParameter")
        try:
            done = work(key.versions[version], **values)
        except (InvalidTag, ValueError, TypeError):
            raise Refused(400, "BadParameter") from None
        answer = {name: _text(value) for name, value in done.items()}
        say(asked, {"kid": f"{key.id}/{version}", **answer})


def _gcm_encrypt(key: bytes, value: bytes, aad: bytes) -> dict[str, bytes]:
    iv = secrets.token_bytes(12)
    sealed = AESGCM(key).encrypt(iv, value, aad)
    return {"iv": iv, "value": sealed[:-_TAG_SIZE], "tag": sealed[-_TAG_SIZE:], "aad": aad}


def _gcm_decrypt(key: bytes, value: bytes, iv: bytes, tag: bytes, aad: bytes) -> dict[str, bytes]:
    return {"value": AESGCM(key).decrypt(iv, value + tag, aad)}


def _rsa_wrap(key: rsa.RSAPrivateKey, value: bytes) -> dict[str, bytes]:
    return {"value": key.public_key().encrypt(value, _OAEP)}


def _rsa_unwrap(key: rsa.RSAPrivateKey, value: bytes) -> dict[str, bytes]:
    return {"value": key.decrypt(value, _OAEP)}


@cache
def _rsa(number: int) -> rsa.RSAPrivateKey:
    """Return the material of a version: few in all, as they take long to make."""
    del number
    return rsa.generate_private_key(65537, 2048)


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _text(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def say(asked: Asked, answer: Any, status: int = 200) -> None:
    asked.say(json.dumps(answer).encode(), status)


def refuse(status: int, code: str, inner: str = "") -> Fault:
    def fault(_asked: Asked) -> None:
        raise Refused(status, code, inner)

    return fault


@contextmanager
def azure_stub(folder: Path) -> Iterator[AzureStub]:
    """Run a stub for the length of the block."""
    with serving(AzureStub(folder)) as stub:
        yield stub
