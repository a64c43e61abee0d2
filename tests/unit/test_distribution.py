"""What pip knows custody as, what builds it, and that nothing is installed by a name."""

import importlib.metadata
import re
import tomllib
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hatchling.build import build_wheel

from custody import DISTRIBUTION
from custody.cli import cli
from kek_backends.loader import ENTRY_POINT_GROUP
from tests.servers import ROOT
from tests.systemd.howto import blocks

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PLACES = (
    *("docs", "systemd", "custody", "kek_backends", "sql", ".ci", ".env.example"),
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "Makefile", "pyproject.toml"),
    *(".github", ".pre-commit-config.yaml"),
)
FILES = sorted(
    file
    for place in map(ROOT.joinpath, PLACES)
    for file in ([place] if place.is_file() else place.rglob("*"))
    if file.is_file() and file.suffix != ".pyc"
)
PAGES = [file for file in FILES if file.suffix == ".md"]

_COMMAND = re.compile(
    r"\b(?:pip[\d.]*|pipx|uv)(?: tool| pip| --?\S+(?: [^-\s]\S*)?)*?"
    r" (?:install|download|wheel|inject|add|run)\b"
    r"|\b(?:uvx|easy_install)\b"
)
_REST = re.compile(r"[^\n`;|&#()]*")
_TAKES_A_VALUE = {
    *("-t", "--target", "-w", "--wheel-dir", "-d", "--dest", "-c", "--constraint", "--python"),
}
_TAKES_A_FILE = {"-r", "--requirement", "-e", "--editable"}
# A path from here or from the root, a wheel's file. Not $NAME or {name}, which may be a name.
_PATH = re.compile(r"\.|[^{]*/|[^{]*\.whl\b")


def installations(text: str) -> Iterator[list[str]]:
    """Yield the words behind each command that installs, in a document, a script or a source."""
    text = re.sub(r'"\s*\n\s*f?"', "", text)  # a string of several in Python
    text = re.sub(r"\\\n\s*", " ", text)  # a command of several lines in a shell
    text = re.sub(r"(?<!`)`[^`]+`(?!`)", lambda code: " ".join(code[0].split()), text)
    # How .ci/install.py calls pip, and what it means by the checkout.
    text = text.replace("_run_pip(", "pip ")
    text = re.sub(r"\bstr\(ROOT\b[^)]*\)", "./", text)
    text = re.sub(r", +", " ", re.sub("[\"']", "", text))
    for command in _COMMAND.finditer(text):
        rest = _REST.match(text, command.end())
        assert rest is not None
        # `pip install` itself, in a sentence.
        if rest[0] or text[rest.end() : rest.end() + 1] != "`":
            yield rest[0].split()


def names(words: list[str]) -> list[str]:
    """Return what an index would be asked for by name: all that is no path and no lock."""
    found, sources = [], 0
    upcoming = iter(words)
    for word in upcoming:
        if word in _TAKES_A_VALUE:
            next(upcoming, None)
        elif word in _TAKES_A_FILE or _PATH.match(word):
            sources += 1
            if word in _TAKES_A_FILE:
                next(upcoming, None)
        elif not re.match(r"[-*]|\w+=\w+$", word):  # an option, in a shell or in Python
            found.append(word)
    return found or ([] if sources else ["nothing"])


@pytest.mark.prove
def test_nothing_is_installed_by_a_name() -> None:
    assert len(PAGES) > 30
    found = [
        (str(file.relative_to(ROOT)), names(words))
        for file in FILES
        for words in installations(file.read_text("utf-8", "replace"))
    ]
    assert len(found) > 15
    assert [(file, asked) for file, asked in found if asked] == []


@pytest.mark.parametrize(
    "text",
    [
        # What stood there.
        '    f" reinstall them (pip install --force-reinstall {_DISTRIBUTION}) or use"\n',
        '    f"KEK {uri.text}: can\'t be imported; run: "\n    f"pip install {_missing(point)}"\n',
        "A missing library is named itself (`pip install 'hvac>=2.4'`), and",
        "pip install 'custody[vault]'",
        # What could.
        "pip3.11 install --upgrade custody-daemon\n",
        "/opt/custody/bin/pip --quiet install --target $build hatchling",
        "`python3 -m pip install\n  --no-deps custody`",
        "python -m pip download \\\n  --dest dist custody",
        'run(["-m", "pip", "install", "--quiet", name])',
        '"in the checkout run: pip install "\n  f"{what}"',
        "pip install $WHAT",
        "pip install .[vault] custody-daemon",
        "pipx install custody",
        "pipx run custody",
        "uv tool install custody-daemon",
        "uv pip install custody",
        "uvx custody",
        'self._run_pip("install", "--no-deps", "custody", count=count)',
    ],
)
def test_the_search_finds(text: str) -> None:
    assert any(names(words) for words in installations(text))


@pytest.mark.parametrize(
    "text",
    [
        "pip install . && pip check",
        "in the checkout: pip install '.[vault]' (make run has it)",
        "the last `pip install` of all",
        '"$build"/bin/pip install --no-deps "$build"/dist/*.whl  # the wheel',
        "pip install --target $build --requirement requirements.lock",
        "pip wheel --wheel-dir dist .",
        'self._run_pip("install", *options, "--no-user", "-r", str(ROOT / name), count=count)',
        "uv pip compile pyproject.toml",
        "pip check; pip list",
    ],
)
def test_the_search_lets_pass(text: str) -> None:
    assert not any(names(words) for words in installations(text))


def test_the_commands_of_the_pages_build_with_what_is_pinned() -> None:
    """A lock is installed by hash, and all else without an index and with the lock's builder."""
    found = [
        set(words)
        for page in PAGES
        for block in blocks(page.read_text("utf-8"))
        for words in installations(block)
    ]
    assert len(found) >= 10
    for words in found:
        assert "--no-deps" in words, words
        if "--requirement" in words:
            assert {"--require-hashes", "--only-binary=:all:"} <= words, words
        else:
            assert "--no-index" in words, words
            assert "--no-build-isolation" in words or any(".whl" in word for word in words), words


def test_no_page_depends_on_custody() -> None:
    """Where custody is missing, pip would look for it on an index."""
    projects = [
        tomllib.loads(block)
        for page in PAGES
        for block in re.findall(r"(?ms)^```toml\n(.*?)^```", page.read_text("utf-8"))
    ]
    wanted = [name for one in projects for name in one.get("project", {}).get("dependencies", ())]
    assert wanted
    assert not [name for name in wanted if re.match(r"(?i)custody|kek[-_.]backends", name)]


def test_the_build_takes_the_releases_of_the_lock() -> None:
    """If not: `make lock` has renewed it, and [build-system] in pyproject.toml must follow."""
    lock = (ROOT / "requirements-build.lock").read_text("utf-8")
    assert PROJECT["build-system"]["requires"] == re.findall(r"(?m)^[\w.-]+==[\w.]+", lock)


def test_the_distribution_is_found_under_its_name() -> None:
    assert PROJECT["project"]["name"] == DISTRIBUTION
    version = PROJECT["project"]["version"]
    assert importlib.metadata.version(DISTRIBUTION) == version
    said = CliRunner().invoke(cli, ["--version"], prog_name="custody")
    assert (said.exit_code, said.output) == (0, f"custody, version {version}\n")
    ours = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
    assert {point.dist.name for point in ours if point.dist} == {DISTRIBUTION}


def test_a_wheel_has_all_that_custody_is_made_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    name = build_wheel(str(tmp_path))
    assert fnmatch(name, f"{DISTRIBUTION.replace('-', '_')}-*-py3-none-any.whl")
    documented = re.findall(r"[\w*.-]+\.whl", (ROOT / "docs/self-hosting.md").read_text("utf-8"))
    assert documented
    assert all(fnmatch(name, pattern) for pattern in documented)
    with zipfile.ZipFile(tmp_path / name) as wheel:
        there = set(wheel.namelist())
        scripts = wheel.read(name.replace("-py3-none-any.whl", ".dist-info/entry_points.txt"))
    sources = {
        str(file.relative_to(ROOT))
        for package in ("custody", "kek_backends")
        for file in (ROOT / package).rglob("*.py")
    }
    pages = {
        str(file.relative_to(ROOT))
        for folder in ("templates", "static")
        for file in (ROOT / "custody/console" / folder).rglob("*.*")
    }
    assert len(pages) > 10
    migrations = {
        f"custody/sql/{file.relative_to(ROOT / 'sql')}" for file in ROOT.glob("sql/**/*.sql")
    }
    assert sources | migrations | pages <= there
    assert b"custody = custody.__main__:main" in scripts
