"""The page about third-party backends is a package that installs and passes the suite."""

import os
import re
from pathlib import Path

import pytest

from kek_backends.testing import CHECKS
from tests.servers import ROOT
from tests.unit.children import Done, python

PAGE = ROOT / "docs/how-to/third-party-backend.md"
MODULE, PROJECT, TEST = "custody_kek_file.py", "pyproject.toml", "test_custody_kek_file.py"


def files() -> dict[str, str]:
    """Return the files of the page: a name in backquotes with a colon, then a block."""
    return dict(re.findall(r"(?ms)^`([\w.]+)`:\n\n```\w+\n(.*?)^```", PAGE.read_text("utf-8")))


def run(*command: str, folder: Path, path: Path) -> Done:
    # The other plugins of our own environment take longer to load than the suite to run.
    more = {"PYTHONPATH": str(path), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return python("-m", *command, folder=folder, environ={**os.environ, **more})


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the folder of the sources, and the folder where they are installed."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    found = files()
    assert set(found) == {MODULE, PROJECT, TEST}
    for name, text in found.items():
        (source / name).write_text(text, "utf-8")
    options = "--quiet --no-deps --no-build-isolation --no-index --disable-pip-version-check"
    pip = run(
        *("pip", "install", *options.split(), "--target", str(target), "."),
        folder=source,
        path=source,
    )
    assert pip.returncode == 0, pip.stderr
    # What is tested is what was installed: not the sources in the current folder.
    (source / MODULE).unlink()
    return source, target


def suite(source: Path, target: Path) -> Done:
    options = "-q -p no:cacheprovider -p pytest_asyncio.plugin"
    return run("pytest", *options.split(), TEST, folder=source, path=target)


@pytest.mark.prove
def test_it_installs_and_passes(package: tuple[Path, Path]) -> None:
    done = suite(*package)
    assert done.returncode == 0, done.stdout
    assert re.search(rf"(?m)^{len(CHECKS)} passed", done.stdout)


@pytest.mark.prove
def test_its_test_notices_a_mistake(package: tuple[Path, Path], tmp_path: Path) -> None:
    """The binding forgotten, in the one line that binds the wrap."""
    source, target = package
    bound = "info = binding.encode(kek_id)"
    text = (target / MODULE).read_text("utf-8")
    assert bound in text
    (tmp_path / MODULE).write_text(text.replace(bound, "info = kek_id.encode()"), "utf-8")
    for info in target.glob("*.dist-info"):
        (tmp_path / info.name).symlink_to(info)
    done = suite(source, tmp_path)
    assert done.returncode == 1
    for check in ("their_user", "their_generation"):
        assert f"[check_wraps_open_for_{check}_only]" in done.stdout
    assert "[check_purposes_are_apart]" in done.stdout
