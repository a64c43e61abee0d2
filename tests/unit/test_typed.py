"""Both packages tell a type checker that they are typed, and a stranger's backend holds to them."""

import sys
import venv
import zipfile
from pathlib import Path

import pytest
from hatchling.build import build_wheel

from tests.servers import ROOT
from tests.unit.children import python

BACKEND = '''
"""A backend of somebody else."""

from collections.abc import Mapping
from typing import Self

from kek_backends.base import FORMAT_CURRENT, KekBackend, Wrap
from kek_backends.binding import Binding
from kek_backends.errors import Misconfigured, Tampered
from kek_backends.uri import KekUri


class NotesKek(KekBackend):
    """Writes keys down."""

    def __init__(self, uri: KekUri) -> None:
        self._uri = uri
        self._notes: dict[str, tuple[Binding, bytes]] = {}

    @classmethod
    def from_uri(cls, uri: KekUri, *, environ: Mapping[str, str], development: bool) -> Self:
        if not development:
            raise Misconfigured(f"{uri.text}: for development only")
        return cls(uri)

    @property
    def uri(self) -> KekUri:
        return self._uri

    @property
    def kek_id(self) -> str:
        return "notes-v1"

    def fingerprint(self, kek_id: str) -> str | None:
        return None

    async def _wrap(self, binding: Binding, key: bytes) -> Wrap:
        number = str(len(self._notes))
        self._notes[number] = binding, key
        return Wrap(number, "", FORMAT_CURRENT, self.kek_id)

    async def _unwrap(self, binding: Binding, wrap: Wrap) -> bytes:
        owner, key = self._notes[wrap.wrapped_mk]
        if owner != binding:
            raise Tampered("bound to something else")
        return key
'''


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that has the wheel, and nothing of the checkout."""
    folder = tmp_path_factory.mktemp("typed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        wheel = folder / build_wheel(str(folder))
    venv.create(folder / "venv", symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "venv/lib" / version / "site-packages")
    return folder / "venv"


def checked(environment: Path, folder: Path, text: str) -> tuple[str, int]:
    """What mypy in strict mode says of a file, and its exit code."""
    file = folder / "notes.py"
    file.write_text(text, "utf-8")
    # Not in the checkout: mypy would find its packages there.
    done = python(
        *("-m", "mypy", "--strict", "--config-file", "", "--cache-dir", str(environment / "cache")),
        *("--python-executable", str(environment / "bin/python"), str(file)),
        folder=folder,
    )
    assert not done.stderr
    return done.stdout, done.returncode


@pytest.mark.prove
@pytest.mark.parametrize("package", ["custody", "kek_backends"])
def test_the_wheel_says_that_a_package_is_typed(environment: Path, package: str) -> None:
    assert list(environment.glob(f"lib/*/site-packages/{package}/py.typed"))


@pytest.mark.prove
def test_a_strangers_backend_type_checks_in_strict_mode(environment: Path, tmp_path: Path) -> None:
    assert checked(environment, tmp_path, BACKEND) == (
        "Success: no issues found in 1 source file\n",
        0,
    )


@pytest.mark.prove
def test_a_backend_that_breaks_the_contract_does_not(environment: Path, tmp_path: Path) -> None:
    broken = BACKEND.replace(
        "binding: Binding, wrap: Wrap) -> bytes", "binding: int, wrap: Wrap) -> str"
    )
    out, code = checked(environment, tmp_path, broken)
    assert code == 1
    assert "[override]" in out
