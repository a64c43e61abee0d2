"""From a URI to a backend, by entry point: ours and anyone's."""

import base64
import importlib.metadata
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from kek_backends import loader
from kek_backends.env import EnvKek
from kek_backends.errors import Misconfigured
from kek_backends.foreign import ForeignKek
from kek_backends.loader import ENTRY_POINT_GROUP, load, load_keyring
from tests.kek.fakes import FakeKms
from tests.kek.kit import refusal

KEY = base64.b64encode(bytes(range(32))).decode()
OTHER = base64.b64encode(bytes(range(1, 33))).decode()

Install = Callable[[str, str], None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Adds a third party's entry point beside ours."""
    ours = list(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP))

    def add(name: str, value: str) -> None:
        ours.append(EntryPoint(name, value, ENTRY_POINT_GROUP))
        monkeypatch.setattr(loader, "entry_points", lambda group: EntryPoints(ours))

    return add


def test_env_is_ours() -> None:
    assert isinstance(load("env:KEK", environ={"KEK": KEY}, development=False), EnvKek)


def test_unknown_scheme_names_the_known_ones() -> None:
    with pytest.raises(Misconfigured) as caught:
        load("nokms:key", environ={}, development=False)
    message = str(caught.value)
    assert message.startswith("KEK nokms:key: no backend is named 'nokms'; known: ")
    assert "env" in message.partition("known: ")[2].split(", ")


def test_an_id_does_not_pass_for_one_of_another_backend(install: Install) -> None:
    install("fake", "tests.kek.fakes:FakeKms")
    for kek_id in ("vault:transit/custody:v1", "aws-kms:x", "fake:one"):
        with pytest.raises(
            Misconfigured, match=f"an id may not begin with {kek_id.split(':')[0]}:"
        ):
            load(f"env:KEK?id={kek_id}", environ={"KEK": KEY}, development=False)
    for kek_id in ("env:x", "kek:2024", "vault", "vaults:x"):
        assert (
            load(f"env:KEK?id={kek_id}", environ={"KEK": KEY}, development=False).kek_id == kek_id
        )


async def test_anyone_can_add_one(install: Install) -> None:
    install("fake", "tests.kek.fakes:FakeKms")
    backend = load("fake:one?id=f-1", environ={}, development=False)
    # Ours are used as they are.
    assert isinstance(backend, ForeignKek)
    assert isinstance(backend._kek, FakeKms)
    assert (backend.kek_id, backend.uri.text) == ("f-1", "fake:one?id=f-1")


@pytest.mark.parametrize(
    "value", ["tests.kek.fakes:SdkError", "tests.kek.fakes", "json:dumps", "kek_backends.base:Wrap"]
)
def test_what_is_no_backend_is_refused(install: Install, value: str) -> None:
    install("fake", value)
    with pytest.raises(Misconfigured, match=f"KEK fake:one: {value} is not a KekBackend"):
        load("fake:one", environ={}, development=False)


def test_what_is_not_in_its_module_is_refused(install: Install) -> None:
    install("fake", "tests.kek.fakes:Missing")
    assert refusal("fake:one") == (
        "KEK fake:one: there is no tests.kek.fakes:Missing; reinstall the package that has it"
    )


def test_module_that_is_missing_is_named(install: Install) -> None:
    install("fake", "no_such_module.kms:X")
    assert refusal("fake:one") == (
        "KEK fake:one: the module no_such_module can't be imported;"
        " reinstall the package that has it"
    )


@pytest.mark.parametrize(
    "line", ["from kek_backends.base import FORMAT_BOUND", "import kek_backends.gone"]
)
def test_one_of_another_release_is_told_from_a_missing_module(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    (tmp_path / "acme_kms_of_before.py").write_text(f"{line}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "acme_kms_of_before", raising=False)
    install("fake", "acme_kms_of_before:Kms")
    lacks = "kek_backends.base" if "base" in line else "kek_backends.gone"
    assert refusal("fake:one") == (
        "KEK fake:one: acme_kms_of_before:Kms is written for another release of custody:"
        f" {lacks} lacks what it imports; see docs/how-to/third-party-backend.md"
    )


@pytest.mark.parametrize(
    ("extras", "sources"), [("", "'.'"), (" [kms]", "'.[kms]'"), (" [a,b]", "'.[a,b]'")]
)
def test_sdk_that_is_missing_names_the_sources_and_their_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extras: str, sources: str
) -> None:
    info = tmp_path / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n"
        "Requires-Dist: no-such-sdk>=2; extra == 'kms'\n"
    )
    (info / "entry_points.txt").write_text(
        f"[{ENTRY_POINT_GROUP}]\nfake = acme_kms_for_tests:Kms{extras}\n"
    )
    (tmp_path / "acme_kms_for_tests.py").write_text("import no_such_sdk.client\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert refusal("fake:one") == (
        "KEK fake:one: the module no_such_sdk can't be imported;"
        f" in the sources of acme run: pip install {sources}"
    )


def test_ours_with_an_sdk_name_their_extra() -> None:
    found = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
    extras = {point.name: point.extras for point in found if point.dist and point.extras}
    assert extras == {
        "vault": ["vault"],
        "aws-kms": ["aws"],
        "azure-kv": ["azure"],
        "gcp-kms": ["gcp"],
        "pkcs11": ["pkcs11"],
    }


def test_keyring_in_order() -> None:
    environ = {"NEW": KEY, "OLD": OTHER}
    ring = load_keyring("env:NEW?id=env-v2", ["env:OLD"], environ=environ, development=False)
    assert [backend.kek_id for backend in ring] == ["env-v2", "env-v1"]
    assert ring.active.kek_id == "env-v2"


@pytest.mark.parametrize(("active", "old"), [("env:A", ["env:B"]), ("env:A?id=x", ["env:B?id=x"])])
def test_one_kek_id_for_two_keys_is_refused(active: str, old: list[str]) -> None:
    environ = {"A": KEY, "B": OTHER}
    with pytest.raises(Misconfigured, match="share the kek_id"):
        load_keyring(active, old, environ=environ, development=False)


@pytest.mark.parametrize("old", ["env:A", "env:A?mode=envelope", "env:A?mode=direct"])
def test_one_key_twice_is_refused_in_whatever_mode(old: str) -> None:
    with pytest.raises(Misconfigured, match="KEK env:A is listed twice: remove one"):
        load_keyring("env:A", [old], environ={"A": KEY}, development=False)
