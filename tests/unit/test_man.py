"""The manual pages are what --help says, and the examples are what can be typed."""

import shlex

import click
import pytest

from custody.cli import cli
from custody.cli.man import pages
from tests.servers import ROOT
from tests.unit.commands import commands

FOLDER = ROOT / "docs/man"
PAGES = pages()


def found(words: list[str]) -> tuple[click.Command, list[str]]:
    """Return the command that words begin with, and what comes behind."""
    command: click.Command = cli
    while isinstance(command, click.Group) and words and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    return command, words


def test_there_is_a_page_for_each_command_and_no_other() -> None:
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(PAGES), "run: make man"
    assert {f"custody-{one.replace(' ', '-')}.1" for one in commands()} <= PAGES.keys()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_the_help_says(name: str) -> None:
    assert (FOLDER / name).read_text("utf-8") == PAGES[name], "run: make man"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_its_sections(name: str) -> None:
    sections = [line[4:] for line in PAGES[name].splitlines() if line.startswith(".SH ")]
    wanted = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "ENVIRONMENT", "EXIT STATUS"]
    assert [one for one in sections if one in wanted] == wanted
    assert sections[-1] == "SEE ALSO"
    for line in PAGES[name].splitlines():
        if line.startswith(".BR "):
            assert f"{line.split()[1]}.1".replace("\\", "") in PAGES


def test_what_roff_would_take_for_its_own_is_escaped() -> None:
    page = PAGES["custody-completion.1"]
    assert "custody completion bash > \\(ti/.local/share/bash\\-completion/" in page
    assert "\\fB\\-h, \\-\\-help\\fR" in page
    assert not [line for text in PAGES.values() for line in text.splitlines() if line[:1] == "'"]


@pytest.mark.parametrize("name", [*commands()])
def test_each_command_has_an_example_that_can_be_typed(name: str) -> None:
    command, _ = found(name.split())
    title, *examples = (command.epilog or "").splitlines()[1:]
    assert title == ("Example:" if len(examples) == 1 else "Examples:")
    options = {one for parameter in command.params for one in parameter.opts}
    for example in examples:
        first, *words = shlex.split(example.partition(" > ")[0])
        own, arguments = found(words)
        assert (first, own) == ("custody", command)
        assert {one for one in arguments if one.startswith("--")} <= options


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["doctr"], "Did you mean 'doctor'?"),
        (["rewrap", "rum"], "Did you mean 'run'?"),
        (["rewrap", "run", "--drry-run"], "Did you mean '--dry-run'?"),
        (["kek", "drill", "--textfil", "x"], "Did you mean '--textfile'?"),
    ],
)
def test_a_misspelt_word_is_told_the_nearest(typed: list[str], said: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        cli.main(typed, standalone_mode=False)
    assert said in caught.value.format_message()
