"""An audit row as an event of OCSF 1.3.0, of the class API Activity (6003).

Each row is a call of the vault's routes, by whom, from where, with what HTTP status: what this
class is for. Authentication (3002) it is not, for nobody logs in here; nor Entity Management
(3004), which has no place for the request.
"""

from collections.abc import Mapping
from functools import cache
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from custody import DISTRIBUTION
from custody.audit.events import Action
from custody.audit.exported import iso, milliseconds_of, time_of

_VERSION = "1.3.0"
_CATEGORY, _CLASS = 6, 6003
_CREATE, _READ, _UPDATE, _DELETE, _OTHER = 1, 2, 3, 4, 99
_ACTIVITIES = {
    Action.INIT: _CREATE,
    Action.FETCH: _READ,
    Action.FAILED_FETCH: _READ,
    Action.ROTATE: _UPDATE,
    Action.ROTATION_BEGIN: _UPDATE,
    Action.ROTATION_END: _DELETE,
    Action.RESET: _UPDATE,
    Action.RECOVERY_SET: _UPDATE,
    Action.RECOVERY_CLEAR: _DELETE,
    Action.ZK_ENABLE: _UPDATE,
    Action.ZK_DISABLE: _UPDATE,
    Action.REWRAP_RUN: _UPDATE,
    Action.REWRAP_FAILED: _UPDATE,
    Action.ERASE: _DELETE,
    Action.PRUNE: _DELETE,
}
# What custody does of itself, or an operator by it: no user has asked for it, by no request.
_OWN = {Action.REWRAP_RUN, Action.REWRAP_FAILED, Action.ERASE, Action.PRUNE}
_INFORMATIONAL, _LOW, _MEDIUM, _HIGH = 1, 2, 3, 4
_TAMPERED = "row-tampered"
_SUCCESS, _FAILURE = 1, 2


def as_ocsf(row: Mapping[str, Any]) -> dict[str, object]:
    """Return a row as an event.

    Args:
        row: its columns, whatever they hold.
    """
    activity = _ACTIVITIES.get(row["action"], _OTHER)
    return {
        # First of all the number, by which a file of them is gone on with.
        "metadata": _metadata(row),
        "category_uid": _CATEGORY,
        "class_uid": _CLASS,
        "activity_id": activity,
        "activity_name": row["action"],
        "type_uid": _CLASS * 100 + activity,
        "time": milliseconds_of(row),
        "severity_id": _severity(row),
        "status_id": _SUCCESS if row["status"] < HTTPStatus.BAD_REQUEST else _FAILURE,
        "status_code": str(row["status"]),
        **({} if row["context"] is None else {"status_detail": row["context"]}),
        **_parties(row),
        "resources": [{"type": "vault", "uid": row["user_id"]}] if row["user_id"] else [],
        "unmapped": {
            "state": row["state"],
            "seal": None if row["seal"] is None else row["seal"].hex(),
        },
    }


def _metadata(row: Mapping[str, Any]) -> dict[str, object]:
    at = time_of(row)
    return {
        "sequence": row["number"],
        "uid": row["id"],
        "version": _VERSION,
        "product": _product(),
        "log_name": "audit",
        **({} if at is None else {"original_time": iso(at)}),
    }


@cache
def _product() -> dict[str, str]:
    return {"name": "custody", "vendor_name": "custody", "version": version(DISTRIBUTION)}


def _parties(row: Mapping[str, Any]) -> dict[str, object]:
    """Return who asked, from where, for what, and the answer."""
    api: dict[str, object] = {"operation": row["action"], "service": {"name": "custody"}}
    if row["action"] in _OWN:
        return {"actor": {"app_name": "custody"}, "api": api, "src_endpoint": {"name": "custody"}}
    address, agent = row["ip_address"], row["user_agent"]
    return {
        "actor": {"user": {"uid": row["user_id"]}},
        "api": api | {"response": {"code": row["status"]}},
        # One of the two an endpoint must have. A client's address may be dropped after a time.
        "src_endpoint": {"name": "unknown"} if address is None else {"ip": address},
        **({} if agent is None else {"http_request": {"user_agent": agent}}),
        "http_response": {"code": row["status"]},
    }


def _severity(row: Mapping[str, Any]) -> int:
    if row["context"] == _TAMPERED:
        return _HIGH
    if row["status"] >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return _MEDIUM
    return _LOW if row["status"] >= HTTPStatus.BAD_REQUEST else _INFORMATIONAL
