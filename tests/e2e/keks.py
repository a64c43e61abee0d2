"""The places where a KEK can live, each with a real server where one can be had."""

import base64
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kek_backends.base import KekBackend
from kek_backends.loader import load
from tests.bao_server import Bao
from tests.client import Client, client_session
from tests.kek.clouds import Clouds
from tests.leaks import remember
from tests.moto_server import Moto
from tests.sealed_rows import share_data_key, take_data_key
from tests.servers import Daemon, Database, daemon_here
from tests.softhsm import soft_hsm
from tests.tokens import Issuer

BACKENDS = ("env", "systemd", "vault", "aws-kms")
# An RSA key, which wraps data keys alone.
RSA = "azure-kv, RSA"
PLACES = (*BACKENDS, "pkcs11", "gcp-kms", "azure-kv")
# The same OpenBao, which wants a certificate.
MTLS = "vault over mTLS"


@dataclass(frozen=True)
class Place:
    """Where a KEK lives.

    Args:
        uri: what CUSTODY_KEK says.
        stamp: the kek_id that rows carry, exactly.
        environ: the variables that its backend reads.
    """

    uri: str
    stamp: str
    environ: dict[str, str]


def make_place(
    backend: str,
    folder: Path,
    bao: Bao | None = None,
    moto: Moto | None = None,
    clouds: Clouds | None = None,
) -> Place:
    """Make a fresh KEK.

    Args:
        backend: one of PLACES, RSA or MTLS.
        folder: for credentials, or a token of SoftHSM.
        bao: keeps transit keys.
        moto: keeps keys of AWS KMS.
        clouds: stubs that keep the keys of others.
    """
    name = f"key-{secrets.token_hex(4)}"
    key = remember(base64.b64encode(secrets.token_bytes(32)).decode())
    if backend == "env":
        variable = name.upper().replace("-", "_")
        return Place(f"env:{variable}?id={name}", name, {variable: key})
    if backend == "systemd":
        (folder / name).write_bytes(base64.b64decode(key))
        (folder / name).chmod(0o400)
        return Place(f"systemd:{name}", f"systemd-{name}", {"CREDENTIALS_DIRECTORY": str(folder)})
    if backend == "pkcs11":
        (folder / name).mkdir()
        token = soft_hsm(folder / name).make_token()
        token.make_key(name, "0a")
        return Place(token.uri(name), f"pkcs11:{token.serial}/0a", token.hsm.environ)
    if clouds and backend in {"gcp-kms", "azure-kv", RSA}:
        return _place_in(clouds, backend, name, folder)
    if backend in ("vault", MTLS) and bao:
        bao.make_key(name)
        environ = bao.environ(name) | (bao.tls_environ(name) if backend == MTLS else {})
        return Place(f"vault:transit/{name}", f"vault:transit/{name}:v1", environ)
    assert moto is not None
    arn = moto.make_key(f"alias/{name}")
    return Place(f"aws-kms:alias/{name}", f"aws-kms:{arn}", moto.environ)


def _place_in(clouds: Clouds, backend: str, name: str, folder: Path) -> Place:
    if backend == "gcp-kms":
        key = clouds.gcp.make_key(name)
        environ = clouds.gcp.environ(folder)
        return Place(f"gcp-kms:{key.name}", f"gcp-kms:{key.version(1)}", environ)
    held = clouds.azure.make_key(name, "RSA-HSM" if backend == RSA else "oct-HSM")
    return Place(held.uri, f"{held.uri}/{held.current}", clouds.azure.environ)


def enveloped(place: Place) -> Place:
    """Return the same KEK in envelope mode; what rows carry is then a data key's id."""
    sign = "&" if "?" in place.uri else "?"
    return Place(f"{place.uri}{sign}mode=envelope", place.stamp, place.environ)


def overrides(active: Place, *old: Place) -> dict[str, str]:
    """Return the overrides of a daemon with these KEKs; see ``tests.servers.settings_for``."""
    keks = {"KEK": active.uri, "OLD_KEKS": " ".join(place.uri for place in old)}
    environ: dict[str, str] = {}
    for place in (*old, active):
        environ |= place.environ
    return keks | {f"raw_{name}": value for name, value in environ.items()}


async def make_vaults(
    database: Database,
    issuer: Issuer,
    folder: Path,
    place: Place,
    *users: str,
    old: Place | None = None,
) -> dict[str, str]:
    """Make the vaults of users under a KEK, and return their master keys.

    Where there is a data key already, another KEK may be needed to open it: the old one.
    """
    keks = overrides(place) if old is None else overrides(place, old)
    async with (
        daemon_here(database, issuer, folder, **keks) as daemon,
        client_session() as session,
    ):
        answers = {user: await Client(daemon, session, user).init() for user in users}
    return {user: answer.json["masterKey"] for user, answer in answers.items()}


async def read_keys(daemon: Daemon, users: Iterable[str]) -> dict[str, str]:
    """Return the master keys of users."""
    async with client_session() as session:
        answers = {user: await Client(daemon, session, user).key() for user in users}
    return {user: answer.json["masterKey"] for user, answer in answers.items()}


async def move_data_key(database: Database, holder: Place, other: Place) -> None:
    """Have the data key under another KEK, and no longer under the one that holds it."""
    await share_data_key(database, _backend(holder), _backend(other))
    await take_data_key(database, holder.stamp)


def _backend(place: Place) -> KekBackend:
    return load(place.uri, environ=place.environ, development=False)
