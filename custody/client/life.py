"""The life of a vault on one device, without I/O: each step a generator of what it needs."""

import base64
import binascii
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from urllib.parse import urlencode

from custody.client import recovery
from custody.client.answers import AuditPage, Status, page_of, require_ok, status_of
from custody.client.errors import (
    BadAnswer,
    Failed,
    RecoveryCodeNeeded,
    RolledBack,
    StaleGeneration,
    WrongRecoveryCode,
)
from custody.client.exchange import Ask, Request, Response, Steps, call

_TAG: Final = re.compile(r'"([0-9]{1,18})"')


class Pin(Protocol):
    """Where a device keeps the highest generation that it has seen; either may be ``async``."""

    def load(self) -> Any:
        """Return the generation, or None."""

    def save(self, generation: int) -> Any:
        """Keep it, on disk before this returns."""


@dataclass(frozen=True)
class Keys:
    """The live key, and while a rotation is pending the one before it."""

    master_key: bytes = field(repr=False)
    previous_master_key: bytes | None = field(repr=False)
    generation: int


@dataclass(frozen=True)
class _Blob:
    wrapped: bytes = field(repr=False)
    iv: bytes = field(repr=False)
    generation: int


class Life:
    """What a device does with its vault, without its keys: the caller has those.

    Args:
        token: returns a token; asked for each call, and once more after a 401.
        pin: keeps the highest generation.
    """

    def __init__(self, token: Callable[[], Any], pin: Pin) -> None:
        self._token = token
        self._pin = pin

    def status(self) -> Steps[Status]:
        """Return what there is, without a key."""
        return status_of((yield from self._call("GET", "/status")))

    def audit(self, limit: int, before: str | None) -> Steps[AuditPage]:
        """Return a page of what was done with the vault."""
        query = {"limit": limit} | ({} if before is None else {"before": before})
        return page_of((yield from self._call("GET", f"/audit?{urlencode(query)}")))

    def unlock(self, code: str | None = None) -> Steps[Keys]:
        """Return the keys; a user without a vault gets one."""
        try:
            answer = yield from self._keyed("GET", "/key")
        except Failed as error:
            # Who has seen a vault does not make another: it is gone, and so is its key.
            if error.code != "VAULT_NOT_INITIALISED" or (yield Ask(self._pin.load)) is not None:
                raise
            answer = yield from self._keyed("POST", "/init")
        if isinstance(answer, Keys):
            return answer
        if code is None:
            raise RecoveryCodeNeeded
        opened = recovery.unwrap(answer.wrapped, answer.iv, code)
        return Keys(opened, None, answer.generation)

    def set_recovery_code(self, keys: Keys, code: str) -> Steps[None]:
        """Store a wrap of the key that the code was seen to open."""
        wrapped, iv = recovery.wrap(keys.master_key, code)
        body = {"recoveryWrappedMk": _text(wrapped), "recoveryIv": _text(iv)}
        require_ok(
            (yield from self._call("POST", "/recovery-wrap", body, tag=_tag(keys.generation)))
        )

    def enable_zero_knowledge(self, keys: Keys, code: str) -> Steps[None]:
        """Turn it on with the code that the user typed; undone if the daemon's wrap is another."""
        yield from self.set_recovery_code(keys, code)
        yield from self._switch(keys, {"enable": True})
        # Another device may have put its wrap between the two calls.
        answer = yield from self._keyed("GET", "/key")
        try:
            if isinstance(answer, Keys):
                raise BadAnswer
            if recovery.unwrap(answer.wrapped, answer.iv, code) != keys.master_key:
                raise WrongRecoveryCode
        except (BadAnswer, WrongRecoveryCode):
            yield from self.disable_zero_knowledge(keys)
            raise

    def disable_zero_knowledge(self, keys: Keys) -> Steps[None]:
        """Give the key back to the daemon."""
        yield from self._switch(keys, {"enable": False, "masterKey": _text(keys.master_key)})

    def _switch(self, keys: Keys, body: dict[str, Any]) -> Steps[None]:
        answer = yield from self._call("POST", "/zero-knowledge", body, tag=_tag(keys.generation))
        require_ok(answer, zeroKnowledge=body["enable"])

    def rotate(self, reencrypt: Callable[[Keys], Any]) -> Steps[Keys]:
        """Rotate, or go on with a rotation that is pending; the old key goes last."""
        keys = yield from self.unlock()
        if keys.previous_master_key is None:
            keys = yield from self._begin(keys)
        if keys.previous_master_key is not None:
            yield Ask(reencrypt, (keys,))
            require_ok((yield from self._call("DELETE", "/rotation", tag=_tag(keys.generation))))
        return Keys(keys.master_key, None, keys.generation)

    def reset(self) -> Steps[Keys]:
        """Give up every key and begin again; sent once, and not to a vault that has moved on."""
        seen = yield Ask(self._pin.load)
        answer = yield from self._keyed(
            "POST",
            "/reset",
            {"confirm": "destroy"},
            tag=None if seen is None else _tag(seen),
            repeatable=False,
        )
        if isinstance(answer, Keys):
            return answer
        raise BadAnswer

    def _begin(self, before: Keys) -> Steps[Keys]:
        try:
            answer = yield from self._keyed("POST", "/rotation", tag=_tag(before.generation))
        except StaleGeneration:
            # Ours, whose answer was lost, or another device's: either way the pair is there.
            answer = yield from self._keyed("GET", "/key")
            if isinstance(answer, Keys) and answer.previous_master_key is not None:
                return answer
            raise
        if isinstance(answer, Keys):
            return answer
        raise BadAnswer

    def _keyed(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        tag: str | None = None,
        repeatable: bool = True,
    ) -> Steps[Keys | _Blob]:
        response = yield from self._call(method, path, body, tag=tag, repeatable=repeatable)
        answer = _keys(response)
        seen = yield Ask(self._pin.load)
        if seen is not None and answer.generation < seen:
            raise RolledBack
        if seen is None or answer.generation > seen:
            yield Ask(self._pin.save, (answer.generation,))
        return answer

    def _call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        tag: str | None = None,
        repeatable: bool = True,
    ) -> Steps[Response]:
        data = None if body is None else json.dumps(body).encode()

        def request(token: str) -> Request:
            return Request(method, path, data, if_match=tag, token=token, repeatable=repeatable)

        return (yield from call(request, self._token))


def _keys(response: Response) -> Keys | _Blob:
    try:
        answer = json.loads(response.body)
        match = _TAG.fullmatch(response.headers["etag"])
        if match is None:
            raise BadAnswer
        generation = int(match[1])
        if answer.get("requiresRecoveryCode") is True:
            wrapped = _binary(answer["recoveryWrappedMk"], recovery.WRAP_BYTES)
            return _Blob(wrapped, _binary(answer["recoveryIv"], recovery.IV_BYTES), generation)
        key = _binary(answer["masterKey"], recovery.KEY_BYTES)
        previous = answer.get("previousMasterKey")
        old = None if previous is None else _binary(previous, recovery.KEY_BYTES)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BadAnswer from None
    return Keys(key, old, generation)


def _binary(text: object, size: int) -> bytes:
    if not isinstance(text, str):
        raise BadAnswer
    try:
        value = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise BadAnswer from None
    if len(value) != size or _text(value) != text:
        raise BadAnswer
    return value


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _tag(generation: int) -> str:
    return f'"{generation}"'
