"""Bad bodies: refused with the documented answer, without a trace and without an echo."""

import base64
import json
import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from custody.http.body import MAX_BODY_BYTES
from custody.http.routes import BASE_PATH
from tests.client import Client
from tests.http.wire import assert_problem, connect, exchange, first_answer, parse, request
from tests.servers import Daemon

Device = Callable[[str], Client]

WRAPPED = base64.b64encode(b"\xff" * 48).decode()  # all slashes: the alphabet's last letter
IV = base64.b64encode(b"\xfb\xef\xbe" * 4).decode()  # all plus signs
KEY = base64.b64encode(secrets.token_bytes(32)).decode()

# What an answer may say although it was sent, too.
FIELD_NAMES = {"recoveryWrappedMk", "recoveryIv", "enable", "masterKey", "base64"}
FORMS: dict[str, bytes] = {
    "empty": b"",
    "white space": b" \r\n\t ",
    "a list": b"[]",
    "a string": b'"nothing here"',
    "a number": b"1234567",
    "null": b"null",
    "true": b"true",
    "an empty object": b"{}",
    "not JSON": b"enable=true&masterKey=none",
    "cut short": b'{"enable": tru',
    "no closing brace": b'{"enable": true',
    "trailing comma": b'{"enable": true,}',
    "two documents": b'{"enable": true}{"enable": true}',
    "a comment": b'{"enable": true /* comment */}',
    "single quotes": b"{'enable': true}",
    "names without quotes": b"{enable: true}",
    "NaN": b'{"enable": NaN}',
    "Infinity": b'{"enable": Infinity}',
    "-Infinity": b'{"enable": -Infinity}',
    "a huge exponent": b'{"enable": 1e999}',
    "a huge integer": b'{"enable": ' + b"9" * 5000 + b"}",
    "a NUL after it": b'{"enable": true}\0',
    "a NUL before it": b'\0{"enable": true}',
    "a NUL within a string": b'{"enable": "\0"}',
    "NULs alone": b"\0" * 64,
    "a byte order mark": b'\xef\xbb\xbf{"enable": true}',
    "UTF-16": '{"enable": true}'.encode("utf-16"),
    "UTF-16 without a mark": '{"enable": true}'.encode("utf-16-le"),
    "UTF-32": '{"enable": true}'.encode("utf-32"),
    "invalid UTF-8": b'{"enable": "\xff\xfe"}',
    "invalid UTF-8 in a name": b'{"\xff": true}',
    "an overlong slash": b'{"enable": "\xc0\xaf"}',
    "a surrogate in UTF-8": b'{"enable": "\xed\xa0\x80"}',
    "a control character in a string": b'{"enable": "\x01"}',
    "a lone surrogate as name": b'{"\\ud800masterKey": true}',
    "a lone surrogate as value": b'{"enable": "\\udfff"}',
    "deep lists": b"[" * 8000,
    "deep lists, closed": b'{"enable": ' + b"[" * 8000 + b"]" * 8000 + b"}",
    "deep objects": b'{"a":' * 2500 + b"1" + b"}" * 2500,
}


def document(**members: Any) -> bytes:
    return json.dumps(members).encode()


def recovery(**members: Any) -> bytes:
    return document(**({"recoveryWrappedMk": WRAPPED, "recoveryIv": IV} | members))


def disable(**members: Any) -> bytes:
    return document(**({"enable": False, "masterKey": KEY} | members))


def values(good: str, size: int) -> dict[str, Any]:
    """What must not pass for the canonical base64 of ``size`` bytes."""
    b64 = base64.b64encode
    return {
        "null": None,
        "a number": 12345678,
        "a float": 1.5,
        "true": True,
        "a list": [good],
        "an object": {"$binary": good},
        "empty": "",
        "NUL": "\0",
        "NUL at its end": good + "\0",
        "NUL for its first": "\0" + good[1:],
        "a byte less": b64(bytes(size - 1)).decode(),
        "a byte more": b64(bytes(size + 1)).decode(),
        "three bytes less": b64(bytes(size - 3)).decode(),
        "twice": good * 2,
        "urlsafe": base64.urlsafe_b64encode(b"\xfb\xff" * (size // 2)).decode(),
        "a space before": " " + good,
        "a space after": good + " ",
        "a newline after": good + "\n",
        "a newline for its first": "\n" + good[1:],
        "a line break within": good[:4] + "\r\n" + good[4:],
        "more padding": good + "=",
        "much padding": good + "====",
        "padding within": "====" + good[4:],
        "a strange letter": good[:-5] + "!" + good[-4:],
        "a percent escape": "%2B" + good[3:],
        "hexadecimal": "ab" * size,
        "a letter of full width": "\uff21" + good[1:],
        "a letter with an accent": "\u00e9" + good[1:],
        "a lone surrogate": "\ud800" + good[1:],
        "a data URL": "data:;base64," + good,
    }


RECOVERY: dict[str, bytes] = {
    **FORMS,
    **{f"wrap {name}": recovery(recoveryWrappedMk=v) for name, v in values(WRAPPED, 48).items()},
    **{f"iv {name}": recovery(recoveryIv=v) for name, v in values(IV, 12).items()},
    "no wrap": document(recoveryIv=IV),
    "no iv": document(recoveryWrappedMk=WRAPPED),
    "snake case": document(recovery_wrapped_mk=WRAPPED, recovery_iv=IV),
    "another case": document(RecoveryWrappedMk=WRAPPED, RecoveryIv=IV),
    "unknown field": recovery(somethingElse=1),
    "unknown secret field": recovery(masterKey=KEY),
    "unknown field without a name": recovery(**{"": 1}),
    "unknown field with a NUL": recovery(**{"recoveryIv\0": IV}),
    "unknown field, a lone surrogate": recovery(**{"\ud800": 1}),
    "format version": recovery(formatVersion=1),
    "a user": recovery(userId="mallory-the-other"),
    "prototype": recovery(__proto__={}),
    "exchanged": recovery(recoveryWrappedMk=IV, recoveryIv=WRAPPED),
    "iv twice": recovery()[:-1] + b', "recoveryIv": "' + IV.encode() + b'"}',
    "wrap twice, escaped": recovery()[:-1] + b', "recoveryWrappedM\\u006b": ""}',
    "nested": document(envelope={"recoveryWrappedMk": WRAPPED, "recoveryIv": IV}),
    "in a list": b"[" + recovery() + b"]",
    "more after it": recovery() + b"x",
}
NO_BOOLEANS: tuple[Any, ...] = (
    *(1, 0, 1.0, 0.0, -1, "true", "false", "True", "", None, [], [True], [False], {}),
)
ZERO_KNOWLEDGE: dict[str, bytes] = {
    **FORMS,
    **{f"key {name}": disable(masterKey=value) for name, value in values(KEY, 32).items()},
    "key with trailing bits": disable(masterKey="A" * 42 + "B="),
    "key without padding": disable(masterKey=KEY[:-1]),
    "key missing": document(enable=False),
    "enable missing": document(masterKey=KEY),
    "key beside true": disable(enable=True),
    "null key beside true": document(enable=True, masterKey=None),
    **{f"enable {value!r}": document(enable=value) for value in NO_BOOLEANS},
    **{f"enable {value!r} with a key": disable(enable=value) for value in NO_BOOLEANS},
    "enable in another case": document(Enable=True),
    "enable with a space": document(**{"enable ": True}),
    "unknown field": document(enable=True, somethingElse=1),
    "unknown field beside false": disable(somethingElse=1),
    "unknown field, a lone surrogate": document(enable=True, **{"\udcff": 1}),
    "unknown field beside false, a lone surrogate": disable(**{"\ud800\ud800": 1}),
    "snake case": document(enable=False, master_key=KEY),
    "enable twice": b'{"enable": false, "enable": true}',
    "enable twice, alike": b'{"enable": true, "enable": true}',
    "enable twice, escaped": b'{"enable": true, "\\u0065nable": true}',
    "key twice": disable()[:-1] + b', "masterKey": "' + KEY.encode() + b'"}',
    "a name twice further down": b'{"enable": true, "x": {"a": 1, "a": 2}}',
    "TRUE": b'{"enable": TRUE}',
}
TABLES = {"/recovery-wrap": RECOVERY, "/zero-knowledge": ZERO_KNOWLEDGE}
GOOD = {"/recovery-wrap": recovery(), "/zero-knowledge": document(enable=True)}


@pytest.mark.prove
@pytest.mark.parametrize("path", TABLES)
async def test_bad_bodies(daemon: Daemon, device: Device, path: str) -> None:
    assert len(TABLES[path]) >= 40
    alice = device("alice")
    await alice.init()
    assert (await alice.set_recovery(WRAPPED, IV)).status == 200
    before = await daemon.database.contents()
    for name, body in TABLES[path].items():
        assert len(body) <= MAX_BODY_BYTES, name
        answer = await alice.call("POST", path, data=body)
        assert_problem(answer, 400, "BAD_REQUEST", name)
        words = set(re.findall(r"[A-Za-z0-9+/=_\\-]{6,}", body.decode("latin-1")))
        for word in words - FIELD_NAMES:
            assert word.encode() not in answer.body, (name, word)
    assert await daemon.database.contents() == before
    # The control: one good body does change it.
    assert (await alice.call("POST", path, data=GOOD[path])).status == 200
    assert await daemon.database.contents() != before


@pytest.mark.prove
async def test_bad_key_in_zero_knowledge_mode(daemon: Daemon, device: Device) -> None:
    alice = device("alice")
    await alice.init()
    await alice.set_recovery(WRAPPED, IV)
    await alice.enable_zk()
    before = await daemon.database.contents()
    for name, body in ZERO_KNOWLEDGE.items():
        assert_problem(
            await alice.call("POST", "/zero-knowledge", data=body), 400, "BAD_REQUEST", name
        )
    assert await daemon.database.contents() == before


@pytest.mark.prove
@pytest.mark.parametrize("path", TABLES)
async def test_spellings_of_a_good_body(device: Device, path: str) -> None:
    alice = device("alice")
    await alice.init()
    await alice.set_recovery(WRAPPED, IV)
    good = GOOD[path]
    room = MAX_BODY_BYTES - len(good)
    spellings = [
        b" \t\r\n" + good + b"\n",
        good + b" " * room,
        good.replace(b'"enable"', b'"\\u0065nable"').replace(
            b'"recoveryIv"', b'"r\\u0065coveryIv"'
        ),
        json.dumps(dict(reversed(json.loads(good).items())), indent=2).encode(),
    ]
    for body in spellings:
        assert (await alice.call("POST", path, data=body)).status == 200
    for media_type in (
        "application/json;charset=utf-8",
        'application/json; charset="UTF-8"',
        "Application/JSON; Charset=Utf-8",
        "application/json ; x=y",
    ):
        headers = {"Content-Type": media_type}
        assert (await alice.call("POST", path, data=good, headers=headers)).status == 200


@pytest.mark.prove
@pytest.mark.parametrize("path", TABLES)
async def test_too_large(daemon: Daemon, device: Device, path: str) -> None:
    alice = device("alice")
    await alice.init()
    before = await daemon.database.contents()
    token = daemon.issuer.bearer("alice")
    base = {"Authorization": token, "Content-Type": "application/json"}
    good = GOOD[path]
    for size in (MAX_BODY_BYTES + 1, 100_000):
        body = good + b" " * (size - len(good))
        chunks = b"".join(
            b"%x\r\n%s\r\n" % (len(part), part)
            for part in (body[at : at + 1000] for at in range(0, size, 1000))
        )
        framings: list[tuple[Mapping[str, str], bytes]] = [
            ({"Content-Length": str(size)}, body),
            ({"Transfer-Encoding": "chunked"}, chunks + b"0\r\n\r\n"),
        ]
        for framing, framed in framings:
            sent = request("POST", BASE_PATH + path, {**base, **framing}, framed)
            (answer,) = parse(await exchange(daemon.base, sent))
            assert_problem(answer, 413, "PAYLOAD_TOO_LARGE", str(framing))
    # It is refused by its announced size alone: nobody has to send it.
    sent = request("POST", BASE_PATH + path, {**base, "Content-Length": "99999999999"}, b"")
    reader, writer = await connect(daemon.base)
    writer.write(sent)
    assert_problem(await first_answer(reader), 413, "PAYLOAD_TOO_LARGE", "announced")
    writer.close()
    assert await daemon.database.contents() == before


MEDIA_TYPES = (
    None,
    "",
    "text/plain",
    "text/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/octet-stream",
    "application/problem+json",
    "application/merge-patch+json",
    "application/json+x",
    "application/jsonp",
    "application",
    "json",
    "*/*",
    "application/*",
    "text/plain, application/json",
    "application/json; charset=utf-16",
    "application/json; charset=latin-1",
    "application/json; charset=utf-7",
    "application/json; charset=nonsense",
    'application/json; charset="utf-16"',
)
ENCODINGS = (
    "gzip",
    "GZIP",
    "deflate",
    "br",
    "zstd",
    "compress",
    "x-gzip",
    "gzip, gzip",
    "nonsense",
)


@pytest.mark.prove
@pytest.mark.parametrize("path", TABLES)
async def test_unsupported_media_type(daemon: Daemon, device: Device, path: str) -> None:
    alice = device("alice")
    await alice.init()
    await alice.set_recovery(WRAPPED, IV)
    before = await daemon.database.contents()
    good = GOOD[path]
    base = {"Authorization": daemon.issuer.bearer("alice"), "Content-Length": str(len(good))}
    variants = [{} if value is None else {"Content-Type": value} for value in MEDIA_TYPES]
    variants += [
        {"Content-Type": "application/json", "Content-Encoding": value} for value in ENCODINGS
    ]
    for headers in variants:
        sent = request("POST", BASE_PATH + path, {**base, **headers}, good)
        (answer,) = parse(await exchange(daemon.base, sent))
        assert_problem(answer, 415, "UNSUPPORTED_MEDIA_TYPE", str(headers))
    assert await daemon.database.contents() == before


BODYLESS = (
    ("GET", "/status"),
    ("POST", "/init"),
    ("GET", "/key"),
    ("POST", "/rotate"),
    ("DELETE", "/recovery-wrap"),
)
IGNORED: dict[str, tuple[dict[str, str], bytes]] = {
    "browser's": ({"Content-Type": "application/json"}, b""),
    "nothing": ({}, b""),
    "text": ({"Content-Type": "text/plain"}, b"hello"),
    "broken JSON": ({"Content-Type": "application/json"}, b'{"enable":'),
    "another charset": ({"Content-Type": "application/json; charset=utf-16"}, b"\xff\xfe"),
    "strange type": ({"Content-Type": "?"}, b"?"),
    **{
        f"garbage {coding}": ({"Content-Encoding": coding}, b"not compressed at all")
        for coding in ("gzip", "deflate", "br", "zstd", "nonsense")
    },
    "100 KiB": ({"Content-Type": "application/json"}, b"x" * 100 * 1024),
}


@pytest.mark.prove
@pytest.mark.parametrize(("method", "path"), BODYLESS)
async def test_body_where_none_is_read(
    daemon: Daemon, device: Device, method: str, path: str
) -> None:
    await device("alice").init()
    token = daemon.issuer.bearer("alice")
    for name, (headers, body) in IGNORED.items():
        plain = {"Authorization": token, **headers, "Content-Length": str(len(body))}
        chunked = {"Authorization": token, **headers, "Transfer-Encoding": "chunked"}
        chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
        for sent in (
            request(method, BASE_PATH + path, plain, body),
            request(method, BASE_PATH + path, chunked, chunks),
        ):
            (answer,) = parse(await exchange(daemon.base, sent))
            assert answer.status == 200, name
            assert isinstance(answer.json, dict), name


@pytest.mark.parametrize(("method", "path"), BODYLESS)
async def test_connection_lives_on_after_an_ignored_body(
    daemon: Daemon, device: Device, method: str, path: str
) -> None:
    await device("alice").init()
    token = daemon.issuer.bearer("alice")
    headers = {"Authorization": token, "Content-Length": "5", "Content-Encoding": "gzip"}
    first = request(method, BASE_PATH + path, headers, b"hello", close=False)
    last = request("GET", f"{BASE_PATH}/status", {"Authorization": token})
    answers = parse(await exchange(daemon.base, first * 2 + last))
    assert [answer.status for answer in answers] == [200, 200, 200]
