"""The documents name what the code has: settings, codes, audit vocabulary, commands, files."""

import ast
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import click
import pytest

from custody.audit.events import Action
from custody.cli import cli
from custody.http.openapi import document
from custody.rewrap.runs import State
from custody.settings import PREFIX, Settings
from custody.vault import errors
from custody.vault.errors import VaultError
from tests.unit.commands import commands

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
_TOP = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
PAGES = sorted([*DOCS.rglob("*.md"), *map(ROOT.joinpath, _TOP)])
TEXTS = [*PAGES, ROOT / ".env.example"]

# Names that say no thing of ours: the prefix itself, and "each setting" in general.
# Those of an entry of the journal are no settings either.
_PLACEHOLDERS = {
    "CUSTODY_NAME_FILE",
    *(f"CUSTODY_AUDIT_{name}" for name in ("NUMBER", "ID", "USER", "ACTION", "CHECKPOINT")),
}
_CODE_ROW = r"(?m)^\| \d{3} \| `([A-Z_]+)` \|"
_AUDIT_ROW = r"(?m)^\| (.+?) \| (.+?) \| (\d{3}) \|"
_EVENT_ROW = r"(?m)^\| (`[a-z_`, ]+`) \| ([a-z, ]+) \|"
_LEVELS = {"debug", "info", "warning", "error"}
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def _read(path: Path | str) -> str:
    return (ROOT / path).read_text("utf-8")


def _variables() -> set[str]:
    return {f"{PREFIX}{name}".upper() for name in Settings.model_fields} | {f"{PREFIX}CONFIG"}


def _problem_codes() -> set[str]:
    """Every code that a client can be sent: what OpenAPI says, and what no route can say."""
    found = {error.code for error in _vault_errors()}
    for operations in document()["paths"].values():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if status != "200":
                    found |= set(response["description"].split(", "))
    return found | set(_strings("custody/http", r"[A-Z]+(?:_[A-Z]+)*", inside="Problem"))


def _events() -> dict[str, set[str]]:
    """Every event that is logged, with its levels."""
    found: dict[str, set[str]] = {}
    for node in (*_nodes("custody"), *_nodes("kek_backends")):
        match node:
            case ast.Call(func=called, args=[ast.Constant(value=str(event)), *_]):
                levels = set(re.findall(r"(?<![.\w])log\.(\w+)", ast.unparse(called)))
                if levels:
                    found.setdefault(event, set()).update(levels & _LEVELS)
    return found


def _vault_errors() -> list[type[VaultError]]:
    return [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, VaultError) and hasattr(value, "code")
    ]


def _contexts() -> set[str]:
    """Every phrase that the code can write into the column context."""
    phrases = r"[a-z]+(?:-[a-z]+)+|created|internal"
    ends = {f"run-{state}" for state in State if state is not State.RUNNING}
    return (
        {error.context for error in _vault_errors()}
        | set(_strings("custody/vault/service.py", phrases))
        | set(_strings("custody/vault/use_cases.py", phrases))
        | set(_strings("custody/vault/rotations.py", phrases))
        | set(_strings("custody/vault/failures.py", phrases))
        | set(_strings("custody/rewrap", phrases, inside="Event"))
        | set(_strings("custody/db/erase.py", "replayed"))
        | ends
    )


def _strings(place: str, pattern: str, inside: str | None = None) -> Iterator[str]:
    """Yield the string literals below a place, docstrings aside, that match a pattern.

    Args:
        place: a file or folder, from the root.
        pattern: of the whole literal.
        inside: only literals that are arguments of a call of this name.
    """
    nodes = _nodes(place)
    if inside is not None:
        calls = (node for node in nodes if isinstance(node, ast.Call))
        nodes = (
            part for call in calls if ast.unparse(call.func) == inside for part in ast.walk(call)
        )
    for node in nodes:
        match node:
            case ast.Constant(value=str(text)) if re.fullmatch(pattern, text):
                yield text


def _nodes(place: str) -> Iterator[ast.AST]:
    path = ROOT / place
    for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
        yield from ast.walk(ast.parse(file.read_text("utf-8")))


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as they are made on the page's usual places."""
    headings = re.findall(r"(?m)^#{1,6} +(.+?) *$", _FENCE.sub("", page.read_text("utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("variable", sorted(_variables()))
def test_every_setting_is_in_the_reference_and_the_example(variable: str) -> None:
    assert f"| `{variable}` |" in _read("docs/reference/settings.md")
    assert re.search(rf"(?m)^#?{variable}=", _read(".env.example"))


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_reference_has_the_default_in_force(name: str) -> None:
    default = Settings().model_dump(mode="json")[name]
    shown = re.search(
        rf"(?m)^\| `{PREFIX}{name.upper()}` \| (.+?) \|", _read("docs/reference/settings.md")
    )
    assert shown is not None
    assert shown[1] == ("none" if default in (None, []) else f"`{default}`")


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.name)
def test_no_page_names_an_unknown_setting(text: Path) -> None:
    known = _variables()
    known |= {f"{name}_FILE" for name in known} | _PLACEHOLDERS
    named = set(re.findall(rf"\b{PREFIX}[A-Z_]*[A-Z]\b", text.read_text("utf-8")))
    assert named <= known


def test_the_reference_has_the_problem_codes_of_the_code() -> None:
    assert set(re.findall(_CODE_ROW, _read("docs/reference/routes.md"))) == _problem_codes()


@pytest.mark.parametrize("action", list(Action))
def test_every_audit_action_is_described(action: Action) -> None:
    assert f"\n| `{action}` |" in _read("docs/security.md")


@pytest.mark.parametrize("context", sorted(_contexts()))
def test_every_audit_context_is_described(context: str) -> None:
    assert f"`{context}`" in _read("docs/security.md")


@pytest.mark.prove
def test_the_audit_table_names_what_the_code_has() -> None:
    for action, context, _status in re.findall(_AUDIT_ROW, _read("docs/security.md")):
        assert set(re.findall(r"`([a-z_]+)`", action)) <= set(Action)
        assert set(re.findall(r"`([a-z-]+)`", context)) <= _contexts()


@pytest.mark.parametrize("error", _vault_errors(), ids=lambda error: error.__name__)
def test_the_audit_table_has_the_status_that_is_sent(error: type[VaultError]) -> None:
    rows = re.findall(_AUDIT_ROW, _read("docs/security.md"))
    statuses = {int(status) for _, contexts, status in rows if f"`{error.context}`" in contexts}
    # no-recovery-wrap is also the phrase of a removal that had nothing to do.
    assert statuses <= {error.status, 200}


@pytest.mark.parametrize("command", [f"custody {one}" for one in commands()])
def test_every_command_is_in_the_reference(command: str) -> None:
    page = _read("docs/reference/cli.md")
    assert f"\n## {command}\n" in page
    assert f"\n$ {command} --help\n" in page


@pytest.mark.parametrize("command", [f"custody {one}" for one in commands()])
def test_the_reference_shows_the_help_in_force(command: str) -> None:
    words = command.split()[1:]
    found: click.Command = cli
    for word in words:
        assert isinstance(found, click.Group)
        found = found.commands[word]
    shown = re.search(rf"(?ms)^\$ {command} --help\n(.*?)^```", _read("docs/reference/cli.md"))
    assert shown is not None
    options = {option for parameter in found.params for option in parameter.opts if "-" in option}
    assert all(option in shown[1] for option in options)
    assert " ".join((found.help or "").split()) in " ".join(shown[1].split())
    assert all(line in shown[1] for line in (found.epilog or "\b").splitlines()[1:])


@pytest.mark.parametrize("migration", sorted((ROOT / "sql/migrations").glob("*.sql")))
def test_every_migration_is_in_the_reference(migration: Path) -> None:
    assert f"\n| `{migration.stem}` |" in _read("docs/reference/schema.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(_FENCE.sub("", page.read_text("utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link


def test_what_the_security_page_claims_has_its_tests() -> None:
    page = _read("docs/security.md")
    named = _tests_named_in(page)
    assert len(named) > len(page.split("## Threats")[1].split("## Limits")[0].splitlines()) / 2
    for name in (*named, *_tests_named_in(_read("docs/asvs.md"))):
        assert (ROOT / "tests" / f"{name}.py").is_file(), name


def _tests_named_in(page: str) -> list[str]:
    return re.findall(r"`((?:db|e2e|http|kek|rewrap|unit)/test_\w+)`", page)


@pytest.mark.prove
def test_the_reference_has_every_log_event_with_its_levels() -> None:
    described: dict[str, set[str]] = {}
    for names, levels in re.findall(_EVENT_ROW, _read("docs/reference/logs.md")):
        for name in re.findall(r"`([a-z_]+)`", names):
            described[name] = set(levels.split(", "))
    # A request's line is put together by hand, since there is one for each.
    assert described.pop("request") == {"info", "debug"}
    events = _events()
    assert described.keys() == events.keys()
    for name, levels in events.items():
        assert levels <= described[name], name


_ADR = r"\[\d+\]\((\d{4}-[\w-]+\.md)\)"
_ADR_STATUS = re.compile(
    r"(?m)^Date: (\d{4}-\d\d-\d\d)\. Status: "
    rf"(?:superseded by {_ADR}|accepted(?:; .+ superseded by {_ADR})?)$"
)


def test_decisions_are_short_dated_and_listed() -> None:
    listed = _read("docs/adr/README.md")
    decisions = sorted((DOCS / "adr").glob("[0-9]*.md"))
    for number, decision in enumerate(decisions, 1):
        assert decision.name in listed
        assert decision.name.startswith(f"{number:04}-")
        text = decision.read_text("utf-8")
        assert len(text.splitlines()) <= 40, decision.name
        said = _ADR_STATUS.search(text)
        assert said is not None, f"{decision.name}: no date and status, as in docs/adr/template.md"
        date.fromisoformat(said[1])
        for by in filter(None, said.groups()[1:]):
            assert (DOCS / "adr" / by).is_file()
            assert by > decision.name, f"{decision.name} is superseded by an older one"
