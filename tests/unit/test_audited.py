"""Vaults against what their last audited change has left: each column counts."""

from typing import Any

import pytest

from custody.audit.events import ERASED
from custody.audit.findings import Kind, Report
from custody.vault.audited import compare
from custody.vault.sealed_state import SealedState, state_digest

STATE = SealedState(
    generation=7,
    serial=0,
    zero_knowledge=False,
    key_check="k" * 64,
    recovery_digest="r" * 64,
    recovery_format_version=1,
    recovery_set_at="1800000000.000001",
    has_wrap=True,
    previous_generation=6,
    previous_digest="p" * 64,
)
COLUMNS = STATE._asdict()
OTHER = {
    "generation": 8,
    "zero_knowledge": True,
    "key_check": None,
    "recovery_digest": "s" * 64,
    "recovery_format_version": 2,
    "recovery_set_at": None,
    "has_wrap": False,
    "previous_generation": 5,
    "previous_digest": None,
}
EDITED = "the vault is not what its last audited change left: one of the two was edited or put back"


def row(**changes: Any) -> dict[str, Any]:
    columns = {name: value for name, value in COLUMNS.items() if name != "serial"}
    known = {"number": 12, "user_id": "alice", "has_vault": True, "went_with_account": False}
    return columns | known | {"state": state_digest("alice", STATE)} | changes


def found(*rows: dict[str, Any]) -> tuple[list[str], int, Report]:
    report = Report()
    unaudited = compare(list(rows), report)
    assert all(one.kind is Kind.VAULT for one in report.findings)
    assert all((one.rows, one.user_id) == ((12, 12), "alice") for one in report.findings)
    return [one.message for one in report.findings], unaudited, report


def test_as_it_was_left() -> None:
    messages, unaudited, report = found(row(), row())
    assert (messages, unaudited, report.vaults, report.gone) == ([], 0, 2, 0)


@pytest.mark.parametrize("column", OTHER)
def test_another_value_of_any_column(column: str) -> None:
    assert found(row(**{column: OTHER[column]}))[0] == [EDITED]


def test_of_another_user() -> None:
    report = Report()
    compare([row(user_id="bob")], report)
    assert [one.message for one in report.findings] == [EDITED]


def test_what_was_never_audited() -> None:
    messages, unaudited, report = found(row(state=None), row(state=None, has_vault=False))
    assert (messages, unaudited, report.vaults) == ([], 2, 1)


def test_erased() -> None:
    assert found(row(state=ERASED, has_vault=False))[0] == []
    assert found(row(state=ERASED))[0] == ["there is a vault that was erased: it was put back"]
    gone = "the vault is gone, and no erasure is recorded"
    assert found(row(has_vault=False))[0] == [gone]


def test_gone_with_its_account() -> None:
    messages, _, report = found(row(has_vault=False, went_with_account=True))
    assert (messages, report.gone, report.vaults) == ([], 1, 0)
    messages, _, report = found(row(has_vault=False, went_with_account=True, state=ERASED))
    assert (messages, report.gone) == ([], 0)


def test_a_row_as_the_database_has_it() -> None:
    columns = {**COLUMNS, "seal_serial": 3, "wrapped_mk": "w"}
    del columns["has_wrap"]
    assert SealedState.of(columns) == STATE._replace(serial=3)
    assert SealedState.of({**columns, "wrapped_mk": None}) == STATE._replace(
        serial=3, has_wrap=False
    )
