"""Faults of a KMS under a serving daemon, each with its cure."""

import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from moto.kms.models import Key

from tests.bao_server import Bao, least_policy
from tests.client import Client, client_session
from tests.e2e.keks import Place, make_place, make_vaults, overrides
from tests.faulty_proxy import Fault, FaultyProxy, faulty_proxy
from tests.kek import kms_stub as stubs
from tests.kek.kms_stub import KmsStub, kms_stub
from tests.servers import Daemon, Database, daemon_beside
from tests.softhsm import OddModule, SoftToken, odd_module, soft_hsm
from tests.tokens import Issuer

VICTIMS = 6
HEALTHY = 6


@dataclass(frozen=True)
class Case:
    """A fault and its cure.

    Args:
        begin: breaks it.
        cure: mends it.
        named: what /readyz says of it.
    """

    begin: Callable[[], object]
    cure: Callable[[], object]
    named: str


@dataclass(frozen=True)
class Sick:
    """A server, the way to it, its key for the daemon, and the daemon's file with its token."""

    bao: Bao
    proxy: FaultyProxy
    key: str
    backup: str
    token_file: Path

    def spoil(self, fault: Fault = Fault.NONE) -> None:
        self.proxy.fault = fault

    def raise_least_version(self) -> None:
        self.bao.rotate(self.key)
        self.bao.configure(self.key, min_decryption_version=2)


class HasFaults(Protocol):
    """A stub whose faults are gone when it is cured."""

    faults: dict[str, Any]
    closing: threading.Event


def until_cured(stub: HasFaults) -> Callable[..., None]:
    """Take the request and never answer it, as a peer does that is gone without a word."""

    def fault(*_: object) -> None:
        while stub.faults and not stub.closing.wait(0.05):
            continue
        raise ConnectionResetError

    return fault


# Each with its cure, and what /readyz says of it.
_OPENBAO: dict[str, tuple[Callable[[Sick], object], Callable[[Sick], object], str]] = {
    "killed": (lambda s: s.bao.kill(), lambda s: s.bao.start(), "can't be reached"),
    "frozen": (lambda s: s.bao.freeze(), lambda s: s.bao.thaw(), "vault:transit/"),
    "token revoked": (
        lambda s: s.bao.revoke(s.token_file.read_text()),
        lambda s: s.token_file.write_text(s.bao.token(f"policy-{s.key}")),
        "permission denied",
    ),
    "right taken away": (
        lambda s: s.bao.write_policy(s.key, least_policy(s.key).replace("/decrypt/", "/none/")),
        lambda s: s.bao.write_policy(s.key),
        "permission denied",
    ),
    "key deleted": (
        lambda s: s.bao.delete_key(s.key),
        lambda s: s.bao.ask("POST", f"transit/restore/{s.key}", {"backup": s.backup}),
        "there is no such key",
    ),
    "version raised": (
        lambda s: s.raise_least_version(),
        lambda s: s.bao.configure(s.key, min_decryption_version=1),
        "min_decryption_version is 2",
    ),
    "half-open": (lambda s: s.spoil(Fault.BLACK_HOLE), lambda s: s.spoil(), "vault:transit/"),
    "body that never ends": (
        lambda s: s.spoil(Fault.ENDLESS),
        lambda s: s.spoil(),
        "can't be reached",
    ),
    "body that drips": (lambda s: s.spoil(Fault.DRIP), lambda s: s.spoil(), "vault:transit/"),
}
_AWS: dict[str, Callable[[KmsStub, Key], object]] = {
    "throttling": lambda s, _: s.faults.update({"*": stubs.refuse("ThrottlingException")}),
    "denied": lambda s, _: s.denied.add("Decrypt"),
    "disabled": lambda _, key: setattr(key, "key_state", "Disabled"),
    "half-open": lambda s, _: s.faults.update({"*": until_cured(s)}),
    "body that never ends": lambda s, _: s.faults.update({"*": stubs.flood}),
    "body that drips": lambda s, _: s.faults.update({"*": stubs.drip_body}),
}
_TOKEN: dict[str, tuple[Callable[[SoftToken, OddModule], object], Callable[..., object]]] = {
    "taken out": (
        lambda token, _: token.hsm.tokens.rename(token.hsm.folder / "away"),
        lambda token, _: (token.hsm.folder / "away").rename(token.hsm.tokens),
    ),
    "module hangs": (lambda _, odd: odd.do("hang"), lambda _, odd: odd.do("well")),
    "module crashes": (lambda _, odd: odd.do("crash"), lambda _, odd: odd.do("well")),
    "device error": (lambda _, odd: odd.do("device-error"), lambda _, odd: odd.do("well")),
    "key deleted": (lambda token, _: _delete_key(token), lambda token, _: _restore_key(token)),
}


def _delete_key(token: SoftToken) -> None:
    shutil.copytree(token.hsm.tokens, token.hsm.folder / "kept")
    token.delete_key()


def _restore_key(token: SoftToken) -> None:
    token.hsm.tokens.rename(token.hsm.folder / "without")
    (token.hsm.folder / "kept").rename(token.hsm.tokens)


OPENBAO_FAULTS, AWS_FAULTS, TOKEN_FAULTS = tuple(_OPENBAO), tuple(_AWS), tuple(_TOKEN)


@contextmanager
def sick_openbao(
    name: str, bao: Bao, folder: Path, *, mtls: bool = False
) -> Iterator[tuple[Case, Place]]:
    """Prepare a fault of a server, which the fault may kill."""
    key = bao.make_key(exportable=True, allow_plaintext_backup=True)
    backup = bao.ask("GET", f"transit/backup/{key}")["data"]["backup"]
    token_file = folder / "vault-token"
    token_file.write_text(bao.environ(key)["VAULT_TOKEN"])
    begin, cure, named = _OPENBAO[name]
    with faulty_proxy(bao.tls_port if mtls else bao.port) as proxy:
        environ = {"VAULT_ADDR": proxy.address, "VAULT_TOKEN_FILE": str(token_file)}
        if mtls:
            address = proxy.address.replace("http:", "https:")
            environ = bao.tls_environ(key) | environ | {"VAULT_ADDR": address}
        sick = Sick(bao, proxy, key, backup, token_file)
        case = Case(partial(begin, sick), partial(cure, sick), named)
        yield case, Place(f"vault:transit/{key}", f"vault:transit/{key}:v1", environ)


@contextmanager
def sick_aws_kms(name: str) -> Iterator[tuple[Case, Place]]:
    """Prepare a fault of a KMS of our own: no real one can be made to fail."""
    with kms_stub() as stub:
        key = stub.make_key("alias/custody")

        def cure() -> None:
            key.key_state = "Enabled"
            stub.faults.clear()
            stub.denied.clear()

        case = Case(partial(_AWS[name], stub, key), cure, "aws-kms:")
        yield case, Place("aws-kms:alias/custody", f"aws-kms:{key.arn}", stub.environ)


@contextmanager
def sick_token(name: str, folder: Path) -> Iterator[tuple[Case, Place]]:
    """Prepare a fault of a token of SoftHSM, or of the module before it."""
    (folder / "hsm").mkdir()
    token = soft_hsm(folder / "hsm").make_token()
    token.make_key("custody")
    begin, cure = _TOKEN[name]
    with odd_module(folder) as odd:
        case = Case(partial(begin, token, odd), partial(cure, token, odd), "pkcs11:")
        stamp = f"pkcs11:{token.serial}/01"
        yield case, Place(token.uri(module_path=odd.path), stamp, token.hsm.environ | odd.environ)


@asynccontextmanager
async def two_kinds_of_users(
    database: Database,
    issuer: Issuer,
    folder: Path,
    sick: Place,
    healthy: Place | None = None,
    **settings: str,
) -> AsyncIterator[tuple[Daemon, list[Client], list[Client]]]:
    """Run a daemon; some users' keys are under the KEK that will fail, some under another."""
    healthy = healthy or make_place("env", folder)
    users = [f"healthy-{number}" for number in range(HEALTHY)]
    await make_vaults(database, issuer, folder, healthy, *users)
    settings |= overrides(sick, healthy)
    with daemon_beside(database, issuer, folder, **settings) as daemon:
        async with client_session() as session:
            victims = [Client(daemon, session, f"victim-{n}") for n in range(VICTIMS)]
            for victim in victims:
                assert (await victim.init()).status == 200
            yield daemon, victims, [Client(daemon, session, user) for user in users]
