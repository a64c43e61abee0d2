"""Faults of Google Cloud KMS, of Azure and of one region of AWS KMS, under a serving daemon."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.e2e.kek_faults import Case, until_cured
from tests.e2e.keks import Place
from tests.faulty_proxy import Fault, FaultyProxy, faulty_proxy
from tests.kek import azure_stub as azure
from tests.kek import gcp_stub as gcp
from tests.kek.azure_stub import AzureStub
from tests.kek.gcp_stub import GcpStub
from tests.moto_server import REGION, Moto

# On the way to it, and what /readyz says then.
_WAYS: dict[str, tuple[Fault, str]] = {
    "down": (Fault.REFUSE, "can't be reached"),
    "connections reset": (Fault.RESET, "can't be reached"),
    "half-open": (Fault.BLACK_HOLE, ":"),
    "body that drips": (Fault.DRIP, ":"),
    "body that never ends": (Fault.ENDLESS, ":"),
}
# In the server, by what is done to it and the key.
_GCP: dict[str, tuple[Callable[[GcpStub, gcp.Key], object], str]] = {
    "frozen": (lambda s, _: _every(s, until_cured(s)), ":"),
    "denied": (lambda s, _: s.faults.update(decrypt=gcp.refuse(403, "PERMISSION_DENIED")), "grant"),
    "throttled": (lambda s, _: _every(s, gcp.refuse(429, "RESOURCE_EXHAUSTED")), "too many calls"),
    "failing": (lambda s, _: _every(s, gcp.refuse(500, "INTERNAL")), "fails for now"),
    "no token": (
        lambda s, _: _no_token(s, gcp.refuse(400, "INVALID_ARGUMENT")),
        "no token is given",
    ),
    "version disabled": (lambda _, key: key.states.update({1: "DISABLED"}), "enable it with"),
    "version destroyed": (
        lambda _, key: key.states.update({1: "DESTROY_SCHEDULED"}),
        "enable it with",
    ),
    "key missing": (lambda s, key: s.keys.pop(key.name), "no such key"),
}
_AZURE: dict[str, tuple[Callable[[AzureStub, azure.Key], object], str]] = {
    "frozen": (lambda s, _: _every(s, until_cured(s)), ":"),
    "denied": (
        lambda s, _: s.faults.update(decrypt=azure.refuse(403, "Forbidden", "ForbiddenByRbac")),
        "role",
    ),
    "throttled": (lambda s, _: _every(s, azure.refuse(429, "Throttled")), "too many calls"),
    "failing": (lambda s, _: _every(s, azure.refuse(500, "InternalServerError")), "fails for now"),
    "no token": (lambda s, _: _no_token(s, azure.refuse(401, "invalid_client")), "no token"),
    "version disabled": (lambda _, key: key.disabled.add(key.current), "disabled"),
    "key deleted": (lambda s, _: s.keys.clear(), "no such key"),
}
GCP_FAULTS, AZURE_FAULTS, REGION_FAULTS = (*_GCP, *_WAYS), (*_AZURE, *_WAYS), tuple(_WAYS)


def _every(stub: GcpStub | AzureStub, fault: Callable[..., None]) -> None:
    operations = ("get", "encrypt", "decrypt")
    stub.faults.update(dict.fromkeys(operations, fault))


def _no_token(stub: GcpStub | AzureStub, fault: Callable[..., None]) -> None:
    """Refuse those that were given, and give no other."""
    stub.faults["token"] = fault
    stub.tokens.clear()


def _on_the_way(name: str, proxy: FaultyProxy) -> Case:
    fault, named = _WAYS[name]
    spoil = partial(setattr, proxy, "fault")
    return Case(partial(spoil, fault), partial(spoil, Fault.NONE), named)


@contextmanager
def sick_gcp_kms(name: str, folder: Path) -> Iterator[tuple[Case, Place]]:
    """Prepare a fault of Google Cloud KMS: a stub of ours, as no real one can be had."""
    with gcp.gcp_stub() as stub, faulty_proxy(stub.server_port) as proxy:
        key = stub.make_key()

        def cure() -> None:
            stub.faults.clear()
            stub.keys[key.name] = key
            key.states[1] = "ENABLED"

        if name in _WAYS:
            case = _on_the_way(name, proxy)
        else:
            begin, named = _GCP[name]
            case = Case(partial(begin, stub, key), cure, named)
        override = {"CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDKMS": proxy.address}
        environ = stub.environ(folder) | override
        yield case, Place(f"gcp-kms:{key.name}", f"gcp-kms:{key.version(1)}", environ)


@contextmanager
def sick_azure_kv(name: str, folder: Path) -> Iterator[tuple[Case, Place]]:
    """Prepare a fault of Managed HSM: a stub of ours, as no real one can be had."""
    with azure.azure_stub(folder) as stub, faulty_proxy(stub.server_port) as proxy:
        key = stub.make_key(kty="oct-HSM")
        # What the server says of itself is the name that it is reached by.
        key.id = f"{proxy.address.replace('http:', 'https:')}/keys/kek"

        def cure() -> None:
            stub.faults.clear()
            stub.keys["kek"] = key
            key.disabled.clear()

        if name in _WAYS:
            case = _on_the_way(name, proxy)
        else:
            begin, named = _AZURE[name]
            case = Case(partial(begin, stub, key), cure, named)
        yield case, Place(key.uri, f"{key.uri}/{key.current}", stub.environ)


@contextmanager
def sick_region(name: str, moto: Moto, other: str) -> Iterator[tuple[Case, Place, Place]]:
    """Prepare a fault of one region of a multi-Region key; the last is the same KEK in another."""
    arn = moto.make_key(MultiRegion=True)
    moto.replicate(arn, other)
    stamp = f"aws-kms:{arn}"
    port = int(moto.url.rpartition(":")[2])
    with faulty_proxy(port) as proxy:
        here = Place(stamp, stamp, moto.environ | {"AWS_ENDPOINT_URL_KMS": proxy.address})
        there = Place(stamp.replace(REGION, other), stamp, moto.environ)
        yield _on_the_way(name, proxy), here, there
