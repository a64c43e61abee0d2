"""Each alert fires at its cause and clears after it, as promtool says; on made-up values."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from custody.ops.metrics import Metrics
from tests.prometheus import binary, lint
from tests.proofs import some
from tests.unit.test_monitoring import MONITORING, RULES

RULES_FILE = MONITORING / "prometheus-rules.yml"
HERE = 'job="custody", instance="a"'
DAY = 86_400


@dataclass(frozen=True)
class Case:
    """An alert, values that fire it and clear it again, and values that do not.

    Args:
        alert: its name.
        severity: of the rule.
        series: by name and labels; as promtool writes them.
        step: minutes from one value to the next.
        quiet_at: the number of the value at which nothing fires yet.
        fires_at: at which it does.
        clear_at: at which it does no more.
    """

    alert: str
    severity: str
    series: dict[str, str]
    step: int = 1
    quiet_at: int = 0
    fires_at: int = 40
    clear_at: int = 100


def at(name: str, more: str = "") -> str:
    return f"{name}{{{HERE}{', ' * bool(more)}{more}}}"


def buckets(name: str, fast: str, slow: str) -> dict[str, str]:
    """Return a histogram of three buckets: counts of what is at most 1, at most 2, and all."""
    return {
        at(f"{name}_bucket", 'le="1"'): fast,
        at(f"{name}_bucket", 'le="2"'): fast,
        at(f"{name}_bucket", 'le="+Inf"'): slow,
    }


BAD_THEN_GOOD = "0 1x49 0x80"
LIKE_ONE_ALARM = "0x29 1x100"  # an increase of 1 at the 30th minute

CASES = [
    Case("CustodyDown", "critical", {at("up"): "1 0x49 1x80"}),
    Case("CustodyNotReady", "critical", {at("custody_ready", 'part="kek"'): "1 0x49 1x80"}),
    Case(
        "CustodyErrors",
        "critical",
        {
            at("custody_requests_total", 'status="200"'): "0+100x130",
            at("custody_requests_total", 'status="503"'): "0 0+10x49 490x80",
        },
    ),
    Case(
        "CustodySlow", "warning", buckets("custody_request_seconds", "0+1x49 100+9x80", "0+9x130")
    ),
    Case(
        "CustodyKmsFailing", "warning", {at("custody_kms_breaker_open", 'kek="k"'): BAD_THEN_GOOD}
    ),
    Case("CustodyDataKeyCoasting", "warning", {at("custody_data_key_coasting"): BAD_THEN_GOOD}),
    Case(
        "CustodyDataKeyCoasting",
        "critical",
        {
            at("custody_data_key_coasting"): BAD_THEN_GOOD,
            at("custody_data_key_seconds_left"): "86400 21599x49 86400x80",
        },
    ),
    # Minute 120 is the first that is more than an hour after the fetch.
    Case(
        "CustodyJwksStale",
        "warning",
        {at("custody_jwks_fetched_timestamp_seconds"): "60x119 7200x80"},
        quiet_at=60,
        fires_at=110,
        clear_at=130,
    ),
    Case(
        "CustodyTokensRefused",
        "warning",
        {at("custody_refused_tokens_total", 'reason="audience"'): "0 0+120x49 5880x80"},
    ),
    Case(
        "CustodyRowTampered",
        "critical",
        {at("custody_tampered_rows_total", 'reason="seal"'): LIKE_ONE_ALARM},
    ),
    Case(
        "CustodyAuditTampered",
        "critical",
        {at("custody_audit_alarms_total", 'reason="shorter"'): LIKE_ONE_ALARM},
    ),
    Case("CustodyCanaryTouched", "critical", {at("custody_canary_requests_total"): LIKE_ONE_ALARM}),
    Case(
        "CustodyBrakeHolds",
        "critical",
        {at("custody_unwrap_refusals_total"): LIKE_ONE_ALARM},
        fires_at=32,
    ),
    Case(
        "CustodyAuditUnsealed",
        "warning",
        # One daemon goes on saying what it did once; the other one stops sealing, and goes on.
        {
            at("custody_audit_sealed_timestamp_seconds"): "30x130",
            'custody_audit_sealed_timestamp_seconds{job="custody", instance="b"}': (
                "30+60x19 1170x30 3000+60x80"
            ),
            at("custody_audit_seal_interval_seconds"): "30x130",
        },
        quiet_at=19,
        clear_at=60,
    ),
    *(
        Case(
            "CustodyKekDue",
            severity,
            {
                at("custody_kek_activated_timestamp_seconds"): f"1x180 {180 * DAY // 4}x40",
                at("custody_kek_max_age_seconds"): f"{40 * DAY}x230",
            },
            step=360,
            quiet_at=(40 - days) * 4 - 1,
            fires_at=(40 - days) * 4 + 2,
            # Due again in forty days.
            clear_at=182,
        )
        for days, severity in ((30, "info"), (7, "warning"), (1, "critical"))
    ),
    Case(
        "CustodyRewrapOverdue",
        "warning",
        {
            at("custody_rewrap_looked_timestamp_seconds"): "0x200",
            at("custody_rewrap_run_success_timestamp_seconds"): f"3600x99 {99 * 3600}x100",
        },
        step=60,
        quiet_at=47,
        fires_at=52,
        clear_at=101,
    ),
    Case(
        "CustodyRowsSetAside",
        "warning",
        {at("custody_rewrap_run_rows", 'outcome="failed"'): BAD_THEN_GOOD},
    ),
    Case(
        "CustodyUnsealedRows",
        "warning",
        {at("custody_unsealed_rows", 'kind="wrap"'): "5x49 0x20"},
        step=360,
        quiet_at=26,
        fires_at=30,
        clear_at=52,
    ),
    Case("CustodyDrillFailed", "critical", {"custody_drill_success": "1 0x49 1x80"}),
    Case(
        "CustodyDrillOverdue",
        "warning",
        {"custody_drill_timestamp_seconds": f"3600x250 {251 * 3600}x50"},
        step=60,
        quiet_at=190,
        fires_at=200,
        clear_at=252,
    ),
    # What never was has no series, or is 0.
    Case(
        "CustodyDrillOverdue",
        "warning",
        {at("custody_second_root"): "1x130", "custody_drill_timestamp_seconds": "_x89 5400x40"},
        quiet_at=50,
        fires_at=70,
    ),
    Case(
        "CustodyAuditUnsealed",
        "warning",
        {
            at("custody_audit_seal_interval_seconds"): "30x130",
            at("custody_audit_sealed_timestamp_seconds"): "0x49 3000+60x80",
        },
        quiet_at=4,
    ),
    Case(
        "CustodyAuditUnsealed",
        "warning",
        # A daemon that does not seal at all is not asked to.
        {
            at("custody_audit_seal_interval_seconds"): "0x49 30x48 0x30",
            at("custody_audit_sealed_timestamp_seconds"): "0x130",
        },
        quiet_at=40,
        fires_at=60,
    ),
    Case(
        "CustodyPoolFull",
        "warning",
        {
            at("custody_database_connections", 'pool="requests", state="in-use"'): "0 16x49 3x80",
            at("custody_database_connections_limit", 'pool="requests"'): "16x130",
        },
    ),
    Case(
        "CustodyConnectionsFull",
        "warning",
        {
            at("custody_connections", 'listener="vault"'): "0 64x49 3x80",
            at("custody_connections_limit", 'listener="vault"'): "64x130",
        },
    ),
    Case(
        "CustodyDeadlinesNear",
        "warning",
        buckets("custody_commit_deadline_left_seconds", "0+5x49 250x80", "0+9x130"),
    ),
]


def firing(case: Case, number: int, *, fires: bool) -> dict[str, object]:
    """Return what is to be asked after a value, and the answer."""
    of_it = f'alertname="{case.alert}", severity="{case.severity}"'
    expected = {"labels": f"{{{of_it}}}", "value": 1}
    return {
        "expr": f'count by (alertname, severity) (ALERTS{{{of_it}, alertstate="firing"}})',
        "eval_time": f"{number * case.step}m",
        "exp_samples": [expected] if fires else [],
    }


def group(case: Case) -> dict[str, object]:
    """Return a case as promtool takes it."""
    return {
        "interval": f"{case.step}m",
        "input_series": [
            {"series": series, "values": values} for series, values in case.series.items()
        ],
        "promql_expr_test": [
            firing(case, case.quiet_at, fires=False),
            firing(case, case.fires_at, fires=True),
            firing(case, case.clear_at, fires=False),
        ],
    }


def test_each_alert_has_a_case() -> None:
    of_rules = [(rule["alert"], rule["labels"]["severity"]) for rule in RULES]
    assert sorted({(case.alert, case.severity) for case in CASES}) == sorted(of_rules)


# Those of days are seen at longer steps, which take less of the time that a test has.
@pytest.mark.parametrize("step", some([1, 60, 360], 60))
def test_each_alert_fires_and_clears(tmp_path: Path, step: int) -> None:
    test = {
        "rule_files": [str(RULES_FILE)],
        "evaluation_interval": f"{step}m",
        "tests": [group(case) for case in CASES if case.step == step],
    }
    path = tmp_path / "alerts.yml"
    path.write_text(json.dumps(test))  # JSON is YAML, too
    done = subprocess.run(
        [binary("promtool"), "test", "rules", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_takes_the_metrics() -> None:
    assert not lint(Metrics().render({"database": None}).decode())


def test_promtool_takes_the_rules() -> None:
    done = subprocess.run(
        [binary("promtool"), "check", "rules", "--lint-fatal", str(RULES_FILE)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
