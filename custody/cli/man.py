"""Manual pages, made of what ``--help`` says: ``python -m custody.cli.man FOLDER``.

One for each command, and custody(1) with what holds for all. See man(7) for the language.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from custody.cli import cli

_SECTION = "1"
_EXIT = {
    "0": "Done.",
    "1": "A finding or a failure.",
    "2": "Usage.",
    "69": "A dependency is down.",
    "74": "Standard output, or a file, could not be written: what is there is not whole.",
    "75": "Not finished: run it again.",
    "78": "Configuration: a setting, a KEK, a role, the schema, a fingerprint.",
    "130": "Ctrl-C, where a command has no other way to end.",
    "141": "Nobody reads standard output any more.",
}
_ENVIRONMENT = {
    "CUSTODY_NAME": "A setting. custody config shows all of them, and what is in force.",
    "CUSTODY_NAME_FILE": "A file that holds the setting of that name.",
    "CUSTODY_CONFIG": "A file in TOML that has settings, in lower case and without CUSTODY_. "
    "A variable wins over it.",
    "CREDENTIALS_DIRECTORY": "Where systemd puts credentials; custody_NAME is the setting.",
    "NO_COLOR": "No colours, where it is not empty.",
}
_FILES = {
    "/etc/custody/custody.toml": "Where the units of systemd have CUSTODY_CONFIG lead.",
    "/etc/custody/keks": "Their KEKs, as credentials.",
    "/var/lib/custody-drill/custody_drill.prom": "The result of the last drill, as metrics.",
}
# They have a section of their own.
_EXIT_CODES = re.compile(r"Exit codes: (.+?)\.(?:\s|$)", re.DOTALL)
_DOCUMENTS = "docs/reference/cli.md, docs/reference/settings.md, docs/self-hosting.md"


def pages() -> dict[str, str]:
    """Return all pages by their file's name."""
    found = list(_commands(cli, click.Context(cli, info_name="custody", **cli.context_settings)))
    paths = [context.command_path for _, context in found]
    return {
        f"{_name(context)}.{_SECTION}": _page(command, context, paths) for command, context in found
    }


def _commands(
    command: click.Command, context: click.Context
) -> Iterator[tuple[click.Command, click.Context]]:
    yield command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            one = command.get_command(context, name)
            if one is not None and not one.hidden:
                yield from _commands(one, click.Context(one, info_name=name, parent=context))


def _name(context: click.Context) -> str:
    return context.command_path.replace(" ", "-")


def _page(command: click.Command, context: click.Context, paths: list[str]) -> str:
    name = _name(context)
    first, _, rest = (command.help or "").partition("\n\n")
    # Of what the page is, in one line, without a stop: whatis(1) shows it.
    summary = " ".join(first.split()).rstrip(".")
    lines = [
        '.\\" Made by make man, of what --help says.',
        f'.TH "{name.upper()}" {_SECTION} "" custody "Custody of master keys"',
        # No word is broken: most of those that are long are to be typed.
        *(".nh", ".ad l"),
        *(".SH NAME", f"{_text(name)} \\- {_text(summary)}"),
        *(".SH SYNOPSIS", *_synopsis(command, context)),
        *(".SH DESCRIPTION", *_paragraphs(rest or first)),
        *_options(command, context),
        *_subcommands(command, context),
    ]
    if context.parent is None:
        lines += [*_terms("ENVIRONMENT", _ENVIRONMENT), *_terms("FILES", _FILES)]
        lines += _terms("EXIT STATUS", _EXIT)
    else:
        lines += [".SH ENVIRONMENT", "Settings are variables: see custody(1)."]
        lines += [".SH EXIT STATUS", *_exit_status(command)]
    return "\n".join([*lines, *_examples(command), *_see_also(context, paths)]) + "\n"


def _synopsis(command: click.Command, context: click.Context) -> Iterator[str]:
    yield f".B {_text(context.command_path)}"
    yield from (_text(piece) for piece in command.collect_usage_pieces(context))


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text):
        if said := " ".join(_EXIT_CODES.sub("", paragraph).split()):
            yield from (".PP", _text(said))


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    records = [
        record
        for parameter in command.get_params(context)
        if (record := parameter.get_help_record(context)) is not None
    ]
    yield from _terms("OPTIONS", dict(records))


def _subcommands(command: click.Command, context: click.Context) -> Iterator[str]:
    if isinstance(command, click.Group):
        shown = {
            name: one.get_short_help_str(limit=200)
            for name in command.list_commands(context)
            if (one := command.get_command(context, name)) is not None and not one.hidden
        }
        yield from _terms("COMMANDS", shown)


def _terms(title: str, meanings: dict[str, str]) -> Iterator[str]:
    yield f".SH {title}"
    for term, meaning in meanings.items():
        yield from (".TP", f"\\fB{_text(term)}\\fR", _text(" ".join(meaning.split())))


def _exit_status(command: click.Command) -> Iterator[str]:
    said = _EXIT_CODES.search(" ".join((command.help or "").split()))
    if said is None:
        yield "See custody(1)."
        return
    for one in re.split(r", (?=\d)", said[1]):
        code, _, meaning = one.partition(" ")
        yield from (".TP", f"\\fB{code}\\fR", _text(meaning[0].upper() + meaning[1:] + "."))
    yield from (".PP", "Others are in custody(1).")


def _examples(command: click.Command) -> Iterator[str]:
    examples = [line.strip() for line in (command.epilog or "").splitlines()[2:]]
    if examples:
        yield from (".SH EXAMPLES", ".EX", *map(_text, examples), ".EE")


def _see_also(context: click.Context, paths: list[str]) -> Iterator[str]:
    """Name the page above, those beside and those below."""
    own = context.command_path
    above = own.rpartition(" ")[0] or own
    near = [one for one in paths if one != own and one.rpartition(" ")[0] in {own, above}]
    if own != above:
        near.insert(0, above)
    yield ".SH SEE ALSO"
    yield from (f".BR {_text(one.replace(' ', '-'))} ({_SECTION})," for one in near)
    yield _text(_DOCUMENTS)


def _text(text: str) -> str:
    """Escape what roff takes for more than text."""
    escaped = (
        text.replace("\\", "\\e").replace("-", "\\-").replace("~", "\\(ti").replace("^", "\\(ha")
    )
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def write(folder: Path) -> None:
    """Write all pages into a folder, and remove those of commands that are gone."""
    folder.mkdir(parents=True, exist_ok=True)
    made = pages()
    for path in folder.glob(f"*.{_SECTION}"):
        if path.name not in made:
            path.unlink()
    for name, text in made.items():
        (folder / name).write_text(text, "utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
