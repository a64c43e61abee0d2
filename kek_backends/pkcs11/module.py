"""The process of a module: started, asked, ended and started again by the daemon.

A module is foreign code of C's: it may hang, crash, or start threads that a fork leaves behind. In
a process of its own it can do none of that to the daemon, and a call that hangs is ended with it.
"""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from itertools import count
from pathlib import Path
from typing import Any, cast

from kek_backends.errors import KekError, Transient
from kek_backends.pkcs11 import frames
from kek_backends.pkcs11.errors import meaning
from kek_backends.uri import KekUri, looks_like_a_key

_CHILD = "kek_backends.pkcs11.child"
# Secrets of the daemon's that no module has a use for; those of the env backend are known by form.
_SECRETS = (
    *("CUSTODY_", "MANA_AUTH_", "VAULT_", "BAO_", "AWS_", "AZURE_", "GOOGLE_", "CREDENTIALS_"),
    # Of the service manager, for the daemon alone.
    *("NOTIFY_SOCKET", "LISTEN_", "WATCHDOG_"),
)
_END_SECONDS = 1.0

Answer = dict[str, Any]


class ModuleProcess:
    """One life of the process. Its methods may be called by any thread.

    Args:
        uri: for messages.
        environ: the variables of the daemon.
    """

    def __init__(self, uri: KekUri, environ: Mapping[str, str]) -> None:
        self._uri = uri
        # -P: nothing is imported from the current folder.
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter, and a module of ours
            [sys.executable, "-P", "-m", _CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=environ_of_module(environ),
            start_new_session=True,  # a Ctrl-C is for the daemon alone
        )
        self._writing = threading.Lock()
        self._numbers = count()
        self._waiting: dict[int, Future[Answer]] = {}
        self._ended = False
        reader = threading.Thread(target=self._read, name=f"kek-{uri.scheme}-read", daemon=True)
        reader.start()

    @property
    def is_alive(self) -> bool:
        """Whether it has neither ended nor been ended."""
        return not self._ended

    def ask(self, doing: str, seconds: float, **fields: object) -> Answer:
        """Ask for one thing.

        Args:
            doing: what is asked, as the process knows it.
            seconds: how long the answer may take.
            fields: what it needs.

        Raises:
            KekError: of the type that says whether and when to try again. After all but Tampered
                the process is to be ended: what it holds may be no more.
        """
        number, answered = next(self._numbers), Future[Answer]()
        self._waiting[number] = answered
        try:
            with self._writing:
                frames.write(self._pipe_in, {"do": doing, "number": number, **fields})
            answer = answered.result(seconds)
        except TimeoutError:
            raise Transient(
                f"{self._uri.text}: {doing}: no answer of the module in {seconds:g} s; its process "
                "is started again"
            ) from None
        except (OSError, ValueError):  # ValueError: the pipe is closed
            raise self._gone() from None
        finally:
            self._waiting.pop(number, None)
        if "error" in answer:
            raise meaning(self._uri, doing, answer["error"])
        return answer

    def end(self) -> None:
        """End it, with all that it has under way."""
        self._ended = True
        self._process.kill()
        with contextlib.suppress(OSError, ValueError):
            self._pipe_in.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)

    @property
    def _pipe_in(self) -> Any:
        return self._process.stdin

    def _read(self) -> None:
        """Hand out answers until there are no more."""
        with cast("Any", self._process.stdout) as answers:
            while (answer := frames.read(answers)) is not None:
                waiting = self._waiting.get(answer.pop("number", -1))
                if waiting is not None:
                    waiting.set_result(answer)
        self._ended = True
        with contextlib.suppress(OSError, ValueError):
            self._pipe_in.close()
        for waiting in list(self._waiting.values()):
            with contextlib.suppress(Exception):  # it has its answer already
                waiting.set_exception(self._gone())
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)

    def _gone(self) -> KekError:
        return Transient(
            f"{self._uri.text}: the process of the module has ended; it is started again"
        )


def _is_secret(value: str) -> bool:
    # A path may look like base64, too.
    return looks_like_a_key(value) and not (value.startswith("/") and Path(value).exists())


def environ_of_module(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a module may see: those of the daemon without its secrets.

    Args:
        environ: the variables of the daemon.
    """
    kept = {
        name: value
        for name, value in environ.items()
        if not name.startswith(_SECRETS) and not _is_secret(value)
    }
    # What this process could import, the other one can.
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
