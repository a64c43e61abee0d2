"""The place of a follower is in its file whole, or as it was before."""

import stat
from pathlib import Path

import pytest

from custody.audit.export import Place
from custody.audit.place_file import place_file
from custody.audit.targets.target import TargetUnfit


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "place"
    with place_file(path, "tcp:a") as place:
        assert place.read() is None
        for written in (Place(123456789, 77), Place(1, None)):
            place.write(written)
            assert place.read() == written
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with place_file(path, "tcp:b") as other:
        assert other.read() is None


def test_what_a_crash_left_beside_it_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "place.new").write_text("x" * 1000)
    with place_file(tmp_path / "place", "tcp:a") as place:
        place.write(Place(5, 6))
        assert place.read() == Place(5, 6)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"target": "tcp:a", "row": true, "checkpoint": null}', "{" * 100_000],
)
def test_what_is_no_place_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "place").write_text(content)
    with (
        place_file(tmp_path / "place", "tcp:a") as place,
        pytest.raises(TargetUnfit, match="says no place of an export; take it away"),
    ):
        place.read()


def test_one_follower_has_it(tmp_path: Path) -> None:
    path = tmp_path / "place"
    with (
        place_file(path, "tcp:a"),
        pytest.raises(TargetUnfit, match="another follower goes by it"),
        place_file(path, "tcp:a"),
    ):
        pass
    with place_file(path, "tcp:a"):
        pass
