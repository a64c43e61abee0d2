"""What the server says of a transit key: asked one at a time, and remembered."""

import threading

from kek_backends.errors import Transient
from kek_backends.remote import ATTEMPT_SECONDS
from kek_backends.transit.answers import data_of
from kek_backends.transit.key import KeyPath, TransitKey
from kek_backends.transit.tokens import Tokens


class KeyState:
    """The state of a key as the server last said it. All methods block.

    Args:
        path: of the key.
        tokens: what the calls are made with.
    """

    def __init__(self, path: KeyPath, tokens: Tokens) -> None:
        self._path = path
        self._tokens = tokens
        self._asking = threading.Lock()
        self._last: TransitKey | None = None

    @property
    def last(self) -> TransitKey | None:
        """The last answer; None before the first one."""
        return self._last

    def ask(self) -> None:
        """Ask the server how the key is.

        Raises:
            Transient: another thread waits for the same answer all too long.
            KekError: the server did not answer, or the key can't be used.
        """
        # One at a time: an answer that was asked for earlier never replaces a later one.
        if not self._asking.acquire(timeout=ATTEMPT_SECONDS):
            raise Transient(f"{self._path.uri.text}: the server does not say how the key is")
        try:
            self._last = self._read()
        finally:
            self._asking.release()

    def known(self) -> TransitKey:
        """Return the state, asked for only if it was never known."""
        if self._last is None:
            self.ask()
        if self._last is None:
            raise AssertionError
        return self._last

    def known_derived(self) -> TransitKey:
        """Return the state of a key that binds by ``context``: only that is sent in batches."""
        key = self.known()
        if not key.derived:
            raise Transient(f"{self._path.uri.text}: the key was replaced at this moment")
        return key

    def is_still(self, before: TransitKey) -> bool:
        """Ask whether the key is still the one that a call was made for.

        A key that is deleted and made again has the same versions, and may not be derived: then a
        wrap would be bound to nobody, or be of a key that the kek_id does not stand for.
        """
        self.ask()
        return before.is_same(self.known())

    def _read(self) -> TransitKey:
        answer = self._tokens.call(
            lambda client: client.secrets.transit.read_key(**self._path.named)
        )
        return self._path.state(data_of(self._path.uri, answer))
