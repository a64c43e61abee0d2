"""A small KMS on loopback that speaks AWS's JSON protocol, honestly or with a chosen fault."""

import base64
import json
import os
import socket
import struct
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

REGION = "eu-central-1"
ACCOUNT = "111122223333"
SECRET_ACCESS_KEY = "stub/secret/access/key/of/nobody"

Request: TypeAlias = Mapping[str, Any]


class Refused(Exception):
    """An error answer of KMS."""

    def __init__(self, code: str, message: str = "", status: int = 400) -> None:
        super().__init__(code)
        self.code = code
        self.message = message
        self.status = status


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


class KmsStub:
    """What the server knows. Tests change it while it runs.

    ``faults`` holds what is done instead of answering, by operation, or for all under ``*``.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.keys: dict[str, Key] = {}
        self.aliases: dict[str, str] = {}
        self.denied: set[str] = set()
        self.faults: dict[str, Fault] = {}
        self.requests: list[tuple[str, Request]] = []
        self.closing = threading.Event()

    def make_key(self, alias: str | None = None, **fields: Any) -> Key:
        key = Key(**fields)
        self.keys[key.id] = key
        if alias is not None:
            self.aliases[alias] = key.id
        return key

    @property
    def environ(self) -> dict[str, str]:
        return {
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL_KMS": self.url,
            "AWS_ACCESS_KEY_ID": "AKIASTUBSTUBSTUBSTUB",
            "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
        }

    def asked(self, operation: str) -> list[Request]:
        return [request for name, request in self.requests if name == operation]

    def answer(self, operation: str, request: Request) -> dict[str, Any]:
        """Answer honestly.

        Raises:
            Refused: as KMS would.
        """
        if operation in self.denied:
            raise Refused("AccessDeniedException", f"not authorized: kms:{operation}")
        if operation == "DescribeKey":
            key = self._key(request["KeyId"])
            said = {"KeyId": key.id, "Arn": key.arn, "KeyState": key.state}
            said |= {"KeyUsage": key.usage, "KeySpec": key.spec}
            return {"KeyMetadata": {**said, "Enabled": key.state == "Enabled"}}
        if operation == "Encrypt":
            return self._seal(request["KeyId"], request["Plaintext"], request["EncryptionContext"])
        if operation == "Decrypt":
            key, plaintext = self._open(
                request["KeyId"], request["CiphertextBlob"], request["EncryptionContext"], request
            )
            return {"KeyId": key.arn, "Plaintext": plaintext}
        for right in ("ReEncryptFrom", "ReEncryptTo"):
            if right in self.denied:
                raise Refused("AccessDeniedException", f"not authorized: kms:{right}")
        context = request["SourceEncryptionContext"]
        source, plaintext = self._open(
            request["SourceKeyId"], request["CiphertextBlob"], context, request
        )
        context = request["DestinationEncryptionContext"]
        sealed = self._seal(request["DestinationKeyId"], plaintext, context)
        return {**sealed, "SourceKeyId": source.arn}

    def _key(self, name: str, *, usable: bool = False) -> Key:
        name = name.removeprefix(f"arn:aws:kms:{REGION}:{ACCOUNT}:").removeprefix("key/")
        key = self.keys.get(self.aliases.get(name, name))
        if key is None:
            raise Refused("NotFoundException", f"{name} does not exist")
        if usable and key.state == "Disabled":
            raise Refused("DisabledException")
        if usable and key.state != "Enabled":
            raise Refused("KMSInvalidStateException")
        if usable and key.usage != "ENCRYPT_DECRYPT":
            raise Refused("InvalidKeyUsageException")
        return key

    def _seal(self, name: str, plaintext: str, context: Request) -> dict[str, Any]:
        key, nonce = self._key(name, usable=True), os.urandom(12)
        sealed = key.cipher.encrypt(nonce, base64.b64decode(plaintext), _aad(context))
        blob = base64.b64encode(key.id.encode() + nonce + sealed).decode()
        return {"KeyId": key.arn, "CiphertextBlob": blob}

    def _open(self, name: str, blob: str, context: Request, request: Request) -> tuple[Key, str]:
        key, raw = self._key(name, usable=True), base64.b64decode(blob)
        if request.get("DryRun"):
            raise Refused("DryRunOperationException")
        if raw[:36] in {other.encode() for other in self.keys} - {key.id.encode()}:
            raise Refused("IncorrectKeyException")
        if raw[:36] != key.id.encode():
            raise Refused("InvalidCiphertextException")
        try:
            opened = key.cipher.decrypt(raw[36:48], raw[48:], _aad(context))
        except (InvalidTag, ValueError):
            raise Refused("InvalidCiphertextException") from None
        return key, base64.b64encode(opened).decode()


def _aad(context: Request) -> bytes:
    return json.dumps(context, sort_keys=True).encode()


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    stub: KmsStub

    def do_POST(self) -> None:
        # STS, where credentials come from, speaks another protocol: it is here for its faults.
        operation = self.headers.get("X-Amz-Target", "STS").removeprefix("TrentService.")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        request = {} if operation == "STS" else json.loads(body)
        self.stub.requests.append((operation, request))
        fault = self.stub.faults.get(operation) or self.stub.faults.get("*")
        try:
            if fault is not None:
                fault(self, operation, request)
            else:
                self.say(self.stub.answer(operation, request))
        except Refused as refused:
            # A careless server: its text repeats the request, plaintext and all.
            text = f"{refused.message} {json.dumps(request)}"
            self.say({"__type": refused.code, "message": text}, refused.status)
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def say(self, answer: Any, status: int = 200) -> None:
        self.say_raw(json.dumps(answer).encode(), status, "application/x-amz-json-1.1")

    def say_raw(self, body: bytes, status: int, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def drip(self, piece: bytes) -> None:
        while not self.stub.closing.wait(0.05):
            self.wfile.write(piece)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as its base has it
        pass


Fault: TypeAlias = Callable[[Handler, str, Request], None]


def refuse(code: str, status: int = 400) -> Fault:
    def fault(handler: Handler, operation: str, request: Request) -> None:
        raise Refused(code, status=status)

    return fault


def raw(body: bytes, status: int = 200, kind: str = "application/x-amz-json-1.1") -> Fault:
    return lambda handler, operation, request: handler.say_raw(body, status, kind)


def change(**fields: Any) -> Fault:
    """Answer honestly, but for these fields."""
    return lambda handler, operation, request: handler.say(
        handler.stub.answer(operation, request) | fields
    )


def reset(handler: Handler, operation: str, request: Request) -> None:
    linger = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.connection.close()
    raise ConnectionResetError


def silence(handler: Handler, operation: str, request: Request) -> None:
    handler.stub.closing.wait()
    raise ConnectionResetError


def drip_headers(handler: Handler, operation: str, request: Request) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    handler.drip(b"x")


def drip_body(handler: Handler, operation: str, request: Request) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    handler.drip(b" ")


def flood(handler: Handler, operation: str, request: Request) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.1\r\n\r\n")
    while not handler.stub.closing.is_set():
        handler.wfile.write(b" " * 65536)


@contextmanager
def kms_stub() -> Iterator[KmsStub]:
    """Run a stub for the length of the block."""
    handler = type("StubHandler", (Handler,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        stub = KmsStub(f"http://127.0.0.1:{server.server_port}")
        handler.stub = stub  # type: ignore[attr-defined]
        serving = threading.Thread(target=server.serve_forever, args=(0.05,))
        serving.start()
        try:
            yield stub
        finally:
            stub.closing.set()
            server.shutdown()
            serving.join()
