"""Ways to OpenBao: mTLS, a path, an agent's socket, a namespace; logins by JWT and certificate."""

import secrets
import time
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kek_backends.errors import Denied, Misconfigured
from kek_backends.testing import CHECKS, Check, Subject
from kek_backends.transit import tokens
from tests.authority import Authority, Pair
from tests.bao_server import TLS_NAME, Bao
from tests.bindings import of
from tests.kek.kit import KEY, failure, held_token, opens, transit
from tests.kek.ways import WAYS, way_to
from tests.leaks import remember

pytestmark = pytest.mark.usefixtures("known_backends", "patient_calls")


@pytest.mark.parametrize("way", WAYS)
async def test_a_key_is_wrapped_and_opens(bao: Bao, tmp_path: Path, way: str) -> None:
    key = bao.make_key()
    with way_to(bao, key, way, tmp_path) as environ:
        async with transit(bao, key, environ) as kek:
            wrap = await kek.wrap(of("alice"), KEY)
            assert wrap.kek_id == f"vault:transit/{key}:v1"
            assert await opens(kek, wrap)


@pytest.mark.prove
@pytest.mark.parametrize("way", WAYS)
async def test_conformance(bao: Bao, tmp_path: Path, way: str) -> None:
    key = bao.make_key()
    with way_to(bao, key, way, tmp_path) as environ:
        secret = [environ["VAULT_TOKEN"]] if "VAULT_TOKEN" in environ else []
        subject = Subject.named(f"vault:transit/{key}", environ=environ, secrets=secret)
        for check in CHECKS:
            await named(check, subject)


async def named(check: Check, subject: Subject) -> None:
    try:
        await check(subject)
    except AssertionError as error:
        raise AssertionError(f"{check.__name__}: {error}") from error


@pytest.mark.parametrize("trusts", ["CACERT", "CACERT_BYTES", "CAPATH"])
async def test_what_is_trusted(bao: Bao, tmp_path: Path, trusts: str) -> None:
    key, stranger = bao.make_key(), Authority.make(tmp_path / "stranger")
    environ = bao.environ(key) | bao.tls_environ(f"client-{key}")
    ours, others = bao.authority.ca, stranger.ca
    folder = tmp_path / "cas"
    folder.mkdir()
    (folder / "no folder is read").mkdir()
    for name, file in (("a-stranger", others), ("ours, under any name", ours)):
        (folder / name).symlink_to(file)
    values = {"CACERT": str(ours), "CACERT_BYTES": ours.read_text(), "CAPATH": str(folder)}
    del environ["VAULT_CACERT"]
    async with transit(bao, key, environ | {f"VAULT_{trusts}": values[trusts]}) as kek:
        await kek.refresh()
    (folder / "ours, under any name").unlink()
    wrong = {"CACERT": str(others), "CACERT_BYTES": others.read_text(), "CAPATH": str(folder)}
    async with transit(bao, key, environ | {f"VAULT_{trusts}": wrong[trusts]}) as kek:
        error = await failure(kek.refresh())
        assert type(error) is Misconfigured
        assert "the server's certificate is not trusted" in str(error)


async def test_name_in_the_certificate(bao: Bao) -> None:
    key = bao.make_key()
    environ = bao.environ(key) | bao.tls_environ(f"client-{key}")
    assert environ["VAULT_TLS_SERVER_NAME"] == TLS_NAME
    for name in ({}, {"VAULT_TLS_SERVER_NAME": "another.test"}):
        del environ["VAULT_TLS_SERVER_NAME"]
        environ |= name
        async with transit(bao, key, environ) as kek:
            error = await failure(kek.refresh())
        assert type(error) is Misconfigured
        assert "is for another name; set VAULT_TLS_SERVER_NAME" in str(error)
        environ["VAULT_TLS_SERVER_NAME"] = ""


async def test_no_certificate_or_one_of_a_stranger(bao: Bao, tmp_path: Path) -> None:
    key = bao.make_key()
    environ = bao.environ(key) | bao.tls_environ(f"client-{key}")
    stranger = Authority.make(tmp_path / "stranger").issue("client")
    shown = {"VAULT_CLIENT_CERT": str(stranger.cert), "VAULT_CLIENT_KEY": str(stranger.key)}
    for wrong in (shown, dict.fromkeys(shown, "")):
        async with transit(bao, key, environ | wrong) as kek:
            error = await failure(kek.refresh())
            assert type(error) is Denied
            assert "the server refuses our certificate, or wants one" in str(error)


async def test_a_certificate_is_read_again_when_it_changes(bao: Bao, tmp_path: Path) -> None:
    """One that the server refuses is replaced by a good one, and back it is, without a restart."""
    key = bao.make_key()
    environ = bao.environ(key) | bao.tls_environ(f"client-{key}")
    mine = Pair(Path(environ["VAULT_CLIENT_CERT"]), Path(environ["VAULT_CLIENT_KEY"]))
    good = bao.authority.issue(f"renewed-{key}")
    async with transit(bao, key, environ) as kek:
        wrap = await kek.wrap(of("alice"), KEY)
        mine.replace_by(Authority.make(tmp_path / "stranger").issue("client"))
        assert type(await failure(kek.unwrap(of("alice"), wrap))) is Denied
        # Half of a renewal: no pair yet, so the one before stays.
        mine.key.write_bytes(good.key.read_bytes())
        assert type(await failure(kek.unwrap(of("alice"), wrap))) is Denied
        mine.replace_by(good)
        assert await opens(kek, wrap)
        await kek.refresh()
        assert kek.problem is None


@pytest.fixture
def no_wait_between_logins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_BETWEEN_LOGINS_SECONDS", 0.0)


async def test_login_with_a_certificate(
    bao: Bao, tmp_path: Path, no_wait_between_logins: None
) -> None:
    key = bao.make_key()
    mount = f"cert-{key}"
    environ = bao.tls_environ(f"client-{key}")
    environ |= {"VAULT_CERT_ROLE": "custody", "VAULT_CERT_MOUNT": mount}
    mine = Pair(Path(environ["VAULT_CLIENT_CERT"]), Path(environ["VAULT_CLIENT_KEY"]))
    bao.ask("POST", f"sys/auth/{mount}", {"type": "cert"})
    role = {
        "certificate": bao.authority.ca.read_text(),
        "allowed_common_names": [f"client-{key}", f"renewed-{key}"],
        "token_policies": [bao.write_policy(key)],
    }
    bao.ask("POST", f"auth/{mount}/certs/custody", role)
    async with transit(bao, key, environ) as kek:
        wrap = await kek.wrap(of("alice"), KEY)
        mine.replace_by(bao.authority.issue(f"renewed-{key}"))
        bao.revoke(remember(held_token(kek)))
        assert await opens(kek, wrap)
        mine.replace_by(bao.authority.issue(f"unknown-{key}"))
        bao.revoke(remember(held_token(kek)))
        with pytest.raises(Denied, match=r"the login was refused: .* certificate still good"):
            await kek.unwrap(of("alice"), wrap)


def issued(key: EllipticCurvePrivateKey, **claims: object) -> str:
    now = int(time.time())
    body = {"sub": "custody", "aud": "vault", "iss": "https://issuer.test", "exp": now + 600}
    return remember(jwt.encode(body | {"iat": now} | claims, key, algorithm="ES256"))


@pytest.mark.parametrize("kind", ["jwt", "oidc"])
async def test_login_with_a_jwt(
    bao: Bao, tmp_path: Path, kind: str, no_wait_between_logins: None
) -> None:
    key, signer = bao.make_key(), generate_private_key(SECP256R1())
    mount, file = f"{kind}-{secrets.token_hex(4)}", tmp_path / "jwt"
    public = signer.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    bao.ask("POST", f"sys/auth/{mount}", {"type": kind})
    bao.ask("POST", f"auth/{mount}/config", {"jwt_validation_pubkeys": [public.decode()]})
    role = {
        "role_type": "jwt",
        "user_claim": "sub",
        "bound_audiences": ["vault"],
        "bound_subject": "custody",
        "token_policies": [bao.write_policy(key)],
    }
    bao.ask("POST", f"auth/{mount}/role/custody", role)
    environ = {
        "VAULT_ADDR": bao.address,
        "VAULT_JWT_ROLE": "custody",
        "VAULT_JWT_TOKEN_FILE": str(file),
        "VAULT_JWT_MOUNT": mount,
    }
    file.write_text(issued(signer))
    async with transit(bao, key, environ) as kek:
        wrap = await kek.wrap(of("alice"), KEY)
        # The one before is of no more use: the file is read for each login.
        file.write_text(issued(signer, jti="2"))
        bao.revoke(remember(held_token(kek)))
        assert await opens(kek, wrap)
        file.write_text(issued(signer, sub="mallory"))
        bao.revoke(remember(held_token(kek)))
        error = await failure(kek.unwrap(of("alice"), wrap))
        assert type(error) is Denied
        assert "the login was refused" in str(error)
        file.write_text(issued(signer))
        assert await opens(kek, wrap)
