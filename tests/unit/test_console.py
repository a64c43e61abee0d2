"""What the console shows of a snapshot, and how a snapshot is made of what the parts say."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

import pytest
from jinja2 import Template

from custody.console import page, shown
from custody.console.history import History, Interval
from custody.console.known import Known, Look
from custody.console.page import Page
from custody.console.snapshot import (
    Ages,
    Found,
    Kek,
    Kms,
    Level,
    Seal,
    Snapshot,
    Todo,
    Verdict,
)
from custody.console.traffic import quantile, traffic
from custody.console.tree import MOST_SHOWN, Standing, grow
from custody.console.verdict import judge
from custody.db.errors import DatabaseError
from custody.keks.instances import Instance
from custody.keks.records import RecordedDataKey, RegisteredKek, RowCount
from custody.ops.metrics import Metrics
from custody.rewrap.runs import Run, State
from tests.eventually import eventually

NOW = datetime(2026, 11, 29, 3, 0, 30, tzinfo=UTC)
DATA_KEY = "dk-0123456789abcdef0123456789abcdef"
EVIL = "<script src='//evil'></script>\"><img onerror=x>"
AGES = Ages(NOW - timedelta(days=3), NOW + timedelta(days=40), False, None, NOW, None, False, NOW)
KEK = Kek("env:KEK", True, True, None, False, 0, 0, 0, None)
SEAL = Seal(True, NOW - timedelta(seconds=20), False, 0, 0)
COUNTS = {"new": RowCount(70, 0, 0), "old": RowCount(30, 0, 4)}
KEKS = (
    RegisteredKek("old", "decrypt-only", "env", "env:OLD", NOW - timedelta(days=9)),
    RegisteredKek("new", "active", "env", "env:NEW", NOW, NOW),
    RegisteredKek("gone", "retired", "env", "env:GONE", NOW, None, NOW),
)
STANDING = Standing("new", "new", DATA_KEY)
RUN = Run(
    id=7,
    target="new",
    everything=False,
    started_by="vm:1:abc",
    sources=("old",),
    state=State.RUNNING,
    total=1000,
    done=240,
    moved=3,
    failed=10,
    started_at=NOW - timedelta(seconds=25),
    heartbeat_at=NOW,
    ended_at=None,
    data_key=None,
)
INSTANCE = Instance(
    id="i1",
    host="vm",
    process=12,
    writes_uri="env:NEW",
    writes_kek_id="new",
    active_kek_id="new",
    reads=("env:NEW", "new", DATA_KEY),
    seals_with=DATA_KEY,
    started_at=NOW - timedelta(hours=2),
)


def data_key(*kek_ids: str) -> RecordedDataKey:
    return RecordedDataKey(DATA_KEY, kek_ids, NOW - timedelta(days=1), None)


def snapshot(**changes: Any) -> Snapshot:
    """All is well, but for the changes."""
    tree = grow(KEKS, (data_key("new"),), {"new": RowCount(100, 0, 0)}, STANDING)
    one = Snapshot(
        verdict=Verdict(Level.WELL, "All is well."),
        tree=Known(tree),
        rewrap=Known(()),
        traffic=traffic((), NOW.timestamp()),
        kms=Kms((KEK,), AGES),
        audit=SEAL,
        instances=Known((INSTANCE,)),
        doctor=Known((Found(Level.WELL, "rows", "every row is sealed", ""),), NOW.timestamp()),
    )
    return replace(one, **changes)


class _Reader(HTMLParser):
    """The text, the tags and the attributes of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.text += " " if tag in {"td", "th", "li", "dd"} else ""

    def handle_data(self, data: str) -> None:
        self.text += data


def read(one: Snapshot, *, has_token: bool = False) -> _Reader:
    return _Reader(Page(has_token=has_token).whole(one, NOW))


def text(one: Snapshot) -> str:
    return read(one).text.replace("\N{NARROW NO-BREAK SPACE}", " ")


def test_each_part_has_its_place_and_its_template() -> None:
    seen = read(snapshot())
    ids = {attrs.get("id") for tag, attrs in seen.tags if tag == "section"}
    assert ids == {field.name for field in fields(Snapshot)} == set(page.PARTS)


def test_all_is_well() -> None:
    said = text(snapshot())
    assert "All is well." in said
    assert "100 rows with a wrap, none stale" in said
    assert "There was no run yet." in said
    assert "active since 3 days ago, to be rotated in 40 days" in said


def test_the_middle_of_a_run() -> None:
    ended = replace(RUN, id=6, state=State.FAILED, ended_at=NOW - timedelta(hours=3))
    tree = Known(grow(KEKS, (data_key("new"),), COUNTS, STANDING), NOW.timestamp())
    said = text(snapshot(tree=tree, rewrap=Known((RUN, ended))))
    assert "100 rows with a wrap 26 stale 4 set aside counted at 03:00:30" in said
    assert "25 % of run 7, to new" in said
    assert "250 of 1 000" in said
    assert "10 rows a second" in said
    assert "75 s" in said
    assert "6 failed" in said
    assert "3 hours ago" in said


def test_a_kms_that_is_down() -> None:
    kek = replace(KEK, in_process=False, problem="no way to it", is_not_asked=True, calls=9)
    down = replace(kek, failures=7, refusals=1, seconds=0.25)
    said = text(snapshot(kms=Kms((down,), replace(AGES, is_coasting=True))))
    assert "breaker open 9 7 1 250 ms" in said
    assert "no way to it" in said
    assert "coasting" in said


def test_findings_come_first_with_their_cures() -> None:
    well = Found(Level.WELL, "rows", "are sealed", "")
    note = Found(None, "backup", "was not seen", "")
    bad = Found(Level.BAD, "kek", "is down", "custody kek list")
    said = text(snapshot(doctor=Known((well, note, bad), NOW.timestamp())))
    assert said.index("is down") < said.index("custody kek list") < said.index("was not seen")
    assert said.index("was not seen") < said.index("are sealed")


@pytest.mark.parametrize("name", ["tree", "rewrap", "instances", "doctor"])
def test_what_can_not_be_read_says_so_beside_what_was_known(name: str) -> None:
    before = getattr(snapshot(), name).value
    said = text(snapshot(**{name: Known(before, NOW.timestamp(), "the database is away")}))
    assert "the database is away. Shown is what was known at 2026-11-29 03:00 UTC" in said
    never = text(snapshot(**{name: Known(None, 0.0, "the database is away")}))
    assert "the database is away" in never


def test_what_is_not_as_it_should_be_is_listed() -> None:
    todo = tuple(Todo(Level.BAD, f"part-{n}", f"cure {n}") for n in range(30))
    said = text(snapshot(verdict=Verdict(Level.BAD, "Not ready.", todo)))
    assert "part-19 (act) cure 19" in said
    assert "cure 20" not in said
    assert "and 10 more" in said


def test_nothing_of_the_database_is_markup_or_endless() -> None:
    kek = RegisteredKek(EVIL, EVIL, EVIL, EVIL * 100, NOW)
    key = RecordedDataKey(EVIL, (EVIL,), NOW, None)
    tree = grow((kek,), (key,), {EVIL: RowCount(9, 0, 0)}, STANDING)
    run = replace(RUN, target=EVIL, started_by=EVIL)
    told = Verdict(Level.BAD, EVIL, (Todo(Level.BAD, EVIL, EVIL * 100),))
    one = snapshot(
        verdict=told,
        tree=Known(tree, 1.0, EVIL),
        rewrap=Known((run, replace(run, state=State.DONE))),
        kms=Kms((replace(KEK, uri=EVIL, problem=EVIL),), AGES),
        instances=Known((replace(INSTANCE, host=EVIL, writes_uri=EVIL, reads=(EVIL,) * 99),)),
        doctor=Known((Found(Level.BAD, EVIL, EVIL * 100, EVIL),), 1.0),
        traffic=traffic(
            [Interval(NOW.timestamp(), 10, {("custody_requests_total", EVIL): 5})],
            NOW.timestamp(),
        ),
    )
    seen = read(one)
    scripts = [attrs for tag, attrs in seen.tags if tag == "script"]
    assert scripts == [{"src": "/static/console.js", "defer": None}]
    assert not [name for _, attrs in seen.tags for name in attrs if name.startswith("on")]
    assert EVIL in seen.text
    assert len(seen.text) < 20_000


def test_a_control_character_steers_nothing() -> None:
    assert shown.short("a\x1b[31m\u202eb\x00") == "a?[31m?b?"
    assert len(shown.short("x" * 10_000)) < 500


@pytest.mark.parametrize("place", ["templates", "static"])
def test_nothing_comes_from_outside_or_stands_inline(place: str) -> None:
    """What the policy would refuse is not even there."""
    pages = [
        *files("custody.console").joinpath(place).iterdir(),
        *files("custody.console").joinpath("templates", "parts").iterdir(),
    ]
    for one in pages:
        if one.is_file():
            source = one.read_text("utf-8")
            assert not re.search(r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:)?//""", source)
            assert not re.search(r"\sstyle=|<style|<script(?! src=\"/static/)|javascript:", source)
            assert not re.search(r"<[^>{]*\son[a-z]+=", source)


def test_the_page_has_landmarks_and_captions() -> None:
    seen = read(snapshot(rewrap=Known((replace(RUN, state=State.DONE),))), has_token=True)
    tags = [tag for tag, _ in seen.tags]
    assert {"header", "main", "footer", "h1"} <= set(tags)
    assert tags.count("h1") == tags.count("main") == 1
    assert tags.count("table") == tags.count("caption") >= 3
    live = [attrs["id"] for _, attrs in seen.tags if "aria-live" in attrs]
    assert live == ["verdict"]
    assert any(attrs.get("action") == "/logout" for _, attrs in seen.tags)


def test_only_what_changed_is_rendered_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[str] = []
    real = page._template

    def get(name: str) -> Template:
        rendered.append(name)
        return real(name)

    monkeypatch.setattr(page, "_template", get)
    made = Page(has_token=False)
    made.parts(snapshot(), NOW)
    assert len(rendered) == len(page.PARTS)
    rendered.clear()
    made.parts(snapshot(), NOW)
    assert rendered == []
    made.parts(snapshot(rewrap=Known((RUN,))), NOW)
    assert rendered == ["parts/rewrap.html"]
    rendered.clear()
    # Ages are counted in minutes.
    made.parts(snapshot(rewrap=Known((RUN,))), NOW + timedelta(minutes=1))
    assert len(rendered) == len(page.PARTS)


def test_the_tree() -> None:
    tree = grow(KEKS, (data_key("new", "old"),), COUNTS, STANDING)
    assert [branch.kek_id for branch in tree.branches] == ["new", "old", "gone"]
    new, old, gone = tree.branches
    assert new.is_active
    assert (tree.total, tree.stale, tree.quarantined) == (100, 26, 4)
    assert old.rows is not None
    assert (old.rows.total, old.rows.stale, old.rows.quarantined) == (30, 26, 4)
    assert gone.rows is None
    (leaf,) = new.data_keys
    assert leaf.is_current
    assert leaf.also_under == ("old",)


def test_rows_under_a_data_key_are_there_once() -> None:
    standing = Standing("new", DATA_KEY, DATA_KEY)
    counts = {DATA_KEY: RowCount(50, 0, 0, old_format=0, legacy=5), "old": RowCount(10, 0, 0)}
    tree = grow(KEKS, (data_key("old", "new"),), counts, standing)
    with_rows = [
        (branch.kek_id, leaf.rows.total, leaf.rows.stale)
        for branch in tree.branches
        for leaf in branch.data_keys
        if leaf.rows is not None
    ]
    assert with_rows == [("new", 50, 5)]
    assert (tree.total, tree.stale) == (60, 15)


def test_rows_that_no_record_names_are_shown() -> None:
    tree = grow((), (), {"nobody": RowCount(3, 0, 0)}, STANDING)
    assert [(one.kek_id, one.state) for one in tree.branches] == [("nobody", "unregistered")]


def test_a_thief_can_not_make_the_page_endless() -> None:
    keks = [RegisteredKek(f"kek-{n}", "decrypt-only") for n in range(500)]
    tree = grow((*keks, KEKS[1]), [], {}, STANDING)
    assert len(tree.branches) == MOST_SHOWN
    assert tree.branches[0].kek_id == "new"
    assert tree.left_out == 501 - MOST_SHOWN


def test_without_counts_there_are_none() -> None:
    assert grow(KEKS, (), None, STANDING).total is None


def test_the_last_hour_is_that_of_the_metrics() -> None:
    metrics, now = Metrics(), [NOW.timestamp() - 20]
    history = History(metrics.collect, clock=lambda: now[0])
    count = metrics.requests.count_request
    count("key", 200, "OK", 0.002)
    history.sample()
    for _ in range(8):
        count("key", 200, "OK", 0.002)
    count("key", 503, "KEK_UNAVAILABLE", 4.0)
    count("init", 401, "UNAUTHORIZED", 0.002)
    now[0] += 10
    history.sample()
    made = traffic(history.intervals, now[0])
    assert (made.answered, made.refused) == (10, 2)
    assert made.codes == (("KEK_UNAVAILABLE", 1), ("UNAUTHORIZED", 1))
    assert (made.requests.last, made.refusals.last) == (1.0, 0.2)
    assert made.median.last is not None
    assert 0.001 < made.median.last < 0.0025
    assert made.slowest.last is not None
    assert 2.5 < made.slowest.last <= 5
    assert made.requests.values[0] is None


def test_an_hour_is_kept_and_no_more() -> None:
    history = History(lambda: (), clock=iter(range(0, 100_000, 10)).__next__)
    for _ in range(1000):
        history.sample()
    assert len(history.intervals) == 360
    assert sum(one.seconds for one in history.intervals) == 3600


@pytest.mark.parametrize(
    ("buckets", "expected"),
    [
        ([], None),
        ([(1.0, 10), (2.0, 10), (float("inf"), 10)], 0.5),
        ([(1.0, 0), (2.0, 10), (float("inf"), 10)], 1.5),
        ([(1.0, 0), (float("inf"), 10)], 1.0),
        ([(1.0, 2), (2.0, 6), (4.0, 10), (float("inf"), 10)], 1.75),
    ],
)
def test_a_quantile(buckets: Sequence[tuple[float, float]], expected: float | None) -> None:
    assert quantile(0.5, buckets) == expected


async def test_what_fails_leaves_what_was_known() -> None:
    answers: list[int | Exception] = [1, DatabaseError("is away"), 2]

    async def ask() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    look = Look(ask, every=0, within=1)
    await look.look()
    assert (look.known.value, look.known.problem) == (1, None)
    at = look.known.at
    look._due = 0
    await look.look()
    assert look.known == Known(1, at, "is away")
    look._due = 0
    await look.look()
    assert (look.known.value, look.known.problem) == (2, None)


async def test_what_takes_long_is_waited_for_no_longer_than_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("custody.console.known._PATIENCE_SECONDS", 0.01)
    release = asyncio.Event()
    asked = 0

    async def ask() -> int:
        nonlocal asked
        asked += 1
        await release.wait()
        return 5

    now = [0.0]
    look = Look(ask, every=1, within=100, spare=100, clock=lambda: now[0])
    await look.look()
    await look.look()
    assert (asked, look.known.value) == (1, None)
    now[0] = 3.0
    release.set()

    async def is_known() -> bool:
        return look.known.value == 5

    await eventually(is_known)
    # It took three seconds: so not before a hundred times that.
    now[0] = 302.0
    await look.look()
    assert asked == 1
    now[0] = 304.0
    await look.look()
    assert asked == 2


async def test_a_look_is_given_up_at_the_end() -> None:
    async def ask() -> int:
        await asyncio.sleep(1000)
        return 1

    look = Look(ask, every=1, within=2000)
    looking = asyncio.create_task(look.look())
    await asyncio.sleep(0)
    await look.close()
    await looking
    assert look.known == Known()


READY = dict.fromkeys(("database", "kek"))


def judged(**changes: Any) -> Verdict:
    given: dict[str, Any] = {
        "parts": READY,
        "degraded": {},
        "alarms": {},
        "tree": Known(grow(KEKS, (), {}, STANDING)),
        "kms": Kms((KEK,), AGES),
        "audit": SEAL,
        "found": (),
    }
    given |= changes
    rest = {name: given.pop(name) for name in ("parts", "degraded", "alarms")}
    return judge(*rest.values(), **given)


def test_well() -> None:
    assert judged() == Verdict(Level.WELL, "All is well.")
    assert judged(found=(Found(Level.WELL, "a", "b", ""), Found(None, "a", "b", ""))) == judged()


@pytest.mark.parametrize(
    ("changes", "level", "sentence", "what"),
    [
        (
            {"parts": {"database": "is down: start it", "kek": "is away"}},
            Level.BAD,
            "Not ready: users are kept waiting by the database and the KEK.",
            "is down: start it",
        ),
        ({"parts": {"listener": "stopping"}}, Level.BAD, "This daemon is stopping.", "stopping"),
        (
            {"degraded": {"data-key": "coasts"}},
            Level.WATCH,
            "Users are served; one thing needs you.",
            "coasts",
        ),
        (
            {"alarms": {"custody_tampered_rows_total": 2}},
            Level.BAD,
            "Users are served, and an alarm rings.",
            "In the last hour 2 requests met rows that are not what was sealed",
        ),
        ({"audit": replace(SEAL, alarms=1)}, Level.BAD, "alarm", "custody audit verify"),
        ({"audit": replace(SEAL, is_late=True)}, Level.WATCH, "one thing", "not been sealed"),
        (
            {"tree": Known(grow(KEKS, (), COUNTS, STANDING))},
            Level.WATCH,
            "one thing",
            "4 rows are set aside",
        ),
        (
            {"kms": Kms((KEK,), replace(AGES, is_overdue=True))},
            Level.WATCH,
            "one thing",
            "CUSTODY_KEK_MAX_AGE",
        ),
        (
            {"found": [Found(Level.BAD, "kek", "is away", "")] * 2},
            Level.WATCH,
            "2 things need you",
            "is away",
        ),
    ],
)
def test_not_well(changes: dict[str, Any], level: Level, sentence: str, what: str) -> None:
    verdict = judged(**changes)
    assert verdict.level is level
    assert sentence in verdict.sentence
    assert what in verdict.todo[0].what


def test_the_worst_comes_first() -> None:
    verdict = judged(degraded={"x": "a bit"}, alarms={"custody_canary_requests_total": 1})
    assert [one.level for one in verdict.todo] == [Level.BAD, Level.WATCH]


def test_the_cure_of_a_finding_is_on_top() -> None:
    verdict = judged(found=[Found(Level.WATCH, "kek", "is old", "custody kek list")])
    assert "custody kek list" in text(snapshot(verdict=verdict))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (shown.number(1234567), "1\N{NARROW NO-BREAK SPACE}234\N{NARROW NO-BREAK SPACE}567"),
        (shown.rate(None), "\N{EN DASH}"),
        (shown.rate(0.25), "0.2"),
        (shown.duration(0.0004), "0.4\N{NARROW NO-BREAK SPACE}ms"),
        (shown.span(30), "less than a minute"),
        (shown.span(3700), "1 hour 1 minute"),
        (shown.span(90_000), "1 day 1 hour"),
        (shown.span(10 * 86_400), "10 days"),
        (shown.left(0.2), "1 s"),
        (shown.left(None), "not known yet"),
        (shown.percent(1, 1000), "<1"),
        (shown.percent(9999, 10_000), ">99"),
        (shown.percent(1, 1), "100"),
        (shown.percent(0, 0), "0"),
        (shown.width(1, 10_000_000), "0.60"),
        (shown.width(0, 5), "0"),
        (shown.line([None, 1.0, None, 1.0], 1.0), "M100.0 1.0 M300.0 1.0"),
        (shown.area([None, 1.0], 1.0), ""),
    ],
)
def test_how_values_are_shown(value: str, expected: str) -> None:
    assert value == expected
