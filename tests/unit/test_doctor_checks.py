"""What the doctor looks at by itself: files, memory, clocks, certificates, what is due."""

import asyncio
import os
import socket
import subprocess
from email.utils import formatdate
from pathlib import Path

import pytest

from custody.cli.commands.doctor import lines_of
from custody.db.errors import DatabaseError
from custody.keks.instances import Instance
from custody.ops import doctor
from custody.ops.checks import memory
from custody.ops.checks.certificate import examine_certificate
from custody.ops.checks.clock import examine_issuer_clock
from custody.ops.checks.due import verdict_of
from custody.ops.checks.files import of_files
from custody.ops.checks.memory import can_be_dumped, examine_daemons, examine_swap
from custody.ops.checks.routine import examine_drill, of_kek, of_rotations, of_run, of_seals
from custody.ops.findings import as_object
from custody.settings import Settings
from kek_backends.findings import Finding, Severity, Verdict
from tests.certificates import make_certificate
from tests.clock import Clock
from tests.keks import kek_of

DAY = 86_400
KEY = {"MANA_AUTH_KEK": "ERERERERERERERERERERERERERERERERERERERERERE="}
URL = "postgresql://custody_rewrap@localhost/d"


@pytest.mark.parametrize(
    ("days_left", "verdict"),
    [
        (31, Verdict.OK),
        (29.9, Verdict.NOTE),
        (6.9, Verdict.WARNING),
        (0.9, Verdict.FINDING),
        (-400, Verdict.FINDING),
    ],
)
async def test_a_kek_is_due(days_left: float, verdict: Verdict) -> None:
    assert verdict_of(days_left) is verdict
    async with kek_of("env:MANA_AUTH_KEK", KEY) as active:
        found = of_kek(active, 0.0, 365, (365 - days_left) * DAY)
        never = of_kek(active, 0.0, 0, (365 - days_left) * DAY)
        unknown = of_kek(active, None, 365, 0.0)
    assert found.verdict is verdict
    assert "to be rotated by 1971-01-01" in found.message
    assert ("overdue" in found.message) is (days_left < 0)
    assert bool(found.cure) is (verdict is not Verdict.OK)
    assert (never.verdict, unknown.verdict) == (Verdict.OK, Verdict.UNSEEN)


@pytest.mark.parametrize(
    ("done", "worker", "verdict"),
    [
        (None, False, Verdict.NOTE),
        (-3 * DAY, False, Verdict.WARNING),
        (-DAY, False, Verdict.OK),
        (-3 * DAY, True, Verdict.OK),
        (None, True, Verdict.OK),
    ],
)
def test_a_run_is_overdue(done: float | None, worker: bool, verdict: Verdict) -> None:
    settings = Settings.model_validate({"rewrap_database_url": URL} if worker else {})
    found = of_run(done, settings, 0.0)
    assert found.verdict is verdict
    assert ("custody-rewrap.timer" in found.cure) is (verdict is not Verdict.OK)


@pytest.mark.parametrize(
    ("pending", "days", "verdict", "many"),
    [
        (0, None, Verdict.OK, "none"),
        (3, 29, Verdict.OK, "pending: 3, the oldest begun 29 days ago"),
        (3, 31, Verdict.NOTE, "pending: 3, the oldest begun 31 days ago"),
        (1_000, 31, Verdict.NOTE, "pending: 1000, "),
        (1_001, 31, Verdict.NOTE, "pending: more than 1000, "),
    ],
)
def test_a_rotation_stays_pending(
    pending: int, days: int | None, verdict: Verdict, many: str
) -> None:
    found = of_rotations(pending, None if days is None else 0.0, (days or 0) * DAY)
    assert found.verdict is verdict
    assert found.message.startswith(many)
    assert as_object(found)["subject"] == "rows and audit"
    assert found.cure.startswith("psql") is (verdict is Verdict.NOTE)


@pytest.mark.parametrize(
    ("said", "days", "verdict"),
    [
        ("1.0", 1, Verdict.OK),
        ("1.0", 9, Verdict.WARNING),
        ("0.0", 1, Verdict.FINDING),
        (None, 0, Verdict.UNSEEN),
        ("?", 1, Verdict.UNSEEN),
    ],
)
def test_a_drill_is_overdue(said: str | None, days: int, verdict: Verdict, tmp_path: Path) -> None:
    file = tmp_path / "custody_drill.prom"
    if said is not None:
        file.write_text(
            f"# HELP x\ncustody_drill_success {said}\ncustody_drill_timestamp_seconds 1000.0\n"
        )
    found = examine_drill(file, Clock(1000.0 + days * DAY))
    assert found.verdict is verdict
    assert bool(found.cure) is (verdict is not Verdict.OK)


@pytest.mark.parametrize(
    ("behind", "age", "interval", "verdict"),
    [
        (0, None, 30, Verdict.OK),
        (0, 9000.0, 30, Verdict.OK),
        (5, 20.0, 30, Verdict.OK),
        (5, 9000.0, 30, Verdict.NOTE),
        (5, None, 30, Verdict.NOTE),
        (5, 9000.0, 0, Verdict.WARNING),
    ],
)
def test_rows_under_no_checkpoint(
    behind: int, age: float | None, interval: int, verdict: Verdict
) -> None:
    assert of_seals(behind, age, interval).verdict is verdict


@pytest.mark.parametrize(
    ("headers", "verdict"),
    [
        ({"Date": formatdate(1000, usegmt=True)}, Verdict.OK),
        ({"Date": formatdate(1003, usegmt=True)}, Verdict.OK),
        ({"Date": formatdate(990, usegmt=True)}, Verdict.WARNING),
        ({"Date": formatdate(1060, usegmt=True)}, Verdict.FINDING),
        ({"Date": formatdate(400, usegmt=True), "Age": "600"}, Verdict.OK),  # out of a cache
        ({"Date": "yesterday"}, Verdict.UNSEEN),
        ({"Date": formatdate(1000, usegmt=True), "Age": "long"}, Verdict.UNSEEN),
        ({}, Verdict.UNSEEN),
    ],
)
def test_the_issuers_clock(headers: dict[str, str], verdict: Verdict) -> None:
    found = examine_issuer_clock(headers, Clock(1000.0))
    assert found.verdict is verdict
    assert (found.cure == "timedatectl set-ntp true") is (
        verdict in {Verdict.WARNING, Verdict.FINDING}
    )


def test_a_certificate_comes_to_its_end(tmp_path: Path) -> None:
    """One that lives for a day is no warning for all of it: in the last third it is."""
    cert, key = make_certificate(tmp_path / "one")
    _, other = make_certificate(tmp_path / "other")
    dates = subprocess.run(
        ["openssl", "x509", "-in", cert, "-noout", "-enddate", "-dateopt", "iso_8601"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    (found,) = examine_certificate(cert, key)
    assert found.verdict is Verdict.OK
    assert dates.strip().partition("=")[2][:16] in found.message
    begun = cert.stat().st_mtime
    for hours, verdict in ((-1, Verdict.FINDING), (20, Verdict.FINDING), (30, Verdict.FINDING)):
        (found,) = examine_certificate(cert, key, Clock(begun + hours * 3600))
        assert found.verdict is verdict
        assert found.cure
    # Of a key that does not fit it is said elsewhere, and not that it fits.
    assert examine_certificate(cert, other) == []


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings whose files are as they should be."""
    for name, mode in (("key.pem", 0o600), ("cert.pem", 0o644), ("jwks", 0o644), ("toml", 0o644)):
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(mode)
    tmp_path.chmod(0o700)
    return Settings.model_validate(
        {
            "tls_key": tmp_path / "key.pem",
            "tls_cert": tmp_path / "cert.pem",
            "jwks_file": tmp_path / "jwks",
        }
    )


@pytest.mark.parametrize(
    ("file", "mode", "text", "said", "cure"),
    [
        ("key.pem", 0o600, "x", None, ""),
        ("key.pem", 0o640, "x", None, ""),
        ("key.pem", 0o644, "x", "others may use", "chmod o= "),
        ("cert.pem", 0o646, "x", "others may change", "chmod o-w "),
        ("jwks", 0o646, "x", "others may change", "chmod o-w "),
        ("toml", 0o646, "x", "others may change", "chmod o-w "),
        ("toml", 0o664, "x", None, ""),
        ("toml", 0o644, 'database_url = "postgresql://u@h/d"', None, ""),
        ("toml", 0o644, 'database_url = "postgresql://u:p@h/d"', "a password", "chmod o= "),
        ("toml", 0o600, 'database_url = "postgresql://u:p@h/d"', None, ""),
        ("toml", 0o644, 'admin_token = "t"', "a password", "chmod o= "),
        ("toml", 0o640, 'admin_token = "t"', None, ""),
    ],
)
def test_a_file_is_open_to_others(
    settings: Settings,
    tmp_path: Path,
    *,
    file: str,
    mode: int,
    text: str,
    said: str | None,
    cure: str,
) -> None:
    (tmp_path / file).write_text(text)
    (tmp_path / file).chmod(mode)
    found = [one.message for one in of_files(settings, {"CUSTODY_CONFIG": f"{tmp_path}/toml"})]
    if said is None:
        assert found == []
        return
    (message,) = found
    assert said in message
    assert message.endswith(f"; run: {cure}{tmp_path / file}")


def test_a_credential_and_a_secret_of_a_kms_are_looked_at(
    settings: Settings, tmp_path: Path
) -> None:
    for name in ("custody_database_url", "token"):
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(0o644)
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path), "VAULT_TOKEN_FILE": f"{tmp_path}/token"}
    found = [one.message.partition(" names ")[0] for one in of_files(settings, environ)]
    assert found == ["VAULT_TOKEN_FILE", "the credential custody_database_url"]


def test_a_secret_of_another_user(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 54_321)
    found = [one.message for one in of_files(settings, {})]
    # Root may read all anyway: what is root's is right for everybody.
    assert bool(found) is (os.getuid() != 0)
    (tmp_path / "key.pem").chmod(0o600)
    if os.getuid() == 0:
        os.chown(tmp_path / "key.pem", 12_345, -1)
        (message,) = (one.message for one in of_files(settings, {}))
        assert message.endswith(f"(12345); run: chown 54321 {tmp_path}/key.pem")


def test_a_folder_in_which_everybody_may_write(settings: Settings, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    (message,) = (one.message for one in of_files(settings, {}))
    assert message.endswith(f"; run: chmod o-w {tmp_path}")
    tmp_path.chmod(0o1777)
    assert list(of_files(settings, {})) == []


SWAP = "Filename Type Size Used Priority\n/dev/vda2 partition 1 0 -2\n"


@pytest.mark.parametrize(
    ("swaps", "may_swap", "may_lock", "verdict"),
    [
        (SWAP, "max", False, Verdict.WARNING),
        (SWAP, "0", False, Verdict.OK),
        (SWAP, "max", True, Verdict.OK),
        (SWAP.partition("\n")[0], "max", False, Verdict.OK),
        (None, "max", False, Verdict.UNSEEN),
    ],
)
def test_memory_can_be_swapped(
    *,
    swaps: str | None,
    may_swap: str,
    may_lock: bool,
    verdict: Verdict,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "may_lock_memory", lambda: may_lock)
    for folder in ("self", "a.service", "7"):
        (tmp_path / folder).mkdir()
    (tmp_path / "self/cgroup").write_text("0::/a.service\n")
    (tmp_path / "a.service/memory.swap.max").write_text(f"{may_swap}\n")
    if swaps is not None:
        (tmp_path / "swaps").write_text(swaps)
    assert examine_swap(tmp_path, tmp_path).verdict is verdict
    # Of a daemon's process the same, unless its own memory is locked or in swap already.
    user = os.getuid() + 1
    here = [Instance("i", socket.gethostname(), 7, "env:X", None, None, ())]
    for locked, swapped, expected in ((0, 0, verdict), (9, 0, Verdict.OK), (9, 9, Verdict.WARNING)):
        (tmp_path / "7/cgroup").write_text("0::/a.service\n")
        (tmp_path / "7/status").write_text(
            f"Name:\tcustody\nUid:\t{user}\t{user}\nVmLck:\t{locked} kB\nVmSwap:\t{swapped} kB\n"
        )
        (found,) = examine_daemons(here, tmp_path, tmp_path)
        if not may_lock or locked:
            assert found.verdict is expected
    (tmp_path / "7/status").unlink()
    assert examine_daemons(here, tmp_path, tmp_path)[0].verdict is Verdict.UNSEEN


def test_whose_daemon_can_be_dumped() -> None:
    """The kernel gives the files of one that can't be to root."""
    assert can_be_dumped(1000, 1000)
    assert not can_be_dumped(0, 1000)
    assert not can_be_dumped(0, 0)
    elsewhere = [Instance("i", "another.host", 1, "env:X", None, None, ())]
    assert examine_daemons(elsewhere) == []


async def test_what_hangs_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_CHECK_SECONDS", 0.01)

    async def hang() -> list[Finding]:
        await asyncio.Event().wait()
        return []

    async def fail() -> list[Finding]:
        raise DatabaseError("it is gone")

    (found,) = await doctor._within("clock", hang())
    assert (found.verdict, found.part) == (Verdict.DOWN, "clock")
    (found,) = await doctor._within("clock", fail())
    assert (found.verdict, found.message) == (Verdict.DOWN, "it is gone")


FOUND = [
    Finding(Verdict.OK, "production mode", "settings"),
    Finding(Verdict.UNSEEN, "not seen", "backup"),
    Finding(
        Verdict.WARNING, "it is old; run: custody rewrap run", "data-key", "custody rewrap run"
    ),
    Finding(Verdict.FINDING, "it is wrong, and much is to be said of it", "kek env:X", "mend it"),
    Finding(Verdict.OK, "opens", "data-key"),
]


def test_what_is_printed() -> None:
    assert [line.replace("\x1b", "") for line in lines_of(FOUND, None)] == [
        "[1mkeys[0m",
        "  [31mERROR  [0m kek env:X: it is wrong, and much is to be said of it",
        "          [1mcure:[0m mend it",
        "  [33mWARNING[0m data-key: it is old",
        "          [1mcure:[0m custody rewrap run",
        "  [32mok     [0m data-key: opens",
        "[1mdatabase[0m",
        "  [36munseen [0m backup: not seen",
        "[1msettings and host[0m",
        "  [32mok     [0m settings: production mode",
        "[31m[1m1 error, 1 warning, 1 could not be seen; 2 ok[0m",
    ]
    wrapped = list(lines_of(FOUND, 40))
    assert "it is wrong, and" in wrapped[1]
    assert wrapped[2] == "          much is to be said of it"


def test_what_json_has() -> None:
    assert [as_object(one)["subject"] for one in FOUND] == [
        *("settings and host", "database", "keys", "keys", "keys")
    ]
    assert as_object(FOUND[2]) == {
        "subject": "keys",
        "part": "data-key",
        "severity": "warning",
        "verdict": "warning",
        "message": "it is old; run: custody rewrap run",
        "cure": "custody rewrap run",
    }
    assert as_object(FOUND[4])["cure"] is None
    severities = {verdict: Finding(verdict, "").severity for verdict in Verdict}
    assert severities[Verdict.DOWN] is severities[Verdict.FINDING] is Severity.ERROR
    assert severities[Verdict.UNSEEN] is severities[Verdict.NOTE] is Severity.NOTE
