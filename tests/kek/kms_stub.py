"""A KMS on loopback that speaks AWS's JSON protocol, honestly or with a chosen fault."""

import base64
import json
import socket
import struct
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

from moto.core.exceptions import JsonRESTError
from moto.kms.models import Key, KmsBackend

from tests.http_servers import Asked, HttpServer, serving
from tests.moto_server import REGION, Moto

ACCOUNT = "111122223333"

KIND = "application/x-amz-json-1.1"

Request: TypeAlias = Mapping[str, Any]


class Refused(JsonRESTError):
    """An error answer of KMS."""

    def __init__(self, code: str, message: str = "", status: int = 400) -> None:
        super().__init__(code, message)
        self.code = status


class KmsStub(HttpServer):
    """moto's KMS, with the errors that moto leaves out, and with faults.

    ``faults`` holds what is done instead of answering, by operation, or for all under ``*``;
    ``denied`` are the rights that the caller lacks. Both may change while it runs.
    """

    def __init__(self) -> None:
        super().__init__(self._respond)
        self.kms = KmsBackend(REGION, ACCOUNT)
        self.denied: set[str] = set()
        self.faults: dict[str, Fault] = {}
        self.requests: list[tuple[str, Request]] = []

    def make_key(
        self, alias: str = "", usage: str = "ENCRYPT_DECRYPT", spec: str = "SYMMETRIC_DEFAULT"
    ) -> Key:
        key = self.kms.create_key(None, usage, spec, "", None)
        if alias:
            self.kms.create_alias(key.id, alias)
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
            return self._key(request["KeyId"]).to_dict()
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
        except JsonRESTError as refused:
            # A careless server: its text repeats the request, plaintext and all.
            message = f"{refused.message} {json.dumps(request)}"
            say(asked, {"__type": refused.error_type, "message": message}, refused.code)

    def _key(self, name: str) -> Key:
        for key in list(self.kms.list_keys()):
            if name in (key.id, key.arn, *key.aliases):
                return key
        raise Refused("NotFoundException", f"{name} does not exist")

    def _usable(self, name: str) -> Key:
        key = self._key(name)
        if key.key_state != "Enabled":
            disabled = key.key_state == "Disabled"
            raise Refused("DisabledException" if disabled else "KMSInvalidStateException")
        if key.key_usage != "ENCRYPT_DECRYPT":
            raise Refused("InvalidKeyUsageException")
        return key

    def _seal(self, request: Request, plaintext: str, side: str = "") -> dict[str, Any]:
        key, context = self._usable(request[f"{side}KeyId"]), request[f"{side}EncryptionContext"]
        blob, arn = self.kms.encrypt(key.id, base64.b64decode(plaintext), context)
        return {"KeyId": arn, "CiphertextBlob": base64.b64encode(blob).decode()}

    def _open(self, request: Request, side: str) -> tuple[Key, str]:
        key = self._usable(request[f"{side}KeyId"])
        blob = base64.b64decode(request["CiphertextBlob"])
        if request.get("DryRun"):
            raise Refused("DryRunOperationException")
        # moto says AccessDenied of both.
        if not blob.startswith(key.id.encode()):
            known = blob.startswith(tuple(one.encode() for one in self.kms.keys))
            raise Refused("IncorrectKeyException" if known else "InvalidCiphertextException")
        opened, _ = self.kms.decrypt(blob, request[f"{side}EncryptionContext"])
        return key, base64.b64encode(opened).decode()


def say(asked: Asked, answer: Any, status: int = 200) -> None:
    """Answer as the protocol has it."""
    asked.say(json.dumps(answer).encode(), status, KIND)


Fault: TypeAlias = Callable[[Asked, str, Request], None]


def refuse(code: str, status: int = 400) -> Fault:
    """Refuse; in a code with ``{}`` around its name is what was sent."""

    def fault(asked: Asked, operation: str, request: Request) -> None:
        raise Refused(code.format_map(defaultdict(str, request)), status=status)

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
