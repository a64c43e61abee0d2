"""An audit row as an event of OCSF, field by field: what a SIEM searches by."""

from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any

import pytest

from custody import DISTRIBUTION
from custody.audit.ocsf import as_ocsf

AT = datetime(2026, 11, 29, 3, 25, 43, 120_500, UTC)
# As PostgreSQL sends a time: microseconds since 2000.
SINCE_2000 = (AT - datetime(2000, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def row(**changes: Any) -> dict[str, Any]:
    return {
        "number": 12,
        "id": "01932e00-0000-7000-8000-000000000001",
        "user_id": "alice",
        "action": "fetch",
        "context": None,
        "status": 200,
        "ip_address": "203.0.113.9",
        "user_agent": "agent",
        "created_at": SINCE_2000.to_bytes(8, "big"),
        "state": None,
        "seal": b"\x01\xff",
    } | changes


def test_a_request() -> None:
    said = as_ocsf(row())
    assert said.pop("time") == int(AT.timestamp() * 1000)
    metadata = said.pop("metadata")
    assert isinstance(metadata, dict)
    assert metadata.pop("original_time").startswith("2026-11-29T03:25:43.1205")
    assert metadata == {
        "sequence": 12,
        "uid": "01932e00-0000-7000-8000-000000000001",
        "version": "1.3.0",
        "product": {"name": "custody", "vendor_name": "custody", "version": version(DISTRIBUTION)},
        "log_name": "audit",
    }
    assert said == {
        "category_uid": 6,
        "class_uid": 6003,
        "activity_id": 2,
        "activity_name": "fetch",
        "type_uid": 600302,
        "severity_id": 1,
        "status_id": 1,
        "status_code": "200",
        "actor": {"user": {"uid": "alice"}},
        "api": {
            "operation": "fetch",
            "service": {"name": "custody"},
            "response": {"code": 200},
        },
        "src_endpoint": {"ip": "203.0.113.9"},
        "http_request": {"user_agent": "agent"},
        "http_response": {"code": 200},
        "resources": [{"type": "vault", "uid": "alice"}],
        "unmapped": {"state": None, "seal": "01ff"},
    }


def test_what_custody_does_of_itself() -> None:
    said = as_ocsf(row(action="rewrap_run", user_id="", context="done", seal=None, state="s"))
    assert said["actor"] == {"app_name": "custody"}
    assert said["src_endpoint"] == {"name": "custody"}
    assert said["api"] == {"operation": "rewrap_run", "service": {"name": "custody"}}
    assert said.keys().isdisjoint({"http_request", "http_response"})
    assert (said["resources"], said["status_detail"]) == ([], "done")
    assert said["unmapped"] == {"state": "s", "seal": None}
    assert (said["activity_id"], said["type_uid"]) == (3, 600303)


def test_what_is_not_known() -> None:
    said = as_ocsf(row(ip_address=None, user_agent=None, action="of tomorrow"))
    assert said["src_endpoint"] == {"name": "unknown"}
    assert "http_request" not in said
    assert (said["activity_id"], said["type_uid"]) == (99, 600399)


@pytest.mark.parametrize(
    ("status", "context", "severity", "outcome"),
    [
        (200, None, 1, 1),
        (399, None, 1, 1),
        (400, None, 2, 2),
        (499, "no-vault", 2, 2),
        (500, None, 3, 2),
        (503, None, 3, 2),
        (500, "row-tampered", 4, 2),
    ],
)
def test_how_bad_it_is(status: int, context: str | None, severity: int, outcome: int) -> None:
    said = as_ocsf(row(status=status, context=context))
    assert (said["severity_id"], said["status_id"]) == (severity, outcome)
    assert (said["status_code"], said.get("status_detail")) == (str(status), context)
