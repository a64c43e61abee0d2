"""`.ci/install.py`: which environment is taken for whole, and what is done to one that is not."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from custody import DISTRIBUTION
from tests.servers import ROOT
from tests.unit.children import ci_script

RUN = "requirements-run.lock"
DEV = "requirements-dev.lock"
BUILD = "requirements-build.lock"
PROJECT = "pyproject.toml"


class Killed(BaseException):
    """What SIGKILL is to the installation: nothing of it runs after that."""


class Checkout:
    """A checkout of three files, and the steps of each installation in it: pip is not run."""

    def __init__(self, folder: Path, module: ModuleType) -> None:
        self.folder = folder
        self.environment = folder / ".venv"
        self._module = module

    def change(self, name: str) -> None:
        with (self.folder / name).open("a") as file:
            file.write("another==1\n")

    def install(self, kind: str, *, killed_at: str = "") -> list[str]:
        """Return what was done."""
        environment = self._module.Environment(self.environment)
        steps: list[str] = []

        def step(name: str, *_: object) -> None:
            steps.append(name)
            if name == killed_at:
                raise Killed

        def make() -> None:
            environment.python.parent.mkdir(parents=True, exist_ok=True)
            environment.python.touch()
            step("make")

        environment._make, environment._find_pip = make, lambda: None
        environment._install = environment._run_pip = step
        with contextlib.closing(environment._held), contextlib.suppress(Killed):
            environment.fill(self._module.KINDS[kind])
        return steps


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ci_script("install")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


@pytest.fixture
def checkout(tmp_path: Path, module: ModuleType) -> Checkout:
    made = Checkout(tmp_path, module)
    for name in (RUN, DEV, PROJECT):
        made.change(name)
    return made


LAST = ["install", "check"]
ALL_OF_RUN = ["make", RUN, *LAST]
ALL_OF_DEV = ["make", RUN, DEV, *LAST]


def test_run_needs_the_small_lock_and_tests_add_the_rest(checkout: Checkout) -> None:
    assert checkout.install("run") == ALL_OF_RUN
    assert checkout.install("run") == []
    assert checkout.install("dev") == [DEV, *LAST]
    assert checkout.install("run") == checkout.install("dev") == []


@pytest.mark.parametrize(
    ("changed", "run", "dev"),
    [
        (RUN, ALL_OF_RUN, [DEV, *LAST]),
        # What runs is what it was; the rest is not, and what it leaves behind must not stay.
        (DEV, [], ALL_OF_DEV),
        (PROJECT, LAST, []),
    ],
)
def test_what_a_branch_changes_is_installed_anew(
    checkout: Checkout, changed: str, run: list[str], dev: list[str]
) -> None:
    assert checkout.install("dev") == ALL_OF_DEV
    checkout.change(changed)
    assert checkout.install("run") == run
    assert checkout.install("dev") == dev
    assert checkout.install("dev") == []


@pytest.mark.parametrize("step", ALL_OF_DEV)
def test_what_was_killed_is_not_taken_for_whole(checkout: Checkout, step: str) -> None:
    assert checkout.install("dev", killed_at=step)[-1] == step
    assert checkout.install("run") == ALL_OF_RUN


@pytest.mark.parametrize("step", [DEV, *LAST])
def test_what_was_killed_while_it_was_added_to_spoils_the_whole(
    checkout: Checkout, step: str
) -> None:
    checkout.install("run")
    checkout.install("dev", killed_at=step)
    assert checkout.install("run") == ALL_OF_RUN


def test_another_python_makes_another_environment(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout.install("run")
    monkeypatch.setattr(sys, "version", "3.99.0")
    assert checkout.install("run") == ALL_OF_RUN


def test_one_whose_python_has_gone_is_made_anew(checkout: Checkout) -> None:
    checkout.install("run")
    (checkout.environment / "bin/python").unlink()
    assert checkout.install("run") == ALL_OF_RUN


def test_a_checkout_that_was_moved_is_installed_anew(
    checkout: Checkout, module: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checkout.install("run")
    moved = tmp_path.with_name(f"{tmp_path.name}-moved")
    shutil.copytree(tmp_path, moved)
    monkeypatch.setattr(module, "ROOT", moved)
    assert Checkout(moved, module).install("run") == ALL_OF_RUN


def test_one_that_has_custody_under_another_name_is_made_anew(
    checkout: Checkout, module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert module._DISTRIBUTION == DISTRIBUTION
    with monkeypatch.context() as before:
        before.setattr(module, "_DISTRIBUTION", "custody")
        checkout.install("run")
    assert checkout.install("run") == ALL_OF_RUN


def test_a_state_that_is_garbage_counts_as_none(checkout: Checkout) -> None:
    checkout.install("run")
    for text in ("", "{", json.dumps({RUN: "else", PROJECT: "else"})):
        (checkout.environment / ".installed").write_text(text)
        assert checkout.install("run") == ALL_OF_RUN


def test_clearing_takes_all_but_the_lock(checkout: Checkout, module: ModuleType) -> None:
    elsewhere = checkout.folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").touch()
    environment = module.Environment(checkout.environment)
    (environment.folder / "lib").mkdir()
    (environment.folder / "lib/file").touch()
    (environment.folder / "link").symlink_to(elsewhere)
    environment._make()
    assert not (environment.folder / "lib/file").exists()
    assert not (environment.folder / "link").exists()
    assert (elsewhere / "file").exists()
    assert (environment.folder / "pyvenv.cfg").exists()
    assert (environment.folder / ".custody-lock").exists()
    environment._held.close()


def test_a_folder_of_somebody_else_is_never_cleared(
    checkout: Checkout, module: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    checkout.environment.mkdir()
    (checkout.environment / "diary").touch()
    with pytest.raises(SystemExit, match=r"was not made by make: remove it, or .* VENV="):
        module.main(str(checkout.environment), "run")
    assert [path.name for path in checkout.environment.iterdir()] == ["diary"]


def test_a_folder_that_cannot_be_made_is_one_line(checkout: Checkout, module: ModuleType) -> None:
    (checkout.folder / "file").touch()
    with pytest.raises(SystemExit, match=r"^custody: can't use .*file.*make VENV=.* run$"):
        module.main(str(checkout.folder / "file" / "venv"), "run")


@pytest.mark.parametrize("part", [RUN, "requirements.lock", BUILD])
def test_each_lock_is_a_part_of_the_whole(part: str) -> None:
    whole, some = pins(DEV), pins(part)
    assert len(some) > (5 if part == BUILD else 30)
    assert some.items() <= whole.items()


@pytest.mark.parametrize("name", [RUN, DEV, BUILD, "requirements.lock"])
def test_a_lock_names_no_place(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    assert "://" not in text
    assert "\n-" not in text
    assert all(hashes for hashes in pins(name).values())


def pins(name: str) -> dict[str, list[str]]:
    """Return the hashes of each pin, its condition included."""
    found: dict[str, list[str]] = {}
    for block in re.split(r"\n(?=\S)", (ROOT / name).read_text("utf-8")):
        pin, *hashes = (line.strip(" \\") for line in block.splitlines())
        assert "==" in pin
        found[pin] = hashes
    return found


def test_progress_is_shown_in_a_log(
    module: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody waits for minutes before a screen that does not move."""
    printed = "".join(f"print('Collecting package-{n}')\n" for n in range(25))
    printed += "print('Installing collected packages: all')\n"
    with (
        subprocess.Popen([sys.executable, "-c", printed], stdout=subprocess.PIPE, text=True) as pip,
        (tmp_path / "log").open("w") as log,
    ):
        module._follow(pip, log, 25)
    assert capsys.readouterr().out.splitlines() == [
        *("  10 of 25 fetched", "  20 of 25 fetched", "  25 of 25 fetched", "  unpacking them")
    ]


def test_what_holds_secrets_is_not_committed() -> None:
    """Ours are: the folder kek_backends, and the example."""
    secret = [".env", ".env.local", "custody.toml", "kek", "kek-2027", "new.kek", "kek.b64"]
    ours = [".env.example", "kek_backends/env.py", "custody/keks/watch.py", "tests/kek/fakes.py"]
    done = subprocess.run(
        ["git", "check-ignore", "--no-index", *secret, *ours],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode > 1:
        pytest.skip("this is no checkout of git")
    assert done.stdout.split() == secret
