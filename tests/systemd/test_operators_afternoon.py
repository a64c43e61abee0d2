"""The afternoon of an operator: a page, and those that it names, from nothing to a restore."""

import json

import pytest

from tests.eventually import soon
from tests.leaks import remember
from tests.systemd.howto import sections
from tests.systemd.neighbours import ISSUER, start_openbao
from tests.systemd.test_howto import (
    APPROLE,
    INSTALL,
    INSTALLED,
    ONE_OF_THESE,
    VAULT,
    follow,
    fresh,
)
from tests.systemd.throwaway import System
from tests.tokens import Issuer

__all__ = ["fresh"]
pytestmark = [pytest.mark.timeout(600), pytest.mark.prove]

PAGE, SECOND = "operators-afternoon", "second-root"
PROMETHEUS = "http://127.0.0.1:9090/api/v1"


def _ask(system: System, user: str, path: str) -> tuple[int, dict[str, object]]:
    command = ("curl", "--silent", "--header", f"@/run/{user}", "--write-out", "\n%{http_code}")
    text, _, status = system.run(*command, f"{VAULT}{path}").stdout.rpartition("\n")
    return int(status), json.loads(text)


def test_the_afternoon_of_an_operator(fresh: System, issuer: Issuer) -> None:
    theirs = Issuer(url=f"https://{ISSUER}")
    theirs.key = issuer.key
    titles = [title for title in sections(INSTALL) if title not in {*ONE_OF_THESE, *INSTALLED}]
    configured, end = (
        titles.index(title) + 1 for title in ("Configuration", "The nightly re-wrap")
    )
    follow(fresh, INSTALL, titles[:configured])
    # Nobody waits half a minute for the sealer.
    quick = "echo 'audit_seal_interval = 1' >> /etc/custody/custody.toml"
    fresh.run("sh", "-c", quick)
    follow(fresh, INSTALL, titles[configured:end])
    for user in ("alice", "bob"):
        fresh.write(
            f"/run/{user}", f"Authorization: Bearer {remember(theirs.token(user))}\n", 0o600
        )
    follow(fresh, PAGE, ["The first key", "Monitoring"])
    made = {user: json.loads(fresh.read(f"/run/key-of-{user}")) for user in ("alice", "bob")}
    for one in made.values():
        remember(one["masterKey"])

    administrator = start_openbao(fresh)
    follow(fresh, APPROLE, ["The key and its AppRole"], administrator)
    remember(fresh.read("/run/vault-secret-id"))
    follow(fresh, APPROLE, ["The login"])
    follow(fresh, PAGE, ["To OpenBao, in envelope mode"])
    follow(fresh, SECOND, ["Set it up", "The drill", "Every week"])
    status, moved = _ask(fresh, "alice", "/key")
    assert (status, moved["masterKey"]) == (200, made["alice"]["masterKey"])
    assert str(moved["kekId"]).startswith("dk-")

    follow(fresh, PAGE, ["Back up", "Restore elsewhere", "Verify", "Erase"])
    assert _ask(fresh, "bob", "/key")[0] == 404
    follow(fresh, PAGE, ["Replay, and serve"])
    assert _ask(fresh, "alice", "/key")[1]["masterKey"] == made["alice"]["masterKey"]
    assert _ask(fresh, "bob", "/key")[0] == 404

    def up() -> bool:
        said = fresh.run("curl", "--silent", f"{PROMETHEUS}/query?query=up").stdout
        (one,) = json.loads(said)["data"]["result"]
        return bool(one["value"][1] == "1")

    soon(up, 40)  # it was down a moment ago, and is asked every few seconds
    # The keys and passwords are nowhere but where the page has put them.
    assert "kek-" not in fresh.run("ls", "/run").stdout


def test_every_section_with_commands_is_in_the_afternoon() -> None:
    assert [title for title, blocks in sections(PAGE).items() if blocks] == [
        "The first key",
        "Monitoring",
        "To OpenBao, in envelope mode",
        "Back up",
        "Restore elsewhere",
        "Verify",
        "Erase",
        "Replay, and serve",
    ]
