"""Holds each vault against what its last audited change has left."""

from typing import Any

from custody.audit.events import ERASED
from custody.audit.findings import Finding, Kind, Report
from custody.vault.sealed_state import SealedState, state_digest


def compare(states: list[Any], report: Report) -> int:
    """Compare a page of vaults; return how many there are that no audited change is known of.

    Args:
        states: as ``read_audit_states`` reads them.
        report: what is found goes there.
    """
    unaudited = 0
    for row in states:
        report.vaults += row["has_vault"]
        if row["state"] is None:
            unaudited += 1
        elif row["went_with_account"] and row["state"] != ERASED:
            report.gone += 1
        elif (message := _problem(row)) is not None:
            number = row["number"]
            report.add(Finding(Kind.VAULT, message, rows=(number, number), user_id=row["user_id"]))
    return unaudited


def _problem(row: Any) -> str | None:
    if not row["has_vault"]:
        return None if row["state"] == ERASED else "the vault is gone, and no erasure is recorded"
    if row["state"] == ERASED:
        return "there is a vault that was erased: it was put back"
    state = SealedState(
        generation=row["generation"],
        serial=0,
        zero_knowledge=row["zero_knowledge"],
        key_check=row["key_check"],
        recovery_digest=row["recovery_digest"],
        recovery_format_version=row["recovery_format_version"],
        recovery_set_at=row["recovery_set_at"],
        has_wrap=row["has_wrap"],
        previous_generation=row["previous_generation"],
        previous_digest=row["previous_digest"],
    )
    if state_digest(row["user_id"], state) == row["state"]:
        return None
    return (
        "the vault is not what its last audited change left: one of the two was edited or put back"
    )
