"""The file of an export: when its name is on disk, and what is cut off it."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from custody.audit import export, export_file
from custody.audit.export import FORMATS, Place
from custody.audit.export_file import ExportFile, FileLost, UnfitFile

JSONL = FORMATS["jsonl"]
LINE = '{"number": 7, "id": "a"}\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def test_its_name_is_seen_on_disk_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []
    monkeypatch.setattr(export_file, "sync_folder", seen.append)
    with export_file.export_file(path, JSONL) as file:
        file.write(LINE)
        assert seen == []
        file.sync()
        file.sync()
    assert seen == [path.parent]


def failing(_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_name_that_is_not_on_disk_is_lost(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_file, "sync_folder", failing)
    with export_file.export_file(path, JSONL) as file:
        for _ in range(2):
            with pytest.raises(FileLost, match=r"could not be written: No space left on device"):
                file.sync()


def test_it_goes_on_behind_the_last_whole_line(path: Path) -> None:
    checkpoint = '{"checkpoint": 3, "note": "n"}\n'
    path.write_text(LINE + checkpoint + '{"number": 8, "i')
    with export_file.export_file(path, JSONL) as file:
        assert file.place == Place(7, 3)
        file.write(LINE.replace("7", "8"))
    assert path.read_text() == LINE + checkpoint + LINE.replace("7", "8")
    with export_file.export_file(path, JSONL) as file:
        assert file.place == Place(8, 3)


@pytest.mark.parametrize(
    ("change", "cut", "moved"),
    [
        (lambda _path: None, False, False),
        (lambda path: path.write_text(""), True, False),
        (lambda path: path.rename(path.with_name("other")), False, True),
        (lambda path: (path.unlink(), path.write_text(LINE)), False, True),
    ],
)
def test_what_others_do_to_it(
    path: Path, change: Callable[[Path], object], *, cut: bool, moved: bool
) -> None:
    with export_file.export_file(path, JSONL) as file:
        file.write(LINE)
        change(path)
        assert (file.was_cut, file.was_moved) == (cut, moved)


def test_lines_are_taken_back(path: Path) -> None:
    with export_file.export_file(path, JSONL) as file:
        file.write(LINE)
        file.write("é\n")
        file.take_back("é\n")
        assert path.read_text() == LINE
        file.take_back(LINE * 2)
        assert path.read_text() == ""


def test_one_export_writes_it(path: Path) -> None:
    first = ExportFile.open(path, JSONL)
    try:
        with pytest.raises(UnfitFile, match="another export writes it"):
            ExportFile.open(path, JSONL)
    finally:
        first.close()
    ExportFile.open(path, JSONL).close()


def test_a_file_that_is_none_of_ours_stays_as_it_is(path: Path) -> None:
    path.write_text("something else")
    with pytest.raises(UnfitFile, match="is no export of this format; name another file"):
        ExportFile.open(path, JSONL)
    assert path.read_text() == "something else"


def test_a_file_that_is_no_export_is_named(path: Path) -> None:
    path.write_text("something else\n")
    with pytest.raises(UnfitFile, match=f"^{path} is no export of this format; name another file"):
        ExportFile.open(path, JSONL)
    assert path.read_text() == "something else\n"


@pytest.mark.parametrize("does", ["write", "take_back"])
def test_why_a_file_was_lost_is_said(
    path: Path, does: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with export_file.export_file(path, JSONL) as file:
        file.write(LINE)
        monkeypatch.setattr(os, "write" if does == "write" else "ftruncate", fails)
        with pytest.raises(FileLost) as raised:
            getattr(file, does)(LINE)
    assert str(raised.value) == f"{path} could not be written: Input/output error"


def test_a_checkpoint_as_a_line() -> None:
    stored = {"number": 3, "size": 5, "last_row": 7, "note": "n", "hashes": b""}
    line = export._checkpoint(stored)
    assert json.loads(line) == {"checkpoint": 3, "size": 5, "lastRow": 7, "note": "n"}
    assert line.encode().startswith(export.CHECKPOINT_HEAD)
