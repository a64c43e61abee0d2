"""What a wheel carries beside Python, the SBOM in it, and builds that are equal to the byte."""

import json
import re
import subprocess
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hatchling.build import build_sdist, build_wheel

from custody.cli import cli
from tests.servers import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
SHARE = "custody_daemon-{}.data/data/share/".format(PROJECT["project"]["version"])
SBOM = ROOT / "docs/custody-daemon.cdx.json"
COMPLETIONS = {
    "bash": "bash-completion/completions/custody",
    "zsh": "zsh/site-functions/_custody",
    "fish": "fish/vendor_completions.d/custody.fish",
}


def _wheel(source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(source)
    folder.mkdir()
    return folder / build_wheel(str(folder))


def _releases(lock: str) -> set[tuple[str, str]]:
    return set(re.findall(r"(?m)^([\w.-]+)==([\w.]+)", (ROOT / lock).read_text("utf-8")))


@pytest.mark.prove
def test_builds_are_equal_to_the_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of the checkout, a day apart, and one of what the source archive unpacks to."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1790000000")
    first = _wheel(ROOT, tmp_path / "first", monkeypatch)
    archive = tmp_path / build_sdist(str(tmp_path))
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, filter="data")
    unpacked = tmp_path / archive.name.removesuffix(".tar.gz")
    # Neither when a file was made, nor for whom, gets in.
    for file in unpacked.rglob("*"):
        file.chmod(0o700 if file.is_dir() or file.stat().st_mode & 0o100 else 0o600)
    second = _wheel(unpacked, tmp_path / "second", monkeypatch)
    assert first.read_bytes() == second.read_bytes()
    (tmp_path / "again").mkdir()
    again = tmp_path / "again" / build_sdist(str(tmp_path / "again"))
    assert archive.read_bytes() == again.read_bytes()


def test_a_wheel_carries_what_other_programs_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(_wheel(ROOT, tmp_path / "wheel", monkeypatch)) as wheel:
        there = {
            name.removeprefix(SHARE): wheel.read(name)
            for name in wheel.namelist()
            if name.startswith(SHARE)
        }
        (inside,) = (name for name in wheel.namelist() if "/sboms/" in name)
        assert wheel.read(inside) == SBOM.read_bytes()
        admin = wheel.getinfo(f"{SHARE}custody/systemd/custody-admin")
    assert admin.external_attr >> 16 & 0o111 == 0o111
    expected = {
        f"custody/systemd/{file.relative_to(ROOT / 'systemd')}": file
        for file in (ROOT / "systemd").rglob("*")
        if file.is_file()
    }
    expected |= {f"man/man1/{page.name}": page for page in ROOT.glob("docs/man/*.1")}
    expected |= {
        COMPLETIONS[name]: ROOT / f"docs/completion/custody.{name}" for name in COMPLETIONS
    }
    expected["custody/env.example"] = ROOT / ".env.example"
    assert len(expected) > 15
    for name, file in expected.items():
        assert there[name] == file.read_bytes(), name


@pytest.mark.parametrize("shell", COMPLETIONS)
def test_the_completions_are_those_that_the_command_prints(shell: str) -> None:
    said = CliRunner().invoke(cli, ["completion", shell])
    kept = (ROOT / f"docs/completion/custody.{shell}").read_text("utf-8")
    assert said.exit_code == 0
    assert said.output == kept, f"custody completion {shell} > docs/completion/custody.{shell}"


def test_bash_completes_by_the_file_of_the_wheel(tmp_path: Path) -> None:
    """In a bash of its own, as bash-completion would load it."""
    source = ROOT / "docs/completion/custody.bash"
    program = tmp_path / "custody"
    program.write_text("#!/bin/sh\n[ $_CUSTODY_COMPLETE = bash_complete ] && echo plain,doctor\n")
    program.chmod(0o755)
    script = f"""
        . {source}
        COMP_WORDS=({program} doc) COMP_CWORD=1
        _custody_completion {program}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("doctor\n", "")


def test_the_sbom_has_what_the_production_lock_has() -> None:
    """If not: ``make sbom``."""
    sbom = json.loads(SBOM.read_text("utf-8"))
    assert sbom["bomFormat"] == "CycloneDX"
    subject = sbom["metadata"]["component"]
    assert subject["name"] == PROJECT["project"]["name"]
    assert subject["version"] == PROJECT["project"]["version"]
    found = {(one["name"], one["version"]) for one in sbom["components"]}
    assert found == _releases("requirements.lock")
    # What it is, and not from where: that is its user's choice.
    assert "externalReferences" not in SBOM.read_text("utf-8")
    for one in sbom["components"]:
        assert one["purl"].startswith(f"pkg:pypi/{one['name'].lower()}@{one['version']}")
