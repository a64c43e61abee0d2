"""The token as the daemon has it: opened when it is needed, in a process that is there now."""

import copy
import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from kek_backends.errors import KekError, Tampered, Transient
from kek_backends.pkcs11.address import Address
from kek_backends.pkcs11.errors import WrongPin, meaning
from kek_backends.pkcs11.module import Answer, ModuleProcess
from kek_backends.remote import ATTEMPT_SECONDS
from kek_backends.uri import KekUri

# A module may go through a network, and a cluster, before it is there.
OPEN_SECONDS = 10.0
# From one start that failed to the next: a process costs a tenth of a second of a core.
_AGAIN_SECONDS = 1.5


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of the token and the key, by one life of the process.

    Args:
        serial: of the token.
        key_id: of the key, in hex.
        extractable: whether the key may leave the token under another key.
        wrong_pins: whether somebody has given a wrong PIN since the last right one.
        fingerprint: changes with the bytes of the key; None where the token makes its own IVs.
    """

    serial: str
    key_id: str
    extractable: bool
    wrong_pins: bool
    fingerprint: str | None

    @classmethod
    def of(cls, answer: Answer, fingerprint: str | None) -> Self:
        """Read an answer of the process."""
        return cls(
            serial=str(answer["serial"]),
            key_id=str(answer["key_id"]),
            extractable=bool(answer["extractable"]),
            wrong_pins=bool(answer["wrong_pins"]),
            fingerprint=fingerprint,
        )

    @property
    def stamp(self) -> str:
        """The kek_id of what this key wraps."""
        return f"pkcs11:{self.serial}/{self.key_id}"

    @property
    def identity(self) -> str:
        """Which key it is, for a request: an answer of another one must not come."""
        return f"{self.serial}/{self.key_id}/{self.fingerprint}"


class OpenToken:
    """A token of an address. Its methods block, and may be called by any thread.

    Args:
        uri: for messages.
        address: which.
        environ: the variables of the daemon.
        learn: told what is seen, each time.
    """

    def __init__(
        self,
        uri: KekUri,
        address: Address,
        environ: Mapping[str, str],
        learn: Callable[[Seen], None],
    ) -> None:
        self._uri = uri
        self._address = address
        self._environ = environ
        self._learn = learn
        self._lock = threading.Lock()
        self._process: ModuleProcess | None = None
        self._closed = False
        # The last start that failed, and when; the PIN that was refused, by its digest.
        self._failure: KekError | None = None
        self._failed_at = 0.0
        self._salt = secrets.token_bytes(16)
        self._refused: bytes | None = None
        self._fingerprint: str | None = None

    def look(self) -> None:
        """See whether the key is there, as it was."""
        process = self._opened()
        answer = self._asked(process, "describe")
        self._learn(Seen.of(answer, self._fingerprint))

    def ask(self, doing: str, **fields: object) -> Answer:
        """Have one thing done.

        Args:
            doing: ``encrypt`` or ``decrypt``.
            fields: what it needs, as :mod:`kek_backends.pkcs11.child` knows it.

        Raises:
            KekError: of the type that says whether and when to try again.
        """
        return self._asked(self._opened(), doing, **fields)

    def close(self) -> None:
        """End the process. Nothing is opened afterwards."""
        self._closed = True
        if self._process is not None:
            self._process.end()

    def _asked(self, process: ModuleProcess, doing: str, **fields: object) -> Answer:
        try:
            return process.ask(doing, ATTEMPT_SECONDS, **fields)
        except Tampered:
            raise
        except KekError:
            # A session that is gone, a login that is no more, a key that is another: all of it is
            # new in a new process.
            process.end()
            raise

    def _opened(self) -> ModuleProcess:
        if not self._lock.acquire(timeout=ATTEMPT_SECONDS):
            raise Transient(f"{self._uri.text}: the module is being started")
        try:
            if self._closed:
                raise Transient(f"{self._uri.text}: closed")
            if self._process is not None and self._process.is_alive:
                return self._process
            if self._failure and time.monotonic() < self._failed_at + _AGAIN_SECONDS:
                raise copy.copy(self._failure)
            return self._start()
        finally:
            self._lock.release()

    def _start(self) -> ModuleProcess:
        pin = self._address.read_pin(self._uri)
        digest = hashlib.blake2b(pin.encode(), key=self._salt).digest()
        if digest == self._refused:
            raise meaning(self._uri, "open", "PinIncorrect")
        self._process = process = ModuleProcess(self._uri, self._environ)
        try:
            answer = process.ask("open", OPEN_SECONDS, pin=pin, **self._address_fields())
        except KekError as error:
            process.end()
            if isinstance(error, WrongPin):
                self._refused = digest
            self._failure, self._failed_at = error, time.monotonic()
            raise
        if self._closed:
            process.end()
        self._failure = None
        self._fingerprint = answer["fingerprint"]
        self._learn(Seen.of(answer, self._fingerprint))
        return process

    def _address_fields(self) -> dict[str, Any]:
        key_id = self._address.key_id
        return {
            "module": self._address.module,
            "token": dict(self._address.token),
            "label": self._address.label,
            "key_id": None if key_id is None else key_id.hex(),
        }
