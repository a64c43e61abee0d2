"""Metrics, their page, alerts, runbooks and the dashboard name the same things."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.parser import text_string_to_metric_families

from custody.ops.drill_metrics import write_drill
from custody.ops.metrics import Metrics
from tests.servers import ROOT

MONITORING = ROOT / "docs" / "monitoring"
RUNBOOKS = {path.stem for path in (MONITORING / "runbooks").glob("*.md")}
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((MONITORING / "prometheus-rules.yml").read_text("utf-8"))["groups"]
    for rule in group["rules"]
]
PANELS: list[dict[str, Any]] = json.loads(
    (MONITORING / "grafana-dashboard.json").read_text("utf-8")
)["panels"]
QUERIES = [rule["expr"] for rule in RULES] + [
    target["expr"] for panel in PANELS for target in panel["targets"]
]
_ROW = re.compile(r"(?m)^\| `(custody_\w+)` \| (\w+) \|([^|]*)\|(?:([^|]*)\|)?[^|]+\| [^|]+\|$")
_NAME = re.compile(r"\b(?:custody|process)_\w+\b")
_OF_SEVERAL = {
    "livesum": "sum",
    "livemin": "least",
    "livemax": "greatest",
    "livemostrecent": "newest",
}


def described() -> dict[str, tuple[str, set[str], str]]:
    """Return what the page says of each metric: its type, its labels, and what several show."""
    page = (ROOT / "docs/reference/metrics.md").read_text("utf-8")
    return {
        name: (kind, set(re.findall(r"`(\w+)`", labels)), (of_several or "").strip())
        for name, kind, labels, of_several in _ROW.findall(page)
    }


def made(folder: Path) -> dict[str, tuple[str, set[str], str]]:
    """Return the same as the code has it."""
    found = {}
    for subject in vars(Metrics()).values():
        for metric in vars(subject).values():
            kind = getattr(metric, "_type", None)
            if kind is None or isinstance(metric, CollectorRegistry):
                continue
            name = metric._name + ("_total" if kind == "counter" else "")
            mode = _OF_SEVERAL[metric._multiprocess_mode] if isinstance(metric, Gauge) else "sum"
            found[name] = (kind, set(metric._labelnames), mode)
    # It is put once, and kept by nobody.
    found["custody_build_info"] = ("gauge", {"version", "python"}, "greatest")
    path = folder / "drill.prom"
    write_drill(path, success=True, data_keys=1)
    for family in text_string_to_metric_families(path.read_text()):
        found[family.name] = (family.type, set(), "")
    return found


def samples(folder: Path) -> set[str]:
    """Return the names that a query may ask for."""
    found = set()
    for name, (kind, *_) in made(folder).items():
        ends = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        found |= {name + end for end in ends}
    return found | {"process_resident_memory_bytes"}


def test_the_page_has_each_metric_as_it_is(tmp_path: Path) -> None:
    page, code = described(), made(tmp_path)
    assert page.keys() == code.keys()
    # Histograms of several processes are added up, whatever is said of them.
    for name, said in page.items():
        assert said == code[name], name


def test_the_exposition_has_no_other_metrics() -> None:
    shown = Metrics().render({"database": None}).decode()
    names = set(re.findall(r"(?m)^# TYPE (custody_\w+) ", shown))
    assert names == {
        name.removesuffix("_total") for name in described() if not name.startswith("custody_drill")
    }


def test_names_and_labels_are_as_prometheus_has_them(tmp_path: Path) -> None:
    for name, (kind, labels, _) in made(tmp_path).items():
        assert re.fullmatch(r"custody(?:_[a-z]+)+", name), name
        assert (kind == "counter") == name.endswith("_total"), name
        assert not re.search(r"milli|_ms|minutes|hours|days|kilo|_age$", name), name
        assert not {label for label in labels if "user" in label or label in {"le", "sub"}}


@pytest.mark.parametrize("query", QUERIES)
def test_each_metric_of_a_query_is_there(query: str, tmp_path: Path) -> None:
    named = set(_NAME.findall(query))
    assert named <= samples(tmp_path)
    assert named or query.startswith("up{")


def test_each_metric_is_in_the_dashboard_or_an_alert(tmp_path: Path) -> None:
    asked = {name for query in QUERIES for name in _NAME.findall(query)}
    asked = {re.sub("_(?:bucket|sum|count)$", "", name) for name in asked}
    assert made(tmp_path).keys() - asked == set()


def test_each_alert_has_its_runbook_and_each_runbook_its_alert() -> None:
    assert {rule["alert"] for rule in RULES} == RUNBOOKS
    listed = re.findall(
        r"(?m)^\| \[(\w+)\]\(runbooks/(\w+)\.md\) \| ([a-z, ]+) \|",
        (MONITORING / "README.md").read_text("utf-8"),
    )
    assert {name for name, _, _ in listed} == RUNBOOKS
    for name, page, severities in listed:
        assert name == page
        of_rules = [rule["labels"]["severity"] for rule in RULES if rule["alert"] == name]
        assert severities.split(", ") == of_rules


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    said = rule["annotations"]
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert said.keys() == {"summary", "description", "first_steps", "runbook_url"}
    assert all(said.values())
    page = ROOT / said["runbook_url"]
    assert page == MONITORING / "runbooks" / f"{rule['alert']}.md"
    text = page.read_text("utf-8")
    assert text.startswith(f"# {rule['alert']}\n")
    for part in ("## For users", "## First steps\n\n1. ", "## It clears when"):
        assert part in text
    assert f"**{rule['labels']['severity']}**: " in text
