"""How an operator learns why tokens are refused."""

import pytest
from structlog.testing import capture_logs

from custody.auth.refusals import Reason
from custody.ops.metrics import Metrics
from custody.ops.refused_tokens import RefusedTokens


@pytest.mark.parametrize("reason", Reason)
def test_each_reason_is_counted_and_logged(reason: Reason) -> None:
    metrics = Metrics()
    with capture_logs() as logged:
        RefusedTokens(metrics).count(reason)
    assert [
        (line["event"], line["log_level"], line["reason"], line["tokens"]) for line in logged
    ] == [("tokens_refused", "info", reason.label, 1)]
    shown = metrics.render({}).decode()
    assert f'custody_refused_tokens_total{{reason="{reason.label}"}} 1.0' in shown


def test_lines_are_bounded_and_nothing_is_left_out_of_the_counts() -> None:
    now, metrics = 0.0, Metrics()
    refused = RefusedTokens(metrics, clock=lambda: now)
    with capture_logs() as logged:
        for second in range(121):
            now = float(second)
            for _ in range(10):
                refused.count(Reason.EXPIRED)
            refused.count(Reason.ISSUER)
    counted = [(line["reason"], line["tokens"]) for line in logged]
    assert counted == [
        ("expired", 1),
        ("iss", 1),
        ("expired", 600),
        ("iss", 60),
        ("expired", 600),
        ("iss", 60),
    ]
    assert 'custody_refused_tokens_total{reason="expired"} 1210.0' in metrics.render({}).decode()


def test_reasons_have_names_of_their_own() -> None:
    assert len({reason.label for reason in Reason}) == len(Reason)
