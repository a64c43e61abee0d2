"""Ways to a token, its renewal, and one new login on a refusal, on a real OpenBao."""

import asyncio
import json
import time
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from hvac.exceptions import Forbidden

from kek_backends.errors import Denied, Misconfigured
from kek_backends.findings import Verdict
from kek_backends.transit import tokens
from kek_backends.transit.kek import TransitKek
from kek_backends.transit.login import AppRole, GivenToken, Grant
from tests.bao_server import Bao
from tests.bindings import of
from tests.certificates import make_certificate
from tests.http_servers import Asked, HttpServer, serving
from tests.kek.kit import KEY, held_token, noting, transit_kek
from tests.leaks import remember

pytestmark = pytest.mark.usefixtures("known_backends")


async def works(kek: TransitKek) -> None:
    wrap = await kek.wrap(of("alice"), KEY)
    assert await kek.unwrap(of("alice"), wrap) == KEY


@pytest.fixture
def no_wait_between_logins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_BETWEEN_LOGINS_SECONDS", 0.0)


@pytest.fixture
def logins(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The moments of all logins."""
    times: list[float] = []
    for kind in (AppRole, GivenToken):
        log_in = noting(lambda *_: times.append(time.monotonic()), kind.log_in)
        monkeypatch.setattr(kind, "log_in", log_in)
    return times


async def test_token_in_a_variable_and_in_a_file(bao: Bao, tmp_path: Path) -> None:
    key = bao.make_key()
    environ = bao.environ(key)
    await works(transit_kek(key, environ))
    file = tmp_path / "token"
    file.write_text(environ.pop("VAULT_TOKEN") + "\n")
    await works(transit_kek(key, environ | {"VAULT_TOKEN_FILE": str(file)}))


async def test_token_file_that_is_missing_or_empty(bao: Bao, tmp_path: Path) -> None:
    file = tmp_path / "token"
    kek = transit_kek("any", {"VAULT_ADDR": bao.address, "VAULT_TOKEN_FILE": str(file)})
    with pytest.raises(Misconfigured, match=r"VAULT_TOKEN_FILE names .*FileNotFoundError"):
        await kek.refresh()
    file.write_text(" \n")
    with pytest.raises(Misconfigured, match="which is empty"):
        await kek.refresh()


async def test_app_role(bao: Bao, tmp_path: Path) -> None:
    key = bao.make_key()
    role_id, secret_id = bao.app_role(bao.write_policy(key))
    file = tmp_path / "secret-id"
    file.write_text(secret_id)
    address = {"VAULT_ADDR": bao.address}
    await works(
        transit_kek(key, address | {"VAULT_ROLE_ID": role_id, "VAULT_SECRET_ID": secret_id})
    )
    by_file = {"VAULT_ROLE_ID": role_id, "VAULT_SECRET_ID_FILE": str(file)}
    kek = transit_kek(key, address | by_file)
    await works(kek)
    # Its token expires soon, and the doctor has nothing to say: the next one comes by itself.
    assert [one.verdict for one in await kek.examine(active=True)] == [Verdict.OK]


async def test_app_role_on_a_mount_of_its_own(bao: Bao) -> None:
    bao.ask("POST", "sys/auth/machines", {"type": "approle"})
    key = bao.make_key()
    policy = bao.write_policy(key)
    bao.ask("POST", "auth/machines/role/custody", {"token_policies": [policy]})
    role_id = bao.ask("GET", "auth/machines/role/custody/role-id")["data"]["role_id"]
    made = bao.ask("POST", "auth/machines/role/custody/secret-id", {})
    environ = {
        "VAULT_ADDR": bao.address,
        "VAULT_ROLE_ID": role_id,
        "VAULT_SECRET_ID": remember(made["data"]["secret_id"]),
        "VAULT_APPROLE_MOUNT": "machines",
    }
    await works(transit_kek(key, environ))


async def test_login_that_is_refused_names_the_cure(bao: Bao) -> None:
    role_id, _ = bao.app_role()
    secret_id = remember("5ec2e700-0000-4000-8000-000000000000")
    environ = {"VAULT_ADDR": bao.address, "VAULT_ROLE_ID": role_id, "VAULT_SECRET_ID": secret_id}
    with pytest.raises(Denied) as caught:
        await transit_kek("any", environ).refresh()
    assert str(caught.value) == (
        "vault:transit/any: the login was refused: is its mount right, VAULT_ADDR https where the "
        "server wants it, and the token, secret id or certificate still good?"
    )
    assert caught.value.__context__ is None


USER = "system:serviceaccount:apps:custody"
SERVICE_ACCOUNT = {"name": "custody", "uid": "f0d2c3a4-0000-4000-8000-000000000001"}


def token_review(accepted: str) -> HttpServer:
    """Answer TokenReviews as a Kubernetes API server does: there is none here.

    Args:
        accepted: the one service account token that is valid.
    """

    def review(asked: Asked) -> None:
        good = json.loads(asked.body)["spec"]["token"] == accepted
        user = {"username": USER, "uid": SERVICE_ACCOUNT["uid"]}
        status = {"authenticated": good, "user": user, "audiences": ["vault"]}
        kind = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview"}
        asked.say(json.dumps({**kind, "status": status}).encode(), 201)

    return HttpServer(review)


def service_account_token() -> str:
    known = {"namespace": "apps", "serviceaccount": SERVICE_ACCOUNT}
    claims = {
        "sub": USER,
        "aud": ["vault"],
        "iat": int(time.time()) - 60,
        "exp": int(time.time()) + 3600,
        "kubernetes.io": known,
    }
    return remember(jwt.encode(claims, generate_private_key(SECP256R1()), algorithm="ES256"))


@pytest.mark.parametrize(
    ("life", "expires"), [("1h", False), pytest.param("2s", True, marks=pytest.mark.prove)]
)
async def test_kubernetes_with_a_token_that_changes(
    bao: Bao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, life: str, expires: bool
) -> None:
    key = bao.make_key()
    policy = bao.write_policy(key)
    first, second = service_account_token(), service_account_token()
    file = tmp_path / "jwt"
    file.write_text(first)
    environ = {
        "VAULT_ADDR": bao.address,
        "VAULT_KUBERNETES_ROLE": "custody",
        "VAULT_KUBERNETES_TOKEN_FILE": str(file),
        "VAULT_KUBERNETES_MOUNT": f"k8s-{key}",
    }
    bao.ask("POST", f"sys/auth/k8s-{key}", {"type": "kubernetes"})
    role = {
        "bound_service_account_names": ["custody"],
        "bound_service_account_namespaces": ["apps"],
        "audience": "vault",
        "token_policies": [policy],
        "token_ttl": life,
        "token_max_ttl": life,
    }
    bao.ask("POST", f"auth/k8s-{key}/role/custody", role)
    # Without TLS to the API server the certificate is not used, but must be there.
    certificate, _ = make_certificate(tmp_path)
    config = {
        "disable_local_ca_jwt": True,
        "token_reviewer_jwt": first,
        "kubernetes_ca_cert": certificate.read_text(),
    }
    kek = transit_kek(key, environ)
    with serving(token_review(first)) as api:
        bao.ask("POST", f"auth/k8s-{key}/config", config | {"kubernetes_host": api.url})
        await works(kek)
    # The kubelet has projected another token, and only that one is good any more.
    file.write_text(second)
    with serving(token_review(second)) as api:
        bao.ask("POST", f"auth/k8s-{key}/config", config | {"kubernetes_host": api.url})
        if expires:
            await asyncio.sleep(2.1)
        else:
            monkeypatch.setattr(tokens, "_BETWEEN_LOGINS_SECONDS", 0.0)
            bao.revoke(remember(held_token(kek)))
        await works(kek)


async def test_renewed_when_two_thirds_of_its_life_are_over(bao: Bao, logins: list[float]) -> None:
    """As in the next test, and nobody waits: the moment is moved, and not the clock."""
    key = bao.make_key()
    kek = transit_kek(key, bao.environ(key, ttl="3h", period="3h"))
    await works(kek)
    token, two_hours = held_token(kek), 2 * 3600.0
    for _ in range(2):
        assert two_hours - 60 < kek._tokens.seconds_to_renewal <= two_hours
        kek._tokens._due = time.monotonic()
        await kek.refresh()
    assert two_hours - 60 < kek._tokens.seconds_to_renewal <= two_hours
    seen = bao.ask("GET", "auth/token/lookup-self", token=token)["data"]
    assert seen["last_renewal_time"] is not None
    await works(kek)
    assert held_token(kek) == token
    assert len(logins) == 1


@pytest.mark.prove
async def test_renewed_at_two_thirds_of_its_life(bao: Bao, logins: list[float]) -> None:
    """A token of three seconds serves for six, and is the same one."""
    key = bao.make_key()
    kek = transit_kek(key, bao.environ(key, ttl="3s", period="3s"))
    await works(kek)
    token = held_token(kek)
    until = time.monotonic() + 6
    while time.monotonic() < until:
        await kek.refresh()
        assert kek.refresh_seconds <= 2.0
        await asyncio.sleep(kek.refresh_seconds)
    await works(kek)
    assert held_token(kek) == token
    assert len(logins) == 1


@pytest.mark.parametrize("least", [1, pytest.param(10, marks=pytest.mark.prove)])
async def test_logs_in_again_when_it_can_be_renewed_no_more(
    bao: Bao, logins: list[float], least: int
) -> None:
    key = bao.make_key()
    role_id, secret_id = bao.app_role(bao.write_policy(key), token_ttl="2s", token_max_ttl="3s")
    environ = {"VAULT_ADDR": bao.address, "VAULT_ROLE_ID": role_id, "VAULT_SECRET_ID": secret_id}
    kek = transit_kek(key, environ)
    await works(kek)
    first = held_token(kek)
    turns = 0
    while turns < least or held_token(kek) == first:
        assert turns < 50
        turns += 1
        await asyncio.sleep(0.6)
        await works(kek)
    # Each of them while the one before was still alive: no call was ever refused.
    assert kek.problem is None or kek.problem == "not reached yet"
    assert 2 <= len(logins) <= 6


async def test_one_login_for_many_that_are_refused_at_once(
    bao: Bao, logins: list[float], no_wait_between_logins: None
) -> None:
    key = bao.make_key()
    role_id, secret_id = bao.app_role(bao.write_policy(key))
    environ = {"VAULT_ADDR": bao.address, "VAULT_ROLE_ID": role_id, "VAULT_SECRET_ID": secret_id}
    kek = transit_kek(key, environ)
    wrap = await kek.wrap(of("alice"), KEY)
    bao.revoke(remember(held_token(kek)))
    opened = await asyncio.gather(*(kek.unwrap(of("alice"), wrap) for _ in range(50)))
    assert opened == [KEY] * 50
    assert len(logins) == 2


async def test_a_refusal_by_policy_makes_no_storm_of_logins(bao: Bao, logins: list[float]) -> None:
    key = bao.make_key()
    role_id, secret_id = bao.app_role("default")
    environ = {"VAULT_ADDR": bao.address, "VAULT_ROLE_ID": role_id, "VAULT_SECRET_ID": secret_id}
    kek = transit_kek(key, environ)
    for _ in range(20):
        with pytest.raises(Denied, match="permission denied"):
            await kek.wrap(of("alice"), KEY)
    assert len(logins) <= 2


async def test_revoked_token_of_a_variable_stays_refused(bao: Bao) -> None:
    key = bao.make_key()
    environ = bao.environ(key)
    kek = transit_kek(key, environ)
    wrap = await kek.wrap(of("alice"), KEY)
    bao.revoke(environ["VAULT_TOKEN"])
    with pytest.raises(Denied):
        await kek.unwrap(of("alice"), wrap)
    assert kek.problem is not None


async def test_new_token_in_the_file_is_taken_up(
    bao: Bao, tmp_path: Path, no_wait_between_logins: None
) -> None:
    key = bao.make_key()
    environ = bao.environ(key)
    file = tmp_path / "token"
    old = environ.pop("VAULT_TOKEN")
    file.write_text(old)
    kek = transit_kek(key, environ | {"VAULT_TOKEN_FILE": str(file)})
    wrap = await kek.wrap(of("alice"), KEY)
    bao.revoke(old)
    with pytest.raises(Denied):
        await kek.unwrap(of("alice"), wrap)
    file.write_text(bao.token(f"policy-{key}"))
    assert await kek.unwrap(of("alice"), wrap) == KEY


def test_nothing_of_a_token_in_any_repr(bao: Bao) -> None:
    environ = {"VAULT_ADDR": bao.address, "VAULT_TOKEN": remember("s.very-secret-token-000000")}
    kek = transit_kek("any", environ)
    shown = [kek, kek._tokens, kek._tokens._login, Grant("s.secret", 1, True, 0.0)]
    assert all("secret" not in repr(one) for one in shown)


async def test_a_token_that_is_replaced_is_revoked(bao: Bao, no_wait_between_logins: None) -> None:
    """Refused by its policy alone it would live on, one more with each login."""
    key = bao.make_key()
    policy = bao.write_policy(key)
    role_id, secret_id = bao.app_role(policy)
    kek = transit_kek(
        key, {"VAULT_ADDR": bao.address, "VAULT_ROLE_ID": role_id, "VAULT_SECRET_ID": secret_id}
    )
    wrap = await kek.wrap(of("alice"), KEY)
    first = remember(held_token(kek))
    bao.write_policy(key, 'path "none" { capabilities = ["read"] }')
    with pytest.raises(Denied):
        await kek.unwrap(of("alice"), wrap)
    assert held_token(kek) != first
    with pytest.raises(Forbidden):
        bao.ask("GET", "auth/token/lookup-self", token=first)


@pytest.mark.parametrize(
    "address",
    ["https://[::1:8200", "http://127.0.0.1:99999", "http://127.0.0.1:8200/../x", "127.0.0.1:8200"],
)
def test_address_that_is_none(address: str) -> None:
    with pytest.raises(Misconfigured, match="VAULT_ADDR must be set to the server"):
        transit_kek("any", {"VAULT_ADDR": address, "VAULT_TOKEN": "t"})


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://vault.example:8200", None),
        ("http://127.0.0.1:8200", None),
        ("http://localhost:8200/", None),
        ("http://vault.example:8200/", "http://vault.example:8200"),
    ],
)
def test_where_it_is_asked_in_clear(address: str, shown: str | None) -> None:
    kek = transit_kek("any", {"VAULT_ADDR": address, "VAULT_TOKEN": "t"})
    assert kek.plain_address == shown


async def test_token_that_no_header_takes(bao: Bao) -> None:
    for token in ("s.a\nb", "s.\u20ac"):
        kek = transit_kek("any", {"VAULT_ADDR": bao.address, "VAULT_TOKEN": token})
        with pytest.raises(Misconfigured, match="can't be sent in a header"):
            await kek.refresh()
