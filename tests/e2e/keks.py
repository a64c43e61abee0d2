"""The four places where a KEK can live, each with a real server where it has one."""

import base64
import secrets
from dataclasses import dataclass
from pathlib import Path

from tests.bao_server import Bao
from tests.leaks import remember
from tests.moto_server import Moto

BACKENDS = ("env", "systemd", "vault", "aws-kms")


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


def make_place(backend: str, folder: Path, bao: Bao, moto: Moto) -> Place:
    """Make a fresh KEK.

    Args:
        backend: one of BACKENDS.
        folder: for a credential.
        bao: keeps transit keys.
        moto: keeps keys of AWS KMS.
    """
    name = f"key-{secrets.token_hex(4)}"
    if backend == "env":
        variable = name.upper().replace("-", "_")
        key = remember(base64.b64encode(secrets.token_bytes(32)).decode())
        return Place(f"env:{variable}?id={name}", name, {variable: key})
    if backend == "systemd":
        credential = folder / name
        raw = secrets.token_bytes(32)
        remember(base64.b64encode(raw).decode())
        credential.write_bytes(raw)
        credential.chmod(0o400)
        return Place(f"systemd:{name}", f"systemd-{name}", {"CREDENTIALS_DIRECTORY": str(folder)})
    if backend == "vault":
        bao.make_key(name)
        return Place(f"vault:transit/{name}", f"vault:transit/{name}:v1", bao.environ(name))
    arn = moto.make_key(f"alias/{name}")
    return Place(f"aws-kms:alias/{name}", f"aws-kms:{arn}", moto.environ)


def overrides(active: Place, *old: Place) -> dict[str, str]:
    """Return the overrides of a daemon with these KEKs; see ``tests.servers.settings_for``."""
    keks = {"KEK": active.uri, "OLD_KEKS": " ".join(place.uri for place in old)}
    environ: dict[str, str] = {}
    for place in (*old, active):
        environ |= place.environ
    return keks | {f"raw_{name}": value for name, value in environ.items()}
