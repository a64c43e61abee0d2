"""The erasure record as a file: what is a line, what is none, what is torn."""

import fcntl
import json
from pathlib import Path

import pytest

from custody.db import erasure_record
from custody.db.erasure_record import Erasure, RecordBusy, RecordError, read_record, recorded

ONE = json.dumps({"id": "1", "at": "2026-11-28T19:00:00Z", "user": "älice\n", "action": "erase"})
TWO = json.dumps({"number": 7, "id": "2", "user": "bob", "action": "erase", "seal": None})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "erasures.jsonl"


def write(path: Path, text: str) -> None:
    path.write_text(text)


def test_lines(path: Path) -> None:
    path.write_text(f"{ONE}\n\n{TWO}\r\n")
    record = read_record(path)
    assert record.erasures == (Erasure("1", "älice\n"), Erasure("2", "bob"))
    assert record.of_users == {"älice\n": (Erasure("1", "älice\n"),), "bob": (Erasure("2", "bob"),)}
    assert not record.is_torn
    # The same again, while the file is the same.
    assert read_record(path, record) is record
    path.write_text(f"{ONE}\n")
    assert len(read_record(path, record).erasures) == 1


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        "[]",
        "null",
        TWO.replace("erase", "fetch"),
        TWO.replace('"bob"', '""'),
        TWO.replace('"bob"', "7"),
        TWO.replace('"2"', "null"),
        TWO.replace("bob", "\\u0000"),
        TWO.replace("bob", "\\ud800"),
        TWO.replace('"number"', '"user"'),
        TWO[:-1],
        "\ufeff" + TWO,
    ],
)
def test_what_is_no_line(path: Path, line: str) -> None:
    """In the middle it refuses the file; in the end it is a line that was torn."""
    path.write_text(f"{ONE}\n{line}\n{TWO}\n")
    with pytest.raises(RecordError, match=r"line 2 of .* is no erasure, or was damaged"):
        read_record(path)
    path.write_text(f"{ONE}\n{line}")
    record = read_record(path)
    assert (len(record.erasures), record.is_torn) == (1, True)


@pytest.mark.parametrize("cut", range(len(TWO) + 1))
async def test_every_way_to_be_torn_is_mended_by_the_next(path: Path, cut: int) -> None:
    write(path, f"{ONE}\n{TWO[:cut]}")
    whole = cut == len(TWO)
    assert read_record(path).is_torn is (0 < cut < len(TWO))
    async with recorded(path, Erasure("3", "carol")):
        with pytest.raises(RecordBusy):
            read_record(path)
        assert not read_record(path, waits=False).is_torn
    record = read_record(path)
    assert [one.id for one in record.erasures] == (["1", "2", "3"] if whole else ["1", "3"])


async def test_it_is_made_for_its_owner_alone_and_keeps_its_mode(path: Path) -> None:
    async with recorded(path, Erasure("1", "alice")):
        assert mode_of(path) == 0o600
    open_to_group(path)
    async with recorded(path, Erasure("2", "bob")):
        assert mode_of(path) == 0o640


def open_to_group(path: Path) -> None:
    path.chmod(0o640)


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_files_that_are_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecordError, match=f"there is no {path}; .* touch {path}"):
        read_record(path)
    path.mkdir()
    with pytest.raises(RecordError, match="is no file"):
        read_record(path)
    path.rmdir()
    path.write_text(f"{ONE}\n")
    path.chmod(0o602)
    with pytest.raises(RecordError, match=f"anybody may write .* chmod o-w {path}"):
        read_record(path)
    path.chmod(0o600)
    monkeypatch.setattr(erasure_record, "SIZE_LIMIT", 10)
    with pytest.raises(RecordError, match="older than the oldest backup"):
        read_record(path)


def test_readers_do_not_wait_for_each_other(path: Path) -> None:
    path.write_text(f"{ONE}\n")
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        assert len(read_record(path).erasures) == 1
