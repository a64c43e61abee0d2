"""A small KMS on loopback that speaks AWS's JSON protocol, honestly or with a chosen fault."""

import base64
import json
import os
import socket
import struct
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.http_servers import Asked, HttpServer, serving
from tests.moto_server import REGION, Moto

ACCOUNT = "111122223333"

KIND = "application/x-amz-json-1.1"

Request: TypeAlias = Mapping[str, Any]


class Refused(Exception):
    """An error answer of KMS: code, text, HTTP status."""

    def __init__(self, code: str, message: str = "", status: int = 400) -> None:
        super().__init__(code, message, status)


@dataclass
class Key:
    """A key of the stub."""

    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    state: str = "Enabled"
    usage: str = "ENCRYPT_DECRYPT"
    spec: str = "SYMMETRIC_DEFAULT"
    cipher: AESGCM = field(default_factory=lambda: AESGCM(os.urandom(32)))

    @property
    def arn(self) -> str:
        return f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{self.id}"


class KmsStub(HttpServer):
    """What the server knows. Tests change it while it runs.

    ``faults`` holds what is done instead of answering, by operation, or for all under ``*``.
    """

    def __init__(self) -> None:
        super().__init__(self._respond)
        self.keys: dict[str, Key] = {}
        self.aliases: dict[str, str] = {}
        self.denied: set[str] = set()
        self.faults: dict[str, Fault] = {}
        self.requests: list[tuple[str, Request]] = []

    def make_key(self, alias: str | None = None, **fields: Any) -> Key:
        key = Key(**fields)
        self.keys[key.id] = key
        if alias is not None:
            self.aliases[alias] = key.id
        return key

    @property
    def environ(self) -> dict[str, str]:
        return Moto(self.url).environ

    def asked(self, operation: str) -> list[Request]:
        return [request for name, request in self.requests if name == operation]

    def answer(self, operation: str, request: Request) -> dict[str, Any]:
        """Answer honestly.

        Raises:
            Refused: as KMS would.
        """
        rewraps = operation == "ReEncrypt"
        for right in ("ReEncryptFrom", "ReEncryptTo") if rewraps else (operation,):
            if right in self.denied:
                raise Refused("AccessDeniedException", f"not authorized: kms:{right}")
        if operation == "DescribeKey":
            key = self._key(request["KeyId"])
            said = {"KeyId": key.id, "Arn": key.arn, "KeyState": key.state}
            said |= {"KeyUsage": key.usage, "KeySpec": key.spec}
            return {"KeyMetadata": {**said, "Enabled": key.state == "Enabled"}}
        if operation == "Encrypt":
            return self._seal(request, request["Plaintext"])
        key, plaintext = self._open(request, "Source" if rewraps else "")
        if operation == "Decrypt":
            return {"KeyId": key.arn, "Plaintext": plaintext}
        return {**self._seal(request, plaintext, "Destination"), "SourceKeyId": key.arn}

    def changed(self, **fields: Any) -> "Fault":
        """Answer honestly, but for these fields."""
        return lambda asked, name, request: say(asked, self.answer(name, request) | fields)

    def _respond(self, asked: Asked) -> None:
        # STS, where credentials come from, speaks another protocol: it is here for its faults.
        operation = asked.headers.get("X-Amz-Target", "STS").removeprefix("TrentService.")
        request = {} if operation == "STS" else json.loads(asked.body)
        self.requests.append((operation, request))
        fault = self.faults.get(operation) or self.faults.get("*")
        try:
            if fault is not None:
                fault(asked, operation, request)
            else:
                say(asked, self.answer(operation, request))
        except Refused as refused:
            code, message, status = refused.args
            # A careless server: its text repeats the request, plaintext and all.
            say(asked, {"__type": code, "message": f"{message} {json.dumps(request)}"}, status)

    def _key(self, name: str) -> Key:
        name = name.removeprefix(f"arn:aws:kms:{REGION}:{ACCOUNT}:").removeprefix("key/")
        key = self.keys.get(self.aliases.get(name, name))
        if key is None:
            raise Refused("NotFoundException", f"{name} does not exist")
        return key

    def _usable(self, name: str) -> Key:
        key = self._key(name)
        if key.state != "Enabled":
            disabled = key.state == "Disabled"
            raise Refused("DisabledException" if disabled else "KMSInvalidStateException")
        if key.usage != "ENCRYPT_DECRYPT":
            raise Refused("InvalidKeyUsageException")
        return key

    def _seal(self, request: Request, plaintext: str, side: str = "") -> dict[str, Any]:
        key, nonce = self._usable(request[f"{side}KeyId"]), os.urandom(12)
        aad = key.id.encode() + _aad(request[f"{side}EncryptionContext"])
        sealed = key.cipher.encrypt(nonce, base64.b64decode(plaintext), aad)
        blob = base64.b64encode(key.id.encode() + nonce + sealed).decode()
        return {"KeyId": key.arn, "CiphertextBlob": blob}

    def _open(self, request: Request, side: str) -> tuple[Key, str]:
        key, raw = (
            self._usable(request[f"{side}KeyId"]),
            base64.b64decode(request["CiphertextBlob"]),
        )
        if request.get("DryRun"):
            raise Refused("DryRunOperationException")
        if raw[:36] in {other.encode() for other in self.keys} - {key.id.encode()}:
            raise Refused("IncorrectKeyException")
        try:
            aad = raw[:36] + _aad(request[f"{side}EncryptionContext"])
            opened = key.cipher.decrypt(raw[36:48], raw[48:], aad)
        except (InvalidTag, ValueError):
            raise Refused("InvalidCiphertextException") from None
        return key, base64.b64encode(opened).decode()


def _aad(context: Request) -> bytes:
    return json.dumps(context, sort_keys=True).encode()


def say(asked: Asked, answer: Any, status: int = 200) -> None:
    """Answer as the protocol has it."""
    asked.say(json.dumps(answer).encode(), status, KIND)


Fault: TypeAlias = Callable[[Asked, str, Request], None]


def refuse(code: str, status: int = 400) -> Fault:
    def fault(asked: Asked, operation: str, request: Request) -> None:
        raise Refused(code, status=status)

    return fault


def raw(body: bytes, status: int = 200, kind: str = KIND) -> Fault:
    return lambda asked, operation, request: asked.say(body, status, kind)


def endless(head: bytes, piece: bytes, pause: float = 0.05) -> Fault:
    """Begin an answer, and never end it."""

    def fault(asked: Asked, operation: str, request: Request) -> None:
        asked.close_connection = True
        asked.wfile.write(head)
        while not asked.server.closing.wait(pause):
            asked.wfile.write(piece)

    return fault


silence = endless(b"", b"")
drip_headers = endless(b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x")
drip_body = endless(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b" ")
flood = endless(b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n\r\n" % KIND.encode(), b" " * 65536, 0)


def reset(asked: Asked, operation: str, request: Request) -> None:
    linger = struct.pack("ii", 1, 0)
    asked.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    asked.connection.close()
    raise ConnectionResetError


def kms_stub() -> AbstractContextManager[KmsStub]:
    """Run a stub for the length of the block."""
    return serving(KmsStub())
