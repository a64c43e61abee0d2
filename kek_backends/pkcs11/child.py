"""The process of a module: reads requests, answers them, and ends with the one who started it.

Nothing of its memory may be left behind: keys pass through it. What it is told comes by a pipe.
"""

import base64
import ctypes
import faulthandler
import os
import resource
import select
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO

from pkcs11 import PKCS11Error

from kek_backends.pkcs11 import frames
from kek_backends.pkcs11.token import Refused, Token

_PR_SET_DUMPABLE = 4
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
# A module that never gives the interpreter back could not even be told that its daemon is gone.
_HUNG_SECONDS = 20.0


class Server:
    """Answers requests on a token, several at once.

    Args:
        requests: read until its end.
        answers: written by one thread at a time.
    """

    def __init__(self, requests: BinaryIO, answers: BinaryIO) -> None:
        self._requests = requests
        self._answers = answers
        self._token: Token | None = None
        self._identity = ""

    def serve(self) -> None:
        """Answer until nobody asks any more."""
        # One: a token takes one call after the other. This thread sees meanwhile who asks.
        calls = ThreadPoolExecutor(1)
        armed = -_HUNG_SECONDS
        while True:
            now = time.monotonic()
            if now - armed >= _HUNG_SECONDS / 4:
                # By a timer of C's, which needs no interpreter.
                faulthandler.dump_traceback_later(_HUNG_SECONDS, exit=True)
                armed = now
            if not select.select([self._requests], [], [], _HUNG_SECONDS / 4)[0]:
                continue
            request = frames.read(self._requests)
            if request is None:
                return
            calls.submit(self._answer, request)

    def _answer(self, request: dict[str, Any]) -> None:
        try:
            answer = self._do(request)
        except (Refused, PKCS11Error) as error:
            # Of a module's error its name alone.
            answer = {"error": str(error) if isinstance(error, Refused) else type(error).__name__}
        except BaseException as error:  # noqa: BLE001 - whoever waits must hear of it
            answer = {"error": type(error).__name__}
        frames.write(self._answers, {**answer, "number": request["number"]})

    def _do(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["do"] == "open":
            key_id = request["key_id"]
            self._token = Token(
                request["module"],
                request["token"],
                request["label"],
                None if key_id is None else bytes.fromhex(key_id),
                request["pin"],
            )
            seen = self._token.describe()
            fingerprint = self._token.fingerprint()
            self._identity = f"{seen['serial']}/{seen['key_id']}/{fingerprint}"
            return {**seen, "fingerprint": fingerprint}
        if self._token is None:
            raise Refused("NotOpen")
        if request["do"] == "describe":
            return self._token.describe()
        if request["key"] != self._identity:
            # Between two lives of this process another key took its place.
            raise Refused("OtherKey")
        aad = base64.b64decode(request["aad"])
        if request["do"] == "encrypt":
            iv, made = self._token.encrypt(base64.b64decode(request["text"]), aad)
            return {"iv": base64.b64encode(iv).decode(), "made": base64.b64encode(made).decode()}
        iv, made = base64.b64decode(request["iv"]), base64.b64decode(request["made"])
        return {"text": base64.b64encode(self._token.decrypt(iv, made, aad)).decode()}


def harden() -> None:
    """Leave no core, and let no other process read this one; source: prctl(2), mlockall(2)."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
            sys.exit("prctl(PR_SET_DUMPABLE) failed")
        if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY:
            libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT)


def main() -> None:
    """Serve the pipes that are stdin and stdout, until stdin ends."""
    # Those are for the daemon; it answers what is under way before it ends this one.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    harden()
    answers = os.fdopen(os.dup(1), "wb")
    # What the module prints is no answer.
    os.dup2(2, 1)
    Server(os.fdopen(0, "rb", buffering=0), answers).serve()
    # Whatever a module still does in its threads.
    os._exit(0)


if __name__ == "__main__":
    main()
