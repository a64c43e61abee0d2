"""What a line of the audit is as a message of syslog."""

import json
import os
import re
import socket
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import pytest

from custody.audit.export import Line
from custody.audit.targets.syslog import MAX_LENGTH, message

AT = datetime(2026, 1, 2, 3, 4, 5, 6, UTC)
# As PostgreSQL sends it: microseconds since 2000.
_SENT = (AT - datetime(2000, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
ROW: dict[str, Any] = {"number": 7, "created_at": _SENT.to_bytes(8)}


def test_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "a höst\n" + "x" * 300)
    sent = message(Line('{"number":7}', 7, ROW)).decode("ascii")
    # RFC 5424, section 6: priority and version, time, host, application, process, kind, no data.
    head = re.fullmatch(r'<110>1 (\S+) (\S+) custody (\d+) row - \{"number":7\}', sent)
    assert head is not None
    time, host, process = head.groups()
    assert datetime.fromisoformat(time) == AT
    assert host == ("a?h?st?" + "x" * 300)[:255]
    assert process == str(os.getpid())


def test_a_checkpoint_has_no_time_and_a_host_may_have_no_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "")
    sent = message(Line("note", 3, None))
    assert sent == f"<110>1 - - custody {os.getpid()} checkpoint - note".encode()


@pytest.mark.parametrize("more", [0, 1])
def test_a_line_that_is_too_long_is_sent_by_its_digest(more: int) -> None:
    text = "x" * (MAX_LENGTH + more)
    sent = message(Line(text, 9, None)).decode().partition(" checkpoint - ")[2]
    if not more:
        assert sent == text
        return
    digest = sha256(text.encode()).hexdigest()
    assert json.loads(sent) == {"number": 9, "tooLong": MAX_LENGTH + 1, "sha256": digest}
