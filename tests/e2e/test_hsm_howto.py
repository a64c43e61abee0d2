"""The how-to of an HSM, run as it stands but for its folder; and what it shows is what is said."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.db.command import custody
from tests.leaks import remember
from tests.servers import Database, settings_for
from tests.softhsm import module
from tests.systemd.howto import sections
from tests.tokens import Issuer

PAGE = "use-an-hsm"


@pytest.mark.prove
def test_its_commands_make_a_kek(database: Database, issuer: Issuer, tmp_path: Path) -> None:
    here = str(tmp_path / "custody")
    (tmp_path / "custody").mkdir()
    commands, settings = sections(PAGE), sections(PAGE, "ini")
    (make,) = commands["Make the token and the key"]
    assert f"module={module()}\n" in make
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", make.replace("/etc/custody", here)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "never extractable" in done.stdout
    for name in ("pin", "so-pin"):
        remember((tmp_path / "custody/hsm" / name).read_text().strip())
    lines = settings["Use it"][0].replace("/etc/custody", here).splitlines()
    given = dict(line.split("=", 1) for line in lines)
    keks = {"KEK": given.pop("CUSTODY_KEK")} | {f"raw_{name}": it for name, it in given.items()}
    assert commands["Use it"] == ["custody doctor\n"]
    said = custody(settings_for(database, issuer, tmp_path, **keks), "doctor").out
    (shown,) = sections(PAGE, "text")["Use it"]
    pattern = re.escape(shown.strip().replace("/etc/custody", here))
    pattern = re.sub(r"[0-9a-f]{16}/01$", "[0-9a-f]{16}/01", pattern)
    assert re.search(pattern, said), said
