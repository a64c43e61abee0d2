"""What mkdocs is told beside its configuration: pages of the top level, and lists as they are.

The pages are written for a plain view of the repository, which follows CommonMark: there a list
needs no empty line before it, and what belongs to an item is indented by the width of its marker.
The site's Markdown wants an empty line, and four columns.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
# What pages name of the top level, with where each is on the site.
ABOVE = {
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
    "LICENSE": "LICENSE.txt",
    ".env.example": "env.example.txt",
}
ASSETS = ("custody.css", "iframe-worker.js")

# A block of code, which is left alone, or a link.
_LINK = re.compile(r"(?ms)^ *(`{3,}).*?^ *\1|(\[[^\]]*\]\()([^)\s]+)\)")
_FENCE = re.compile(r"\s*(`{3,})")
_ITEM = re.compile(r"(\s*(?:[-*+]|\d+[.)])\s+)\S")
# A number that no list begins with.
_NUMBER = re.compile(r"\s*(?!1[.)])\d")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of a folder in for its name."""
    config.nav = [_expand(entry) for entry in config.nav or ()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is not below docs/."""
    added = {place: ROOT / name for name, place in ABOVE.items()}
    added |= {f"assets/{name}": DOCS / "site" / name for name in ASSETS}
    for place, source in added.items():
        files.append(File.generated(config, place, abs_src_path=str(source)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turn a page as the repository has it into one of the site."""
    place = page.file.src_uri
    source = place if place in ABOVE else f"docs/{place}"

    def lead(found: re.Match[str]) -> str:
        return f"{found[2]}{_target(found[3], source, place)})" if found[2] else found[0]

    return _LINK.sub(lead, "\n".join(_lines(markdown)))


def _expand(entry: Any) -> Any:
    match entry:
        case dict():
            return {title: _expand(inside) for title, inside in entry.items()}
        case list():
            return [_expand(inside) for inside in entry]
        case str() if entry.endswith("/"):
            pages = sorted(
                (DOCS / entry).glob("*.md"), key=lambda page: (page.name != "README.md", page)
            )
            return [f"{entry}{page.name}" for page in pages if page.name != "template.md"]
    return entry


def _lines(markdown: str) -> Iterator[str]:
    """Yield the lines of a page with lists and tables by the rules of the site."""
    columns: list[int] = []  # where the text of each open item begins
    fence = ""
    in_text = False  # in a paragraph, which a list may interrupt
    for line in markdown.splitlines():
        if not line.strip():
            in_text = False
            yield ""
            continue
        item = None if fence else _ITEM.match(line)
        indent = len(line) - len(line.lstrip())
        if item and in_text and indent >= (columns[-1] if columns else 0) and _NUMBER.match(line):
            item = None  # the end of a sentence: a paragraph is interrupted by a first item alone
        if not fence and not (in_text and item is None):
            while columns and indent < columns[-1]:
                columns.pop()
        depth = "    " * len(columns)
        body = line[min(indent, columns[-1] if columns else 0) :]
        if mark := _FENCE.match(line):
            if not fence:
                fence = mark[1]
            elif mark[1].startswith(fence):
                fence = ""
            in_text = False
        elif item:
            if in_text and not columns:
                yield ""
            columns.append(len(item[0]) - 1)
            body = f"{item[1].strip()} {line[len(item[0]) - 1 :]}"
            in_text = True
        elif not fence:
            in_text = not body.startswith(("|", "#", "<"))
            body = body.lstrip() if in_text else re.sub(r"`[^`]*`", _unescaped, body)
        yield f"{depth}{body}"


def _unescaped(code: re.Match[str]) -> str:
    """In a table of CommonMark a stroke in code is escaped, and here it is not."""
    return code[0].replace(r"\|", "|")


def _target(link: str, source: str, place: str) -> str:
    """Return where a link of a page leads on the site."""
    if re.match(r"[a-z]+:|#", link):
        return link
    path, stroke, anchor = link.partition("#")
    there = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if (ROOT / there).is_dir():
        there = f"{there}/README.md"
    there = ABOVE.get(there) or posixpath.relpath(there, "docs")
    return f"{posixpath.relpath(there, posixpath.dirname(place) or '.')}{stroke}{anchor}"
