"""What any client must match, for the Python one: tests/vectors/client.json."""

import base64
import json
import time
from collections.abc import Mapping
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag

from custody import client
from custody.client import BadAnswer, CustodyError, Keys, Unreachable, Vault
from custody.client.exchange import Request, Response
from tests import shown
from tests.servers import ROOT

VECTORS: dict[str, Any] = json.loads((ROOT / "tests/vectors/client.json").read_text("utf-8"))
BINARY = ("keyIv", "wrappedKey", "iv", "content")


class Script:
    """Answers as a script says, and keeps what was asked for; a pin in memory."""

    def __init__(self, answers: list[Mapping[str, Any] | None], pin: int | None = None) -> None:
        self._answers = iter(answers)
        self._tokens = 0
        self.pin = pin
        self.sent: list[dict[str, Any]] = []
        self.vault = Vault(self, self._token, self)

    def _token(self) -> str:
        self._tokens += 1
        return str(self._tokens)

    def load(self) -> int | None:
        return self.pin

    def save(self, generation: int) -> None:
        self.pin = generation

    def send(self, request: Request) -> Response:
        asked = {"method": request.method, "path": request.path, "ifMatch": request.if_match}
        self.sent.append(asked | {"token": int(request.token)})
        answer = next(self._answers)
        if answer is None:
            raise Unreachable
        headers = {name.lower(): value for name, value in answer["headers"].items()}
        return Response(answer["status"], headers, answer["body"].encode())


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What was waited for, and was not."""
    seconds: list[float] = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


def told(keys: Keys) -> dict[str, Any]:
    before = keys.previous_master_key
    return {
        "masterKey": base64.b64encode(keys.master_key).decode(),
        "previousMasterKey": before and base64.b64encode(before).decode(),
        "generation": keys.generation,
    }


@pytest.mark.parametrize("case", VECTORS["exchanges"], ids=lambda case: case["name"])
def test_an_exchange(case: dict[str, Any], waits: list[float]) -> None:
    script = Script([step["answer"] for step in case["steps"]], case["pin"])
    seen: list[Keys] = []
    calls = {
        "unlock": lambda: script.vault.unlock(case.get("code")),
        "rotate": lambda: script.vault.rotate(seen.append),
    }
    if "error" in case:
        with pytest.raises(CustodyError) as raised:
            calls[case["call"]]()
        assert type(raised.value).__name__ == case["error"]
    else:
        assert told(calls[case["call"]]()) == case["result"]
    assert script.sent == [step["request"] for step in case["steps"]]
    assert waits == case["waits"]
    assert len(seen) == case["reencrypts"]
    assert script.pin == case["pinAfter"]


@pytest.mark.parametrize("case", VECTORS["refusals"], ids=lambda case: case["answer"]["body"][-60:])
def test_a_refusal(case: dict[str, Any]) -> None:
    script = Script([case["answer"]] * 4, pin=1)
    with pytest.raises(CustodyError) as raised:
        script.vault.unlock()
    assert type(raised.value) is getattr(client, case["error"])
    assert (raised.value.code, raised.value.retry_after) == (case["code"], case["retryAfter"])


@pytest.mark.parametrize("case", VECTORS["malformedAnswers"], ids=lambda case: case["why"])
def test_an_answer_that_is_not_the_contracts(case: dict[str, Any]) -> None:
    script = Script([case["answer"]])
    with pytest.raises(BadAnswer):
        script.vault.unlock(VECTORS["opens"][0]["code"])
    assert script.pin is None


def case_of(vector: dict[str, Any]) -> tuple[Keys, str, dict[str, Any]]:
    record = dict(vector["record"])
    record |= {name: base64.b64decode(record[name]) for name in BINARY}
    keys = Keys(base64.b64decode(vector["masterKey"]), None, record["generation"])
    return keys, vector["user"], record


@pytest.mark.parametrize("vector", VECTORS["records"]["opens"], ids=lambda one: one["user"])
def test_a_record_opens(vector: dict[str, Any]) -> None:
    keys, user, record = case_of(vector)
    how = shown.records()
    assert how["open_record"](keys, user, record) == base64.b64decode(vector["plaintext"])
    assert how["unwrap"](keys, user, record) == base64.b64decode(vector["recordKey"])
    for what in ("key", "content"):
        assert how["bound"](what, user, record) == base64.b64decode(vector[f"{what}Aad"])
    # Under another master key, and again under this one.
    later = Keys(bytes(32), keys.master_key, keys.generation + 1)
    moved = how["rewrap"](later, user, record)
    assert moved["content"] == record["content"]
    assert how["rewrap"](later, user, moved) is moved
    assert how["open_record"](later, user, moved) == base64.b64decode(vector["plaintext"])


@pytest.mark.parametrize("vector", VECTORS["records"]["doesNotOpen"], ids=lambda one: one["why"])
def test_a_record_that_was_changed_does_not_open(vector: dict[str, Any]) -> None:
    with pytest.raises(InvalidTag):
        shown.records()["open_record"](*case_of(vector))
