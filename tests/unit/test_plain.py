"""Which hosts are this one, and what crosses a network in clear."""

import itertools
import socket

import pytest

from custody.db.dsn import parse
from custody.db.parameters import SSL_MODES
from custody.db.plain import in_clear, unverified
from custody.loopback import is_loopback
from custody.sockets.addresses import Listener
from custody.sockets.listeners import on_network
from kek_backends.plain import plain_address

ANY = "0.0.0.0"  # noqa: S104 - a text, and nothing is bound to it
HERE = (
    *("127.0.0.1", "127.0.0.2", "127.255.255.254", "::1", "::ffff:127.0.0.1"),
    *("localhost", "LOCALHOST"),
)
# What resolves to loopback is not loopback by its name, nor what Linux only treats as it.
ELSEWHERE = (
    *(ANY, "::", "10.0.0.1", "192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1", "fe80::1"),
    *("localhost.", "localhost.example", "notlocalhost", "ip6-localhost", "127.0.0.1.example"),
    *("127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.1.", "", "db", "1", "-1"),
)


@pytest.mark.parametrize("host", HERE)
def test_this_host(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ELSEWHERE)
def test_another_host(host: str) -> None:
    assert not is_loopback(host)


# ── the URL of a KMS, or of a JWKS ────────────────────────────────────────────


@pytest.mark.parametrize(
    "url",
    [
        "https://kms.example",
        "HTTPS://kms.example:8200/path",
        "http://127.0.0.1:8200",
        "http://[::ffff:127.0.0.1]:8200",
        "http://127.8.8.8",
        "http://[::1]:8200/",
        "http://localhost:8200",
        "http://LocalHost",
        "unix:///run/agent.sock",
    ],
)
def test_nothing_in_clear(url: str) -> None:
    assert plain_address(url) is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://kms.example", "http://kms.example"),
        ("HTTP://KMS.example:8200/v1?token=s", "http://KMS.example:8200"),
        ("http://u:secret@10.0.0.1:8200", "http://10.0.0.1:8200"),
        ("http://localhost@kms.example", "http://kms.example"),
        ("http://localhost.example", "http://localhost.example"),
        ("http://0.0.0.0:8200", "http://0.0.0.0:8200"),
        ("http://[2001:db8::1]:8200", "http://[2001:db8::1]:8200"),
        ("tcp://kms.example:1", "tcp://kms.example:1"),
    ],
)
def test_in_clear(url: str, shown: str) -> None:
    """Nothing is shown of it that may be a secret."""
    assert plain_address(url) == shown


# ── the URL of a database ─────────────────────────────────────────────────────

# A part of a URL before its parameters, and the host of it that is on a network, if any.
PLACES = {
    "r@127.0.0.1/d": None,
    "r@localhost:5433/d": None,
    "r@[::1]/d": None,
    "r@%2Frun%2Fpostgresql/d": None,
    "r@/d": None,
    "r@127.0.0.1,[::1],localhost/d": None,
    "r@db.example/d": "db.example:5432",
    "r@10.0.0.1:6432/d": "10.0.0.1:6432",
    "r@[2001:db8::1]/d": "[2001:db8::1]:5432",
    "r@127.0.0.1,db.example/d": "db.example:5432",
    "r@db.example,127.0.0.1/d": "db.example:5432",
    "r@%2Frun%2Fpostgresql,127.0.0.1,10.0.0.1/d": "10.0.0.1:5432",
}


@pytest.mark.parametrize(("place", "mode"), [*itertools.product(PLACES, (None, *SSL_MODES))])
def test_every_place_with_every_sslmode(place: str, mode: str | None) -> None:
    """libpq's default, prefer, speaks in clear to whoever says that there is no TLS."""
    target = parse(f"postgresql://{place}" + (f"?sslmode={mode}" if mode else ""))
    host, named = PLACES[place], mode or "prefer"
    clear = host is not None and named in {"disable", "allow", "prefer"}
    other = host is not None and named in {"require", "verify-ca"}
    said = f"what goes to {host} may cross the network in clear (sslmode={named})"
    assert (in_clear(target) or "").startswith(said) is clear
    assert (in_clear(target) is None) is not clear
    said = f"sslmode={named} does not make sure that {host} is who answers"
    assert (unverified(target) or "").startswith(said) is other
    assert (unverified(target) is None) is not other


@pytest.mark.parametrize(
    ("url", "variables", "clear"),
    [
        ("postgresql:///d", {}, False),
        ("postgresql:///d", {"PGHOST": "db.example"}, True),
        ("postgresql:///d", {"PGHOST": "db.example", "PGSSLMODE": "require"}, False),
        ("postgresql:///d", {"PGHOSTADDR": "10.0.0.1"}, True),
        ("postgresql://db.example/d", {"PGSSLMODE": "verify-full"}, False),
        ("postgresql://db.example/d", {"PGSSLMODE": "disable"}, True),
        ("postgresql://db.example/d?sslmode=prefer", {"PGSSLMODE": "require"}, True),
        ("postgresql://127.0.0.1/d", {"PGHOST": "db.example"}, False),
        ("postgresql:///d?host=db.example", {}, True),
        ("postgresql:///d?host=/run/postgresql,db.example", {}, True),
        ("postgresql://db.example/d?ssl=true", {}, False),
        ("postgresql://db.example/d?sslrootcert=system", {}, False),
        # Where the connection goes, whatever the host is called.
        ("postgresql://db.example/d?hostaddr=127.0.0.1", {}, False),
        ("postgresql://localhost/d?hostaddr=10.0.0.1", {}, True),
        ("postgresql://127.0.0.1,localhost/d?hostaddr=,10.0.0.1", {}, None),
    ],
)
def test_variables_and_addresses(url: str, variables: dict[str, str], clear: bool | None) -> None:
    if clear is None:
        with pytest.raises(ValueError, match="an address of a host"):
            parse(url, variables)
        return
    assert (in_clear(parse(url, variables)) is not None) is clear


def test_the_password_is_not_shown() -> None:
    target = parse("postgresql://role:hunter2@db.example/d?sslpassword=hunter2")
    assert "hunter2" not in str(in_clear(target))


# ── sockets ───────────────────────────────────────────────────────────────────


class Bound(Listener):
    """A socket that says where it is bound, and is bound nowhere."""

    place: tuple[object, ...] = ()

    def getsockname(self) -> tuple[object, ...]:
        return self.place


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        (("127.0.0.1", 3001), None),
        (("::1", 3001, 0, 0), None),
        ((ANY, 3001), "0.0.0.0:3001"),
        (("10.0.0.1", 1), "10.0.0.1:1"),
        (("::", 3001, 0, 0), "[::]:3001"),
        (("fe80::1", 3001, 0, 2), "[fe80::1]:3001"),
        # What AF_VSOCK has: the number of a machine.
        ((3, 3001), "3:3001"),
    ],
)
def test_where_a_socket_is_bound(place: tuple[object, ...], shown: str | None) -> None:
    with Bound() as listener:
        listener.place = place
        assert on_network([listener]) == ([shown] if shown else [])


def test_a_unix_socket_is_on_no_network() -> None:
    with Listener(socket.AF_UNIX) as listener:
        assert on_network([listener]) == []
