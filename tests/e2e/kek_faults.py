"""Faults of a KMS under a serving daemon, each with its cure."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bao_server import Bao, least_policy
from tests.client import Client, client_session
from tests.e2e.keks import Place, make_place, overrides
from tests.faulty_proxy import Fault, FaultyProxy, faulty_proxy
from tests.http_servers import Asked
from tests.kek import kms_stub as stubs
from tests.kek.kms_stub import KmsStub, kms_stub
from tests.servers import Daemon, Database, daemon_beside, daemon_here
from tests.tokens import Issuer

VICTIMS = 6
HEALTHY = 6
OPENBAO_FAULTS = (
    "killed",
    "frozen",
    "token revoked",
    "right taken away",
    "key deleted",
    "version raised",
    "half-open",
    "body that never ends",
    "body that drips",
)
AWS_FAULTS = (
    "throttling",
    "denied",
    "disabled",
    "half-open",
    "body that never ends",
    "body that drips",
)

Act = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """A fault and its cure.

    Args:
        begin: breaks it.
        cure: mends it.
        named: what /readyz says of it.
    """

    begin: Act
    cure: Act
    named: str


@asynccontextmanager
async def two_kinds_of_users(
    database: Database,
    issuer: Issuer,
    folder: Path,
    sick: Place,
    *,
    module: str = "custody",
    **settings: str,
) -> AsyncIterator[tuple[Daemon, list[Client], list[Client]]]:
    """Run a daemon; some users' keys are under the KEK that will fail, some under another."""
    healthy = make_place("env", folder, None, None)  # type: ignore[arg-type] # it needs no server
    async with client_session() as session:
        async with daemon_here(database, issuer, folder, **overrides(healthy)) as before:
            for number in range(HEALTHY):
                assert (await Client(before, session, f"healthy-{number}").init()).status == 200
        keks = overrides(sick, healthy)
        with daemon_beside(database, issuer, folder, module=module, **keks, **settings) as daemon:
            victims = [Client(daemon, session, f"victim-{n}") for n in range(VICTIMS)]
            for victim in victims:
                assert (await victim.init()).status == 200
            yield daemon, victims, [Client(daemon, session, f"healthy-{n}") for n in range(HEALTHY)]


def vault_case(name: str, bao: Bao, proxy: FaultyProxy, key: str, token_file: Path) -> Case:
    """Build a fault of OpenBao, or of the network before it."""

    def proxied(fault: Fault, named: str) -> Case:
        return Case(
            lambda: setattr(proxy, "fault", fault),
            lambda: setattr(proxy, "fault", Fault.NONE),
            named,
        )

    def delete() -> None:
        backups["key"] = bao.ask("GET", f"transit/backup/{key}")["data"]["backup"]
        bao.delete_key(key)

    def raise_least_version() -> None:
        bao.rotate(key)
        bao.configure(key, min_decryption_version=2)

    backups: dict[str, str] = {}
    policy = f"policy-{key}"
    return {
        "killed": Case(bao.kill, bao.start, "can't be reached"),
        "frozen": Case(bao.freeze, bao.thaw, "vault:transit/"),
        "token revoked": Case(
            lambda: bao.revoke(token_file.read_text()),
            lambda: token_file.write_text(bao.token(policy)),
            "permission denied",
        ),
        "right taken away": Case(
            lambda: bao.write_policy(key, least_policy(key).replace("/decrypt/", "/none/")),
            lambda: bao.write_policy(key),
            "permission denied",
        ),
        "key deleted": Case(
            delete,
            lambda: bao.ask("POST", f"transit/restore/{key}", {"backup": backups["key"]}),
            "there is no such key",
        ),
        "version raised": Case(
            raise_least_version,
            lambda: bao.configure(key, min_decryption_version=1),
            "min_decryption_version is 2",
        ),
        "half-open": proxied(Fault.BLACK_HOLE, "vault:transit/"),
        "body that never ends": proxied(Fault.ENDLESS, "can't be reached"),
        "body that drips": proxied(Fault.DRIP, "vault:transit/"),
    }[name]


@contextmanager
def sick_openbao(name: str, bao: Bao, folder: Path) -> Iterator[tuple[Case, Place]]:
    """Prepare a fault of a server, which the fault may kill."""
    key = bao.make_key(exportable=True, allow_plaintext_backup=True)
    token_file = folder / "vault-token"
    token_file.write_text(bao.environ(key)["VAULT_TOKEN"])
    with faulty_proxy(bao.port) as proxy:
        environ = {"VAULT_ADDR": proxy.address, "VAULT_TOKEN_FILE": str(token_file)}
        place = Place(f"vault:transit/{key}", f"vault:transit/{key}:v1", environ)
        yield vault_case(name, bao, proxy, key, token_file), place


def aws_case(name: str, stub: KmsStub, key: stubs.Key) -> Case:
    """Build a fault of a KMS."""

    def faulty(fault: stubs.Fault, named: str) -> Case:
        return Case(lambda: stub.faults.update({"*": fault}), stub.faults.clear, named)

    def disable(state: str) -> None:
        key.state = state

    return {
        "throttling": faulty(stubs.refuse("ThrottlingException"), "aws-kms:"),
        "denied": Case(lambda: stub.denied.add("Decrypt"), stub.denied.clear, "aws-kms:"),
        "disabled": Case(lambda: disable("Disabled"), lambda: disable("Enabled"), "aws-kms:"),
        "half-open": faulty(until_cured(stub), "aws-kms:"),
        "body that never ends": faulty(stubs.flood, "aws-kms:"),
        "body that drips": faulty(stubs.drip_body, "aws-kms:"),
    }[name]


def until_cured(stub: KmsStub) -> stubs.Fault:
    """Take the request and never answer it, as a peer does that is gone without a word."""

    def fault(handler: Asked, operation: str, request: stubs.Request) -> None:
        while stub.faults and not stub.closing.wait(0.05):
            continue
        raise ConnectionResetError

    return fault


@contextmanager
def sick_aws_kms(name: str) -> Iterator[tuple[Case, Place]]:
    """Prepare a fault of a KMS of our own: no real one can be made to fail."""
    with kms_stub() as stub:
        key = stub.make_key("alias/custody")
        place = Place("aws-kms:alias/custody", f"aws-kms:{key.arn}", stub.environ)
        yield aws_case(name, stub, key), place
