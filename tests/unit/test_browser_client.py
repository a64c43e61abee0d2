"""The browser client as text: what it exports, what it reaches for, and that its types say so."""

import re
import zipfile
from pathlib import Path

import pytest
from hatchling.build import build_wheel

from custody import client
from custody.client import CustodyError
from custody.client.exchange import LONGEST_WAIT, TRIES
from custody.client.transport import PATH
from tests import shown
from tests.servers import ROOT

FOLDER = ROOT / "custody/client/browser"
MODULE = (FOLDER / "custody-client.js").read_text("utf-8")
TYPES = (FOLDER / "custody-client.d.ts").read_text("utf-8")
PAGE = (ROOT / "docs/how-to/browser-client.md").read_text("utf-8")
_EXPORT = r"(?m)^export (?:async )?(?:class|function|const) (\w+)"
_METHOD = r"(?m)^  (?:async )?(\w+)\((?:.*)\)(?: \{|: Promise<.*>;)$"


def methods(text: str) -> set[str]:
    vault = text[text.index("export class Vault {") :]
    return set(re.findall(_METHOD, vault[: vault.index("\n}\n")])) - {"for", "if", "constructor"}


def test_its_types_have_what_it_exports() -> None:
    exported = re.findall(_EXPORT, MODULE)
    assert len(exported) > 15
    assert exported == re.findall(_EXPORT, TYPES)
    assert methods(MODULE) == methods(TYPES)
    assert methods(MODULE) >= {"unlock", "setRecoveryCode", "rotate", "reset", "audit", "status"}


@pytest.mark.parametrize("name", sorted(methods(MODULE)))
def test_its_page_has_each_call(name: str) -> None:
    assert re.search(rf"(?m)^\| `{name}\(", PAGE)


def test_its_errors_are_pythons() -> None:
    pythons = {
        name
        for name, value in vars(client).items()
        if isinstance(value, type) and issubclass(value, CustodyError)
    }
    theirs = set(re.findall(r"(?m)^export class (\w+) extends (?:Custody)?Error", MODULE))
    # A browser does not say why there was no answer.
    assert theirs == pythons - {"NotTrusted"}


def test_its_bounds_are_pythons() -> None:
    def number(name: str) -> float:
        found = re.search(rf"(?m)^const {name} = ([\d *]+);", MODULE)
        assert found
        return eval(found[1])  # type: ignore[no-any-return]  # noqa: S307 - digits and a star

    assert number("TRIES") == TRIES
    assert number("LONGEST_WAIT") == LONGEST_WAIT
    assert f'const PATH = "{PATH}";' in MODULE


@pytest.mark.parametrize("text", [MODULE, *shown.modules().values()])
def test_it_runs_nothing_that_is_not_in_it(text: str) -> None:
    code = re.sub(r"(?s)/\*.*?\*/|(?m:^ *//.*$)", "", text)
    for word in ("eval", "Function", "document", "innerHTML", "localStorage", "console", "window"):
        assert not re.search(rf"\b{word}\b", code), word
    imports = re.findall(r"(?m)^.*\bimport\b.*$", code)
    if text is MODULE:
        assert imports == []
    for one in imports:
        assert re.fullmatch(r'import \{ [\w, ]+ \} from "\./[a-z-]+\.js";', one), one


def test_a_wheel_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with zipfile.ZipFile(tmp_path / build_wheel(str(tmp_path))) as wheel:
        for file in FOLDER.iterdir():
            assert wheel.read(f"custody/client/browser/{file.name}") == file.read_bytes()
