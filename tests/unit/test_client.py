"""The Python client without a network: codes, vectors, tries, what it imports and what it shows."""

import base64
import json
import subprocess
import sys
from typing import Any

import pytest

from custody.client import (
    BadAnswer,
    HttpTransport,
    Keys,
    MalformedRecoveryCode,
    SignInAgain,
    StepUpRequired,
    Transport,
    Unavailable,
    Unreachable,
    WrongRecoveryCode,
    format_code,
    parse_code,
)
from custody.client.answers import page_of, require_ok, status_of
from custody.client.exchange import Ask, Request, Response, Steps, Wait, call
from custody.client.life import _keys
from custody.client.recovery import _wrapping_key, unwrap, wrap
from tests.servers import ROOT

VECTORS = json.loads((ROOT / "tests/vectors/client.json").read_text("utf-8"))
KEY = bytes(range(32))


class Scripted(Transport):
    """Answers from a list, an exception for one that never comes."""

    def __init__(self, *answers: Response | Exception) -> None:
        self.answers = list(answers)
        self.sent: list[Request] = []

    def send(self, request: Request) -> Response:
        self.sent.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def answer(status: int, code: str = "", **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status, named, json.dumps({"code": code}).encode())


def run(
    transport: Scripted, *, repeatable: bool = True, waits: list[float] | None = None
) -> Response:
    tokens = iter("abcdef")

    def request(token: str) -> Request:
        return Request("POST", "/x", token=token, repeatable=repeatable)

    steps: Steps[Response] = call(request, lambda: next(tokens))
    step: Any = None
    while True:
        try:
            need = steps.send(step)
            while isinstance(need, Request):
                try:
                    step = transport.send(need)
                except Unreachable as error:
                    need = steps.throw(error)
                else:
                    break
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        if isinstance(need, Ask):
            step = need.callback()
        elif isinstance(need, Wait):
            step = None
            if waits is not None:
                waits.append(need.seconds)


@pytest.mark.parametrize("case", VECTORS["opens"], ids=lambda case: case["code"][:4])
def test_a_code_of_the_old_service_opens_its_wrap(case: dict[str, Any]) -> None:
    wrapped = base64.b64decode(case["recoveryWrappedMk"])
    iv = base64.b64decode(case["recoveryIv"])
    assert format_code(bytes.fromhex(case["secret"])) == case["code"]
    assert _wrapping_key(case["code"]).hex() == case["wrappingKey"]
    for code in (case["code"], *case["alsoTyped"]):
        assert parse_code(code).hex() == case["secret"]
        assert unwrap(wrapped, iv, code) == base64.b64decode(case["masterKey"])


@pytest.mark.parametrize("code", VECTORS["malformed"])
def test_what_is_no_code_is_refused(code: str) -> None:
    with pytest.raises(MalformedRecoveryCode):
        parse_code(code)


def test_a_wrap_opens_by_its_code_alone_and_at_its_own_length() -> None:
    code = VECTORS["opens"][0]["code"]
    wrapped, iv = wrap(KEY, code)
    assert unwrap(wrapped, iv, code) == KEY
    for changed, other in ((wrapped[:-1], iv), (wrapped, iv + b"\0"), (wrapped[::-1], iv)):
        with pytest.raises(WrongRecoveryCode):
            unwrap(changed, other, code)
    for case in VECTORS["doesNotOpen"]:
        with pytest.raises(WrongRecoveryCode):
            unwrap(
                base64.b64decode(case["recoveryWrappedMk"]),
                base64.b64decode(case["recoveryIv"]),
                case["code"],
            )


def test_what_is_safe_to_repeat_is_tried_again_and_retry_after_is_honoured() -> None:
    waits: list[float] = []
    transport = Scripted(answer(503, retry_after="7"), Unreachable(), answer(200))
    assert run(transport, waits=waits).status == 200
    assert waits == [7.0, 1.0]


@pytest.mark.parametrize("failure", [answer(503), answer(429), Unreachable()])
def test_what_is_not_safe_is_sent_once(failure: Response | Exception) -> None:
    transport = Scripted(failure, answer(200))
    with pytest.raises((Unavailable, Unreachable)):
        run(transport, repeatable=False)
    assert len(transport.sent) == 1


def test_a_refused_token_is_replaced_once() -> None:
    transport = Scripted(answer(401), answer(200))
    run(transport, repeatable=False)
    assert [one.token for one in transport.sent] == ["a", "b"]
    with pytest.raises(SignInAgain):
        run(Scripted(answer(401), answer(401), answer(200)))


def test_step_up_is_no_sign_out_and_asks_for_no_other_token() -> None:
    transport = Scripted(answer(401, "STEP_UP_REQUIRED", x_request_id="r1"))
    with pytest.raises(StepUpRequired) as raised:
        run(transport)
    assert (raised.value.code, raised.value.request_id) == ("STEP_UP_REQUIRED", "r1")
    assert len(transport.sent) == 1


@pytest.mark.parametrize("address", ["http://vault.example", "ftp://h", "https://", "h:1"])
def test_an_address_that_would_show_keys_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="http"):
        HttpTransport(address)


@pytest.mark.parametrize(
    ("tag", "key"), [('"1"', "AA=="), ("1", None), ('W/"1"', None), ('"1"', 5), ('"-1"', None)]
)
def test_an_answer_that_is_not_the_contracts_is_refused(tag: str, key: object) -> None:
    body = {"masterKey": base64.b64encode(KEY).decode() if key is None else key}
    with pytest.raises(BadAnswer):
        _keys(Response(200, {"etag": tag}, json.dumps(body).encode()))


def test_no_repr_shows_a_key_or_a_token() -> None:
    shown = repr((Keys(KEY, KEY, 1), Request("GET", "/", b"secret", token="secret")))
    assert "secret" not in shown
    assert "\\x" not in shown


def test_the_client_imports_nothing_of_the_server() -> None:
    script = "import sys, custody.client; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    modules = done.stdout.split()
    ours = [name for name in modules if name.startswith("custody")]
    assert all(name == "custody" or name.startswith("custody.client") for name in ours), ours
    assert not {"aiohttp", "asyncpg", "pydantic", "sqlalchemy", "structlog", "jwt"} & set(modules)


def test_a_token_that_is_no_header_is_not_quoted() -> None:
    request = Request("GET", "/key", token="secret\r\nX: y")
    with pytest.raises(ValueError, match=r"^the token is no value of a header$"):
        HttpTransport("http://127.0.0.1:9").send(request)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"ok": 1}', b'{"ok": false}'])
def test_an_answer_that_does_not_say_ok_is_no_ok(body: bytes) -> None:
    """Of somebody in between, say, who answers 200 to all."""
    with pytest.raises(BadAnswer):
        require_ok(Response(200, {}, body))


def test_what_the_daemon_did_not_switch_is_not_switched() -> None:
    said = Response(200, {}, b'{"ok": true, "zeroKnowledge": false}')
    require_ok(said, zeroKnowledge=False)
    with pytest.raises(BadAnswer):
        require_ok(said, zeroKnowledge=True)


EVENT = (
    '{"id": "1", "at": "2026-11-29T01:02:03.5Z", "action": "fetch", "context": null,'
    ' "status": 200, "ipAddress": null, "userAgent": "x"}'
)


@pytest.mark.parametrize(
    "body",
    [
        "null",
        '{"events": null, "next": null}',
        '{"events": [1], "next": null}',
        '{"events": [], "next": 1}',
        f'{{"events": [{EVENT.replace("200", "true")}], "next": null}}',
        f'{{"events": [{EVENT.replace("Z", "")}], "next": null}}',
        f'{{"events": [{EVENT.replace("2026", "x")}], "next": null}}',
    ],
)
def test_a_page_that_is_none_is_refused(body: str) -> None:
    good = page_of(Response(200, {}, f'{{"events": [{EVENT}], "next": "n"}}'.encode()))
    assert (good.next, good.events[0].action, good.events[0].status) == ("n", "fetch", 200)
    with pytest.raises(BadAnswer):
        page_of(Response(200, {}, body.encode()))


@pytest.mark.parametrize("body", ["[]", "{}", '{"vaultExists": 1}', "[" * 10_000])
def test_a_status_that_is_none_is_refused(body: str) -> None:
    with pytest.raises(BadAnswer):
        status_of(Response(200, {}, body.encode()))
