"""If-Match and ETag: what protects a user's key against a stale device."""

from collections.abc import Callable, Sequence

import pytest

from tests.client import Client, generation_of, tag_of
from tests.http.wire import ask
from tests.proofs import some
from tests.servers import Daemon
from tests.states import IV, OTHER_KEY, TABLE, WRAPPED, act

Device = Callable[[str], Client]

# Calls that honour If-Match: their routes in the state table.
CHANGES = {
    "rotate": "rotate",
    "set recovery": "set_recovery",
    "clear recovery": "clear_recovery",
    "ZK on": "enable_zk",
    "ZK off": "disable_zk",
    "rotation begun": "begin_rotation",
    "rotation ended": "end_rotation",
}
# POST /reset needs a fresh login: tests/http/test_states.py has it.
NAMES = some(list(CHANGES), *list(CHANGES)[:5])
ACTIONS = {route: TABLE[route][1][2] for route in CHANGES.values()}

# {now} is the current generation, {old} the one before it
CURRENT = (
    '"{now}"',
    "*",
    " * ",
    '  "{now}"\t',
    '"{old}", "{now}"',
    '"{now}" , "{old}"',
    '"{old}","{now}","x"',
    ',"{now}"',
    '"{now}",',
    ', ,\t"{now}", ,',
    'W/"{now}", "{now}"',
    '"comma,within", "{now}"',
)
STALE = (
    '"{old}"',
    'W/"{now}"',
    'W/"{old}", W/"{now}"',
    '"{old}", W/"{now}"',
    '"999999999999999999999999"',
    '"0{now}"',
    '"+{now}"',
    '"{now}.0"',
    '"-1"',
    '"two"',
    '""',
    '"*"',
    '"{now},"',
    '"W/{now}"',
    "\"'{now}'\"",
    '"\\{now}"',
    '"\u00e9"',
)
MALFORMED = (
    "",
    " ",
    ",",
    "{now}",
    '"{now}',
    '{now}"',
    '"',
    '"""',
    "'{now}'",
    'w/"{now}"',
    "W/{now}",
    'W/ "{now}"',
    "W/",
    "W/*",
    "**",
    "*, *",
    '*, "{now}"',
    '"{now}", *',
    '"{now}""{old}"',
    '"{now}" "{old}"',
    '"{now}"; "{old}"',
    '"{now}" x',
    '"a b"',
    "null",
)


async def prepare(client: Client, change: str) -> tuple[str, str, str]:
    """Make a vault that was rotated once, and return its key, generation and former one."""
    old = tag_of(await client.init()).strip('"')
    rotated = await client.rotate()
    if change == "end_rotation":
        old, rotated = tag_of(rotated).strip('"'), await client.begin_rotation()
    assert (await client.set_recovery(WRAPPED, IV)).status == 200
    if change == "disable_zk":
        assert (await client.enable_zk()).status == 200
    return rotated.json["masterKey"], tag_of(rotated).strip('"'), old


def fill(values: Sequence[str], now: str, old: str) -> list[str]:
    return [value.replace("{now}", now).replace("{old}", old) for value in values]


@pytest.mark.parametrize("name", NAMES)
async def test_current(daemon: Daemon, device: Device, name: str) -> None:
    change = CHANGES[name]
    for number, value in enumerate(CURRENT):
        client = device(f"user-{number}")
        key, now, old = await prepare(client, change)
        before = await daemon.database.audit(client.user)
        answer = await act(client, change, key, fill([value], now, old)[0])
        assert answer.status == 200, value
        after = await daemon.database.audit(client.user)
        assert after == [*before, (ACTIONS[change], None, 200)], value


@pytest.mark.parametrize("name", NAMES)
async def test_stale(daemon: Daemon, device: Device, name: str) -> None:
    change, client = CHANGES[name], device("alice")
    key, now, old = await prepare(client, change)
    row = await daemon.database.vault("alice")
    for value in fill(STALE, now, old):
        before = await daemon.database.audit("alice")
        answer = await act(client, change, key, value)
        assert (answer.status, answer.code) == (412, "STALE_GENERATION"), value
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.headers.get("ETag") is None
        after = await daemon.database.audit("alice")
        assert after == [*before, (ACTIONS[change], "stale-generation", 412)], value
    assert await daemon.database.vault("alice") == row


@pytest.mark.parametrize("name", NAMES)
async def test_malformed(daemon: Daemon, device: Device, name: str) -> None:
    change, client = CHANGES[name], device("alice")
    key, now, old = await prepare(client, change)
    row = await daemon.database.vault("alice")
    before = await daemon.database.audit("alice")
    for value in fill(MALFORMED, now, old):
        answer = await act(client, change, key, value)
        assert (answer.status, answer.code) == (400, "BAD_REQUEST"), value
    assert await daemon.database.audit("alice") == before
    assert await daemon.database.vault("alice") == row


@pytest.mark.parametrize("value", some(["*", '"1"', '"0"', '""', 'W/"1"'], "*", '"1"'))
@pytest.mark.parametrize("name", NAMES)
async def test_no_vault(daemon: Daemon, device: Device, name: str, value: str) -> None:
    """412 before 404, and nothing is created, not even by rotate."""
    change, client = CHANGES[name], device("alice")
    answer = await act(client, change, OTHER_KEY, value)
    assert (answer.status, answer.code) == (412, "STALE_GENERATION")
    assert (await client.status()).json["vaultExists"] is False
    assert await daemon.database.vault("alice") == {}


async def test_stale_and_no_vault_of_a_known_user_is_audited(
    daemon: Daemon, device: Device
) -> None:
    await daemon.database.execute("INSERT INTO auth.users (id) VALUES ('alice')")
    for change in CHANGES.values():
        before = await daemon.database.audit("alice")
        await act(device("alice"), change, OTHER_KEY, "*")
        after = await daemon.database.audit("alice")
        assert after == [*before, (ACTIONS[change], "stale-generation", 412)]


async def test_412_before_409_and_400(daemon: Daemon, device: Device) -> None:
    alice, bob = device("alice"), device("bob")
    _, now, old = await prepare(alice, CHANGES["ZK off"])
    for name in ("rotate", "clear recovery", "ZK off"):
        stale = await act(alice, CHANGES[name], OTHER_KEY, f'"{old}"')
        assert (stale.status, stale.code) == (412, "STALE_GENERATION"), name
        # The control: with a precondition that holds it is the conflict.
        assert (await act(alice, CHANGES[name], OTHER_KEY, f'"{now}"')).status == 409, name
        assert (await act(alice, CHANGES[name], OTHER_KEY, "*")).status == 409, name
    tag = tag_of(await bob.init())
    assert (await bob.enable_zk('"7"')).status == 412
    assert (await bob.enable_zk(tag)).code == "RECOVERY_WRAP_MISSING"


async def test_several_header_lines(daemon: Daemon, device: Device) -> None:
    token = daemon.issuer.bearer("alice")
    _, now, old = await prepare(device("alice"), CHANGES["set recovery"])
    table = (
        (('"{old}"', '"{now}"'), 200),
        (('"{now}"', '"{old}"'), 200),
        (("", '"{now}"'), 200),
        (('W/"{now}"', '"{old}"'), 412),
        (("*", '"{now}"'), 400),
        (("*", "*"), 400),
        (('"{now}', '"'), 412),  # joined, as RFC 9110 says: one tag with a comma in it
        (("", ""), 400),
    )
    for lines, status in table:
        first, second = fill(lines, now, old)
        headers = {"Authorization": token, "If-Match": first, "if-match": second}
        answer = await ask(daemon, "DELETE", "/recovery-wrap", headers)
        assert answer.status == status, lines


async def test_bytes_beyond_ascii(daemon: Daemon, device: Device) -> None:
    token = daemon.issuer.bearer("alice")
    tag = tag_of(await device("alice").init()).encode()
    for value, status in ((b'"\xff\xfe"', 412), (tag + b', "\xe9"', 200), (b"\xff", 400)):
        headers: dict[str, str | bytes] = {"Authorization": token, "If-Match": value}
        assert (await ask(daemon, "DELETE", "/recovery-wrap", headers)).status == status, value


@pytest.mark.parametrize("value", ['"99"', 'W/"1"', "nonsense", "", "*"])
async def test_ignored_where_nothing_is_replaced(device: Device, value: str) -> None:
    alice = device("alice")
    for method, path in (
        ("GET", "/status"),
        ("POST", "/init"),
        ("GET", "/key"),
        ("GET", "/status"),
    ):
        answer = await alice.call(method, path, if_match=value)
        assert answer.status == 200, path


async def test_generation_grows_with_every_new_key_and_nothing_else(
    daemon: Daemon, device: Device
) -> None:
    alice = device("alice")

    async def unchanged(seen: int) -> None:
        assert generation_of(await alice.key()) == seen
        assert generation_of(await alice.init()) == seen

    last = generation_of(await alice.init())
    for _ in range(3):
        key = (await alice.key()).json["masterKey"]
        await unchanged(last)
        for step in (
            alice.set_recovery(WRAPPED, IV),
            alice.set_recovery(WRAPPED, IV),
            alice.clear_recovery(),
            alice.clear_recovery(),
            alice.set_recovery(WRAPPED, IV),
            alice.disable_zk(key),
            alice.enable_zk(),
            alice.enable_zk(),
            alice.set_recovery(WRAPPED, IV),
            alice.disable_zk(key),
            alice.disable_zk(key),
            alice.status(),
        ):
            answer = await step
            assert answer.status == 200
            assert answer.headers.get("ETag") is None
            await unchanged(last)
        rotated = generation_of(await alice.rotate())
        assert rotated > last
        last = rotated
    # A vault that is made by rotate has one too.
    assert generation_of(await device("bob").rotate()) >= 1


async def test_of_two_devices_one_rotates(device: Device) -> None:
    laptop, phone = device("alice"), device("alice")
    tag = tag_of(await laptop.init())
    assert tag_of(await phone.key()) == tag
    rotated = await laptop.rotate(tag)
    assert rotated.status == 200
    assert (await phone.rotate(tag)).code == "STALE_GENERATION"
    assert (await phone.key()).json == rotated.json
