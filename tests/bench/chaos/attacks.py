"""The attacks: what each connection of them does. Each has its bounds in count, pace and time."""

import asyncio
import random
import ssl
from functools import cache

from tests.bench.chaos.swarm import Attack, Call, Plan

_ROUTE = "/api/v1/me/encryption-vault"
_DRIP_SECONDS = 1.0
# Of a body that nobody will ever send to its end.
_BODY_BYTES = 16_000
_AGAIN_SECONDS = 2.0
_LINES_AT_ONCE = 16
_PIPELINED = 64


def _request(method: str, path: str, token: str = "", *, body: int = 0) -> bytes:
    lines = [f"{method} {_ROUTE}{path} HTTP/1.1", "Host: custody.example"]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    if method != "GET":
        lines += ["Content-Type: application/json", f"Content-Length: {body}"]
    return "\r\n".join([*lines, "", ""]).encode()


async def slow_headers(call: Call, plan: Plan, number: int) -> None:
    """Send a request line, and then header after header, one a second."""
    call.send(_request("GET", "/key")[:-2])
    while True:
        await call.pause(_DRIP_SECONDS)
        call.send(b"X-Slow: 1\r\n")


async def slow_bodies(call: Call, plan: Plan, number: int) -> None:
    """Announce a body without a token, and send a byte of it a second."""
    call.send(_request("POST", "/recovery-wrap", body=_BODY_BYTES), requests=1)
    await _drip(call)


async def slow_bodies_of_one_user(call: Call, plan: Plan, number: int) -> None:
    """Do the same with a token that is good."""
    call.send(_request("POST", "/recovery-wrap", plan.tokens[0], body=_BODY_BYTES), requests=1)
    await _drip(call)


async def _drip(call: Call) -> None:
    while True:
        await call.pause(_DRIP_SECONDS)
        call.send(b" ")


async def never_reading(call: Call, plan: Plan, number: int) -> None:
    """Ask again and again, and never read."""
    while True:
        call.send(_request("GET", "/key"), requests=1)
        await call.pause(_AGAIN_SECONDS)


async def half_open(call: Call, plan: Plan, number: int) -> None:
    """Say nothing; every other one has had an answer before."""
    if number % 2:
        await call.ask(_request("GET", "/key"))
    await call.pause(plan.seconds)


async def aborted(call: Call, plan: Plan, number: int) -> None:
    """Ask, with a good token every other time, and reset before the answer."""
    token = plan.tokens[number % len(plan.tokens)] if number % 2 else ""
    call.send(_request("GET", "/key", token), requests=1)
    await asyncio.sleep(random.uniform(0, 0.002))  # noqa: S311 - nothing secret


async def unknown_kids(call: Call, plan: Plan, number: int) -> None:
    """Ask with a token whose key the issuer may have since now."""
    for again in range(number, number + len(plan.unknown)):
        await call.ask(_request("GET", "/key", plan.unknown[again % len(plan.unknown)]))
        await call.pause(_AGAIN_SECONDS)


async def one_user(call: Call, plan: Plan, number: int) -> None:
    """Rotate the key of one user, whose row all others of that user wait for."""
    await call.ask(_request("POST", "/rotate", plan.tokens[0]))


async def many_addresses(call: Call, plan: Plan, number: int) -> None:
    """Ask now and then, as honest users do."""
    while True:
        await call.ask(_request("GET", "/key"))
        await call.pause(_AGAIN_SECONDS)


async def stalled_handshake(call: Call, plan: Plan, number: int) -> None:
    """Begin a TLS handshake, every other time, and say nothing more."""
    if number % 2:
        call.send(_client_hello()[: 1 + number % 200])
    await call.pause(plan.seconds)


async def pipelining(call: Call, plan: Plan, number: int) -> None:
    """Send many requests at once, again and again, and never read an answer."""
    while True:
        call.send(_request("GET", "/key") * _PIPELINED, requests=_PIPELINED)
        await call.pause(_AGAIN_SECONDS)


async def huge_headers(call: Call, plan: Plan, number: int) -> None:
    """Send headers without end: of many lines, or of one line."""
    call.send(_request("GET", "/key")[:-2])
    if number % 2:
        call.send(b"X-Huge: ")
    piece = (
        b"x" * 4096
        if number % 2
        else b"".join(b"X-%d: %s\r\n" % (n, b"x" * 200) for n in range(16))
    )
    while True:
        for _ in range(_LINES_AT_ONCE):
            call.send(piece)
        await call.pause(_DRIP_SECONDS / 2)


@cache
def _client_hello() -> bytes:
    """Return how a client begins to speak TLS."""
    sent = ssl.MemoryBIO()
    context = ssl.create_default_context()
    client = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname="custody.example")
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return sent.read()
    raise AssertionError("a handshake without an answer")


ATTACKS = (
    # What it costs honest users is what the machine itself does to the figures.
    Attack("nobody", half_open, connections=1, addresses=1, most=1),
    Attack("slow headers", slow_headers, connections=1000, addresses=20, most=5000),
    Attack("slow bodies", slow_bodies, connections=1000, addresses=20, most=5000),
    Attack("never reading", never_reading, connections=1000, addresses=100, most=5000, reads=False),
    Attack("half-open", half_open, connections=1000, addresses=100, most=5000),
    Attack(
        "aborted requests",
        aborted,
        connections=50,
        addresses=50,
        most=10_000,
        rate=550,
        resets=True,
    ),
    Attack(
        "unknown kids, JWKS hangs",
        unknown_kids,
        connections=1500,
        addresses=300,
        most=5000,
        files=4096,
        jwks_hangs=True,
    ),
    Attack(
        "one user, 5,000 requests",
        one_user,
        connections=1500,
        addresses=300,
        most=5000,
        rate=280,
        files=4096,
    ),
    Attack("300 addresses", many_addresses, connections=1500, addresses=300, most=5000),
    Attack(
        "stalled handshakes",
        stalled_handshake,
        connections=1000,
        addresses=100,
        most=5000,
        tls=True,
    ),
    Attack(
        "pipelining, not reading", pipelining, connections=20, addresses=4, most=400, reads=False
    ),
    Attack("huge headers", huge_headers, connections=100, addresses=10, most=2000),
    Attack(
        "one user, slow bodies",
        slow_bodies_of_one_user,
        connections=1500,
        addresses=300,
        most=5000,
        files=4096,
    ),
)
