"""From a URI to a backend, by entry point: ours and anyone's."""

import base64
import importlib.metadata
from collections.abc import Callable
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from kek_backends import loader
from kek_backends.env import EnvKek
from kek_backends.errors import Misconfigured
from kek_backends.loader import ENTRY_POINT_GROUP, load, load_keyring
from tests.kek.fakes import FakeKms

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


async def test_anyone_can_add_one(install: Install) -> None:
    install("fake", "tests.kek.fakes:FakeKms")
    backend = load("fake:one?id=f-1", environ={}, development=False)
    assert isinstance(backend, FakeKms)
    assert (backend.kek_id, backend.uri.text) == ("f-1", "fake:one?id=f-1")


@pytest.mark.parametrize(
    "value", ["tests.kek.fakes:SdkError", "tests.kek.fakes", "json:dumps", "kek_backends.base:Wrap"]
)
def test_what_is_no_backend_is_refused(install: Install, value: str) -> None:
    install("fake", value)
    with pytest.raises(Misconfigured, match=f"KEK fake:one: {value} is not a KekBackend"):
        load("fake:one", environ={}, development=False)


@pytest.mark.parametrize("value", ["no_such_module:X", "tests.kek.fakes:Missing"])
def test_what_cannot_be_imported_is_refused(install: Install, value: str) -> None:
    install("fake", value)
    with pytest.raises(Misconfigured, match=r"KEK fake:one: .* can't be loaded"):
        load("fake:one", environ={}, development=False)


def test_keyring_in_order() -> None:
    environ = {"NEW": KEY, "OLD": OTHER}
    ring = load_keyring("env:NEW?id=env-v2", ["env:OLD"], environ=environ, development=False)
    assert [backend.kek_id for backend in ring] == ["env-v2", "env-v1"]
    assert ring.active.kek_id == "env-v2"


@pytest.mark.parametrize(
    ("active", "old"), [("env:A", ["env:B"]), ("env:A", ["env:A"]), ("env:A?id=x", ["env:B?id=x"])]
)
def test_one_kek_id_for_two_keys_is_refused(active: str, old: list[str]) -> None:
    environ = {"A": KEY, "B": OTHER}
    with pytest.raises(Misconfigured, match="share the kek_id"):
        load_keyring(active, old, environ=environ, development=False)
