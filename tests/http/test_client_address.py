"""Whose address the audit trail shows, and which user agent."""

import asyncio
import socket
import struct
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from custody.http.client_address import TrustedProxies, parse_address
from custody.http.routes import BASE_PATH
from tests.http.wire import ask, exchange, parse, request
from tests.servers import Daemon, Database, daemon_here
from tests.tokens import Issuer

PROXIES = ("10.0.0.0/8", "192.0.2.7", "2001:db8:aa::/48")

# peer, X-Forwarded-For lines → address
TABLE: tuple[tuple[str, tuple[str, ...], str | None], ...] = (
    # a peer that is no proxy is believed about nothing
    ("203.0.113.9", (), "203.0.113.9"),
    ("203.0.113.9", ("198.51.100.1",), "203.0.113.9"),
    ("203.0.113.9", ("198.51.100.1, 10.0.0.1",), "203.0.113.9"),
    ("192.0.2.8", ("198.51.100.1",), "192.0.2.8"),
    ("2001:db8:ab::1", ("198.51.100.1",), "2001:db8:ab::1"),
    ("127.0.0.1", ("198.51.100.1",), "127.0.0.1"),
    # behind proxies: the first from the right that is none
    ("10.0.0.1", ("198.51.100.1",), "198.51.100.1"),
    ("10.255.255.255", ("198.51.100.1",), "198.51.100.1"),
    ("192.0.2.7", ("198.51.100.1",), "198.51.100.1"),
    ("10.0.0.1", ("1.1.1.1, 198.51.100.1",), "198.51.100.1"),
    ("10.0.0.1", ("1.1.1.1, 198.51.100.1, 10.0.0.2, 192.0.2.7",), "198.51.100.1"),
    ("10.0.0.1", ("10.9.9.9, 198.51.100.1, 10.0.0.2",), "198.51.100.1"),
    ("10.0.0.1", (" \t198.51.100.1\t ",), "198.51.100.1"),
    ("10.0.0.1", ("1.1.1.1", "198.51.100.1"), "198.51.100.1"),
    ("10.0.0.1", ("198.51.100.1", "10.0.0.2"), "198.51.100.1"),
    ("10.0.0.1", ("1.1.1.1,198.51.100.1", "10.0.0.2,10.0.0.3"), "198.51.100.1"),
    # all hops are proxies: the one furthest away
    ("10.0.0.1", ("10.0.0.3, 10.0.0.2",), "10.0.0.3"),
    # no header
    ("10.0.0.1", (), "10.0.0.1"),
    ("10.0.0.1", ("",), "10.0.0.1"),
    ("10.0.0.1", ("", ""), "10.0.0.1"),
    # junk ends the search at the last hop that is trusted
    ("10.0.0.1", ("198.51.100.1, unknown",), "10.0.0.1"),
    ("10.0.0.1", ("198.51.100.1, unknown, 10.0.0.2",), "10.0.0.2"),
    ("10.0.0.1", ("198.51.100.1,",), "10.0.0.1"),
    ("10.0.0.1", ("198.51.100.1,,10.0.0.2",), "10.0.0.2"),
    ("10.0.0.1", ("junk, 198.51.100.1",), "198.51.100.1"),
    *(
        ("10.0.0.1", (f"198.51.100.1, {junk}, 10.0.0.2",), "10.0.0.2")
        for junk in (
            "198.51.100.2:",
            "198.51.100.2:http",
            "198.51.100.2:123456",
            "198.51.100.2:4:3",
            "198.51.100.256:443",
            "2001:db8::1]:443",
            "[2001:db8::1",
            "[2001:db8::1]443",
            "[2001:db8::1]:",
            "[198.51.100.2]",
            "[198.51.100.2]:443",
            "[fe80::1%eth0]:443",
            "[]:443",
            "[" + ":" * 7000,
            '"198.51.100.2',
            '198.51.100.2"',
            '""198.51.100.2""',
            '"',
            '""',
            "'198.51.100.2'",
            "for=198.51.100.2",
            "198.51.100",
            "198.51.100.256",
            "198.051.100.002",
            "0x7f.1",
            "2130706433",
            "198.51.100.2/32",
            "fe80::1%eth0",
            "fe80::1%<script>",
            "::ffff:999.1.1.1",
            "\u0661.1.1.1",
            "localhost",
            "_hidden",
            "198.51.100.2 x",
            "'; DROP TABLE auth.users; --",
            "9" * 5000,
        )
    ),
    # IPv6, and IPv4 written as IPv6
    ("2001:db8:aa::1", ("2001:db8::2",), "2001:db8::2"),
    ("2001:db8:aa::1", ("2001:0DB8:0000::0002",), "2001:db8::2"),
    ("2001:db8:aa::1", ("2001:db8::2, 2001:db8:aa::3",), "2001:db8::2"),
    ("::ffff:10.0.0.1", ("198.51.100.1",), "198.51.100.1"),
    ("::ffff:203.0.113.9", ("198.51.100.1",), "203.0.113.9"),
    ("10.0.0.1", ("198.51.100.1, ::ffff:10.0.0.2",), "198.51.100.1"),
    ("10.0.0.1", ("::ffff:198.51.100.1",), "198.51.100.1"),
    # a port behind the address is cut off, and quotes around it
    ("10.0.0.1", ("203.0.113.9:51234",), "203.0.113.9"),
    ("10.0.0.1", ("1.1.1.1:1, 203.0.113.9:51234, 10.0.0.2:65535",), "203.0.113.9"),
    ("10.0.0.1", ("[2001:db8::1]:443",), "2001:db8::1"),
    ("10.0.0.1", ("[2001:db8::1]",), "2001:db8::1"),
    ("10.0.0.1", ("[2001:DB8::1]:443, [2001:db8:aa::9]:1",), "2001:db8::1"),
    ("10.0.0.1", ("[::ffff:198.51.100.1]:443",), "198.51.100.1"),
    ("10.0.0.1", ('"203.0.113.9"',), "203.0.113.9"),
    ("10.0.0.1", ('"203.0.113.9:51234"',), "203.0.113.9"),
    ("10.0.0.1", ('"[2001:db8::1]:443", "10.0.0.2"',), "2001:db8::1"),
    ("10.0.0.1", ("2001:db8::1:443",), "2001:db8::1:443"),
    # a peer that is no plain address is stored as none, and believed about nothing
    ("fe80::1%eth0", ("198.51.100.1",), None),
    # a unix socket's peer, when that is not trusted
    ("", ("198.51.100.1",), None),
    ("", (), None),
)


def address(proxies: tuple[str, ...], peer: str, lines: tuple[str, ...]) -> str | None:
    headers = CIMultiDict([("X-Forwarded-For", line) for line in lines])
    if lines:
        headers.add("Forwarded", "for=198.51.100.99")
    headers.add("X-Real-IP", "198.51.100.98")
    made = make_mocked_request("GET", "/", headers=headers).clone(remote=peer)
    return TrustedProxies(proxies).client_address(made)


@pytest.mark.parametrize(("peer", "lines", "expected"), TABLE)
def test_address(peer: str, lines: tuple[str, ...], expected: str | None) -> None:
    assert address(PROXIES, peer, lines) == expected


@pytest.mark.parametrize(
    ("peer", "lines", "expected"),
    [
        ("", ("198.51.100.1",), "198.51.100.1"),
        ("", ("1.1.1.1, 198.51.100.1, 10.0.0.2",), "198.51.100.1"),
        ("", ("junk",), None),
        ("", ("198.51.100.1, junk",), None),
        ("", (), None),
        ("203.0.113.9", ("198.51.100.1",), "203.0.113.9"),
        # A zone makes it no plain address, but not a unix socket either.
        ("fe80::1%eth0", ("198.51.100.1",), None),
    ],
)
def test_unix_is_trusted_by_name_only(
    peer: str, lines: tuple[str, ...], expected: str | None
) -> None:
    assert address(("unix", "10.0.0.0/8"), peer, lines) == expected


def test_nobody_is_trusted_by_default() -> None:
    for peer in ("127.0.0.1", "::1", "10.0.0.1"):
        assert address((), peer, ("198.51.100.1",)) == peer


def test_everybody_trusted() -> None:
    everybody = ("0.0.0.0/0", "::/0")
    assert address(everybody, "1.1.1.1", ("2.2.2.2, 3.3.3.3",)) == "2.2.2.2"
    assert address(everybody, "::1", ("2.2.2.2, 2001:db8::1",)) == "2.2.2.2"


@pytest.mark.parametrize("text", ["", " ", "1.2.3.4 ", "::1%lo", "a", "1", "1.2.3.4\0", "\ud800"])
def test_no_address(text: str) -> None:
    assert parse_address(text) is None


async def audited(database: Database) -> list[tuple[str | None, str | None]]:
    trail = "SELECT ip_address, user_agent FROM auth.encryption_vault_audit ORDER BY created_at, id"
    return [(row["ip_address"], row["user_agent"]) for row in await database.fetch(trail)]


async def init(daemon: Daemon, **headers: str | bytes) -> None:
    """POST /init of alice with more headers, whose names are written with underscores."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    token = {"Authorization": daemon.issuer.bearer("alice")}
    assert (await ask(daemon, "POST", "/init", token | sent)).status == 200


async def test_address_in_the_audit_row(daemon: Daemon) -> None:
    await init(daemon, X_Forwarded_For="198.51.100.1")
    assert await audited(daemon.database) == [("127.0.0.1", None)]


async def test_address_behind_a_proxy(database: Database, issuer: Issuer, tmp_path: Path) -> None:
    proxies = "127.0.0.1, 10.0.0.0/8"
    async with daemon_here(database, issuer, tmp_path, TRUSTED_PROXIES=proxies) as daemon:
        for value in ("1.1.1.1, 198.51.100.1, 10.0.0.2", "junk", "x" * 7000, "2001:DB8::2"):
            await init(daemon, X_Forwarded_For=value)
        for value in ("203.0.113.9:51234", '"[2001:db8::1]:443"', "203.0.113.9:junk"):
            await init(daemon, X_Forwarded_For=value)
        await init(daemon, X_Forwarded_For=b"198.51.100.1, \xff\xfe")
        await init(daemon)
    assert [address for address, _ in await audited(database)] == [
        "198.51.100.1",
        "127.0.0.1",
        "127.0.0.1",
        "2001:db8::2",
        "203.0.113.9",
        "2001:db8::1",
        "127.0.0.1",
        "127.0.0.1",
        "127.0.0.1",
    ]


@pytest.mark.parametrize(("proxies", "expected"), [("unix", "198.51.100.1"), ("", None)])
async def test_address_behind_a_unix_socket(
    database: Database, issuer: Issuer, tmp_path: Path, proxies: str, expected: str | None
) -> None:
    listen = f"unix:{tmp_path}/s"
    async with daemon_here(
        database, issuer, tmp_path, LISTEN=listen, TRUSTED_PROXIES=proxies
    ) as daemon:
        await init(daemon, X_Forwarded_For="198.51.100.1")
    assert await audited(database) == [(expected, None)]


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        (b"Mozilla/5.0 (X11)", "Mozilla/5.0 (X11)"),
        (b"", None),
        (b"a" * 512, "a" * 512),
        (b"a" * 513, "a" * 512),
        (b"a" * 8000, "a" * 512),
        ("\u00e9".encode() * 600, "\u00e9" * 512),
        ("\U0001f511".encode() * 600, "\U0001f511" * 512),
        (b"caf\xe9 \xff\xfe", "caf? ??"),
        (b"\xed\xa0\x80", "???"),
        (b"tab\there", "tab\there"),
        (b"'; DROP TABLE auth.users; --", "'; DROP TABLE auth.users; --"),
    ],
)
async def test_user_agent_in_the_audit_row(daemon: Daemon, sent: bytes, stored: str | None) -> None:
    await init(daemon, User_Agent=sent)
    assert await audited(daemon.database) == [("127.0.0.1", stored)]


async def test_user_agent_with_nul_is_no_request(daemon: Daemon) -> None:
    token = daemon.issuer.bearer("alice")
    headers: dict[str, str | bytes] = {"Authorization": token, "User-Agent": b"a\0b"}
    (answer,) = parse(await exchange(daemon.base, request("POST", f"{BASE_PATH}/init", headers)))
    assert (answer.status, answer.code) == (400, "BAD_REQUEST")
    assert await audited(daemon.database) == []


@pytest.mark.prove
@pytest.mark.parametrize("trusted", ["", "unix"])
async def test_who_is_gone_before_it_was_known_gets_nothing_done(
    database: Database, issuer: Issuer, tmp_path: Path, trusted: str
) -> None:
    """A connection that is reset has no address any more: a rotation would be nobody's."""
    sent = request(
        "POST",
        f"{BASE_PATH}/rotate",
        {"Authorization": issuer.bearer("alice"), "X-Forwarded-For": "203.0.113.99"},
    )
    async with daemon_here(database, issuer, tmp_path, TRUSTED_PROXIES=trusted) as daemon:
        where = urlsplit(daemon.base)
        for _ in range(20):
            # All of it before the daemon, in this very thread, takes the connection.
            with socket.create_connection((where.hostname, where.port)) as client:
                client.sendall(sent)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await asyncio.sleep(0.02)
        assert await database.audit("alice") == []
        (answer,) = parse(await exchange(daemon.base, sent))
        assert answer.status == 200
        (row,) = await database.fetch("SELECT ip_address FROM auth.encryption_vault_audit")
        assert row["ip_address"] == "127.0.0.1"


def test_unknown_peer_is_no_unix_socket() -> None:
    request = make_mocked_request("GET", "/", headers={"X-Forwarded-For": "203.0.113.99"})
    request._transport_peername = None  # as aiohttp has it then
    assert request.remote is None
    assert TrustedProxies(["unix"]).client_address(request) is None
    by_socket = request.clone(remote="")
    assert TrustedProxies(["unix"]).client_address(by_socket) == "203.0.113.99"


def of_headers(headers: CIMultiDict[str], peer: str) -> str | None:
    asked = make_mocked_request("GET", "/", headers=headers).clone(remote=peer)
    return TrustedProxies(PROXIES).client_address(asked)


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        (("for=198.51.100.1",), "198.51.100.1"),
        (("For=198.51.100.1;proto=https;by=10.0.0.1",), "198.51.100.1"),
        (('for="198.51.100.1:4711"',), "198.51.100.1"),
        (('for="[2001:db8::9]:4711";proto=https',), "2001:db8::9"),
        (('for="[2001:db8::9]"',), "2001:db8::9"),
        (("for=1.1.1.1, for=198.51.100.1;proto=http, for=10.0.0.2",), "198.51.100.1"),
        (("for=1.1.1.1", "for=198.51.100.1,for=10.0.0.2"), "198.51.100.1"),
        (('by="a,b";for=198.51.100.1',), "198.51.100.1"),
        # a hop that hides itself, or is none, ends the search at the last one that is trusted
        (("for=198.51.100.1, for=unknown",), "10.0.0.1"),
        (("for=198.51.100.1, for=_hidden, for=10.0.0.2",), "10.0.0.2"),
        (("for=198.51.100.1, proto=https",), "10.0.0.1"),
        (("for=198.51.100.1;for=203.0.113.1",), "10.0.0.1"),
        (("for=198.51.100.1,",), "10.0.0.1"),
        (("for=198.51.100.1,,for=10.0.0.2",), "10.0.0.1"),
        (('for="198.51.100.1',), "10.0.0.1"),
        (('for="198.51.100.1\\"',), "10.0.0.1"),
        (("for = 198.51.100.1",), "10.0.0.1"),
        (('for=203.0.113.1"for=198.51.100.1',), "10.0.0.1"),
        (("for=2001:db8::9",), "10.0.0.1"),
        (("198.51.100.1",), "10.0.0.1"),
        (("",), "10.0.0.1"),
    ],
)
def test_forwarded(forwarded: tuple[str, ...], expected: str) -> None:
    headers = CIMultiDict(("Forwarded", line) for line in forwarded)
    assert of_headers(headers, "10.0.0.1") == expected


def test_x_forwarded_for_wins_over_forwarded() -> None:
    """A proxy that writes the one lets a client write the other."""
    headers = CIMultiDict({"X-Forwarded-For": "198.51.100.1", "Forwarded": "for=203.0.113.1"})
    assert of_headers(headers, "10.0.0.1") == "198.51.100.1"


def test_forwarded_of_a_peer_that_is_no_proxy() -> None:
    headers = CIMultiDict({"Forwarded": "for=198.51.100.1"})
    assert of_headers(headers, "203.0.113.9") == "203.0.113.9"


def test_forwarded_is_read_in_no_time() -> None:
    """No header of the length that is let through makes the search for its form explode."""
    for text in ("for=a;" * 1300, 'for="' + "x," * 4000, "for=a," * 1300 + '"', "a" * 8000):
        headers = CIMultiDict({"Forwarded": text})
        assert of_headers(headers, "10.0.0.1") == "10.0.0.1"
