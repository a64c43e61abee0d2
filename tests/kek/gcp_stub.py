"""Google Cloud KMS on loopback: a stub of ours, by its REST reference. No real one is to be had."""

import base64
import json
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import google_crc32c
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.http_servers import Asked, HttpServer, serving
from tests.leaks import remember

RING = "projects/custody-test/locations/europe-west3/keyRings/ring"
_KEY_NUMBER_SIZE, _NONCE_SIZE = 4, 12


@dataclass
class Key:
    """A CryptoKey.

    Args:
        name: its resource name.
    """

    name: str
    purpose: str = "ENCRYPT_DECRYPT"
    primary: int = 1
    versions: dict[int, bytes] = field(default_factory=lambda: {1: secrets.token_bytes(32)})
    states: dict[int, str] = field(default_factory=lambda: {1: "ENABLED"})

    def rotate(self) -> None:
        """Make another version the primary one."""
        self.primary = max(self.versions) + 1
        self.versions[self.primary] = secrets.token_bytes(32)
        self.states[self.primary] = "ENABLED"

    def version(self, number: int) -> str:
        return f"{self.name}/cryptoKeyVersions/{number}"


class Refused(Exception):
    """An error as Google's API gives it."""

    def __init__(self, status: int, code: str, text: str = "") -> None:
        super().__init__(code)
        self.status, self.code, self.text = status, code, text


Fault: TypeAlias = Callable[[Asked], None]


class GcpStub(HttpServer):
    """KMS and the token endpoint.

    ``faults`` is what is done instead of ``get``, ``encrypt``, ``decrypt`` or ``token``.
    """

    def __init__(self) -> None:
        super().__init__(self._respond)
        self.keys: dict[str, Key] = {}
        self.faults: dict[str, Fault] = {}
        self.tokens: dict[str, float] = {}
        self.lifetime = 3600.0
        self.asked: list[str] = []

    def make_key(self, name: str = "kek") -> Key:
        key = Key(f"{RING}/cryptoKeys/{name}")
        self.keys[key.name] = key
        return key

    def environ(self, folder: Path) -> dict[str, str]:
        """Write a service account's file; return the variables of a host that uses it."""
        account = {
            "type": "service_account",
            "client_email": "custody@custody-test.iam.gserviceaccount.com",
            "private_key": _private_key(),
            "private_key_id": "1",
            "token_uri": f"{self.url}/token",
        }
        file = folder / "account.json"
        file.write_text(json.dumps(account), "utf-8")
        return {
            "GOOGLE_APPLICATION_CREDENTIALS": str(file),
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDKMS": self.url,
        }

    def _respond(self, asked: Asked) -> None:
        _, _, operation = asked.path.partition(":")
        operation = "token" if asked.path == "/token" else operation or "get"
        self.asked.append(operation)
        try:
            if fault := self.faults.get(operation):
                fault(asked)
            elif operation == "token":
                self._token(asked)
            else:
                self._check(asked)
                body = json.loads(asked.body) if asked.body else {}
                say(asked, getattr(self, f"_{operation}")(asked.path, body))
        except Refused as error:
            # A careless server: its text repeats what was sent.
            text = f"{error.text} {asked.body.decode()}"
            problem = {"code": error.status, "message": text, "status": error.code}
            say(asked, {"error": problem}, error.status)

    def _token(self, asked: Asked) -> None:
        token = remember(secrets.token_urlsafe(24))
        self.tokens[token] = time.monotonic() + self.lifetime
        say(asked, {"access_token": token, "expires_in": self.lifetime, "token_type": "Bearer"})

    def _check(self, asked: Asked) -> None:
        token = (asked.headers.get("Authorization") or "").removeprefix("Bearer ")
        if self.tokens.get(token, 0.0) < time.monotonic():
            raise Refused(401, "UNAUTHENTICATED")

    def _key(self, path: str) -> Key:
        name = path.removeprefix("/v1/").partition(":")[0].partition("/cryptoKeyVersions/")[0]
        if name not in self.keys:
            raise Refused(404, "NOT_FOUND", f"CryptoKey {name} not found.")
        return self.keys[name]

    def _get(self, path: str, _body: Any) -> dict[str, Any]:
        key = self._key(path)
        primary = {"name": key.version(key.primary), "state": key.states[key.primary]}
        return {"name": key.name, "purpose": key.purpose, "primary": primary}

    def _encrypt(self, path: str, body: dict[str, str]) -> dict[str, Any]:
        key = self._key(path)
        number = int(path.partition("/cryptoKeyVersions/")[2].partition(":")[0] or key.primary)
        plaintext, aad = _whole(body, "plaintext"), _whole(body, "additionalAuthenticatedData")
        nonce = secrets.token_bytes(_NONCE_SIZE)
        blob = number.to_bytes(_KEY_NUMBER_SIZE) + nonce
        blob += AESGCM(_material(key, number)).encrypt(nonce, plaintext, aad)
        return {
            "name": key.version(number),
            "ciphertext": base64.b64encode(blob).decode(),
            "ciphertextCrc32c": str(google_crc32c.value(blob)),
            "verifiedPlaintextCrc32c": True,
            "verifiedAdditionalAuthenticatedDataCrc32c": True,
        }

    def _decrypt(self, path: str, body: dict[str, str]) -> dict[str, Any]:
        key = self._key(path)
        blob, aad = _whole(body, "ciphertext"), _whole(body, "additionalAuthenticatedData")
        number, rest = int.from_bytes(blob[:_KEY_NUMBER_SIZE]), blob[_KEY_NUMBER_SIZE:]
        if number not in key.versions:
            raise Refused(400, "INVALID_ARGUMENT", "Decryption failed: the ciphertext is invalid.")
        try:
            opened = AESGCM(_material(key, number)).decrypt(
                rest[:_NONCE_SIZE], rest[_NONCE_SIZE:], aad
            )
        except (InvalidTag, ValueError):
            text = "Decryption failed: the ciphertext is invalid."
            raise Refused(400, "INVALID_ARGUMENT", text) from None
        return {
            "plaintext": base64.b64encode(opened).decode(),
            "plaintextCrc32c": str(google_crc32c.value(opened)),
            "usedPrimary": number == key.primary,
        }


@cache
def _private_key() -> str:
    """Return the private key of the service account: one, as it takes long to make."""
    made = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return remember(made.decode())


def _material(key: Key, number: int) -> bytes:
    if key.states.get(number) != "ENABLED":
        raise Refused(400, "FAILED_PRECONDITION", f"is not enabled: {key.states.get(number)}")
    return key.versions[number]


def _whole(body: dict[str, str], name: str) -> bytes:
    value = base64.b64decode(body[name], validate=True)
    if body[f"{name}Crc32c"] != str(google_crc32c.value(value)):
        raise Refused(400, "INVALID_ARGUMENT", "The checksum does not match.")
    return value


def say(asked: Asked, answer: Any, status: int = 200) -> None:
    asked.say(json.dumps(answer).encode(), status)


def refuse(status: int, code: str) -> Fault:
    def fault(_asked: Asked) -> None:
        raise Refused(status, code)

    return fault


def gcp_stub() -> AbstractContextManager[GcpStub]:
    """Run a stub for the length of the block."""
    return serving(GcpStub())
