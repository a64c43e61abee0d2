"""What the reference prints of commands is what they print."""

import re
from datetime import UTC, datetime, timedelta

from custody.cli.commands.kek_table import ListedKek, table, tree
from custody.cli.commands.rewrap import run_line
from custody.keks.records import RecordedDataKey, RegisteredKek, RowCount
from custody.rewrap.runs import Run, State
from tests.servers import ROOT

ARN = "aws-kms:arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
KEY = RecordedDataKey(
    "dk-019a9e5c3b7a7c4e8f1d2a3b4c5d6e7f", (ARN,), datetime(2026, 3, 2, 10, 4, 5, tzinfo=UTC), None
)
BEGAN = datetime(2026, 11, 22, 3, 59, 58, 705135, tzinfo=UTC)


def printed(command: str) -> list[str]:
    """Return what the reference shows of a command, each time that it does."""
    page = (ROOT / "docs/reference/cli.md").read_text("utf-8")
    return re.findall(rf"(?ms)^\$ {re.escape(command)}\n(.*?)\n```", page)


def test_kek_list() -> None:
    old = RegisteredKek("env-v1", "decrypt-only", recorded_at=datetime(2026, 1, 12, tzinfo=UTC))
    new = RegisteredKek(ARN, "active", activated_at=datetime(2026, 3, 2, tzinfo=UTC))
    listed = [
        ListedKek(old, RowCount(1502, 1502, 0, legacy=1502), data_keys={}, configured=True),
        ListedKek(new, RowCount(388, 0, 0), data_keys={KEY.id: 5210}, configured=True),
    ]
    lines = [table(listed, 80), *tree([KEY], {KEY.id: RowCount(5210, 0, 0)}, 80)]
    assert printed("custody kek list") == ["\n".join(lines)]


def test_rewrap_status() -> None:
    heartbeat = BEGAN + timedelta(seconds=12_500 / 4063)
    for shown, state in zip(
        printed("custody rewrap status"), (State.RUNNING, State.STOPPED), strict=True
    ):
        run = Run(
            id=1,
            target="kek-2027",
            everything=False,
            started_by="vm:24876:f6ad1f01",
            sources=("env-v1",),
            state=state,
            total=15_000,
            done=12_500,
            moved=0,
            failed=0,
            started_at=BEGAN,
            heartbeat_at=heartbeat,
            ended_at=None if state is State.RUNNING else heartbeat,
            data_key=None,
        )
        assert shown.splitlines()[0] == run_line(run)
