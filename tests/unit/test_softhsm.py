"""What a killed process may have left of a token of SoftHSM."""

from pathlib import Path

import pytest

from tests.softhsm import Mirror


@pytest.fixture
def token(tmp_path: Path) -> Path:
    made = tmp_path / "tokens" / "one" / "token.object"
    made.parent.mkdir(parents=True)
    made.write_bytes(b"state")
    return made


@pytest.mark.parametrize("left", [b"", b"sta"])
def test_a_file_that_was_cut_off_is_written_anew(token: Path, tmp_path: Path, left: bytes) -> None:
    mirror = Mirror(tmp_path)
    token.write_bytes(left)
    mirror.mend()
    assert token.read_bytes() == b"state"


@pytest.mark.parametrize("now", [b"STATE", b"state and more"])
def test_a_file_that_is_whole_stays(token: Path, tmp_path: Path, now: bytes) -> None:
    mirror = Mirror(tmp_path)
    token.write_bytes(now)
    mirror.mend()
    assert token.read_bytes() == now
