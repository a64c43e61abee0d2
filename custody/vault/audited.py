"""Holds each vault against what its last audited change has left."""

from typing import Any

from custody.audit.events import ERASED
from custody.audit.findings import Finding, Kind, Report
from custody.audit.reading import Reader
from custody.vault.sealed_state import SealedState, state_digest


async def compare_vaults(reader: Reader, report: Report) -> None:
    """Compare all vaults.

    Args:
        reader: reads them.
        report: what is found goes there.

    Raises:
        DatabaseError: the database can't be asked now.
    """
    unaudited = 0
    async for page in reader.states():
        for row in page:
            report.vaults += row["has_vault"]
            unaudited += row["state"] is None
            if row["state"] is not None and (message := _problem(row)) is not None:
                number = row["number"]
                report.add(Finding(Kind.VAULT, message, (number, number), user_id=row["user_id"]))
    if unaudited:
        report.notices.append(
            f"{unaudited} vaults have not changed since audit rows say what a change left"
        )


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
    )
    if state_digest(row["user_id"], state) == row["state"]:
        return None
    return (
        "the vault is not what its last audited change left: one of the two was edited or put back"
    )
