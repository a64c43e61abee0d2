"""The site of the documents, as ``make docs`` builds it: every page, and a browser on it."""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt
from playwright.async_api import Request, async_playwright

from tests.servers import ROOT

pytestmark = pytest.mark.prove
_LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
# Of links that load nothing by themselves.
_NAMES = {"canonical", "next", "prev"}


class _Page(HTMLParser):
    """What a page loads, where it leads, and where it can be led to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: set[str] = set()
        self.leads: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.leads.add(given["href"])
        elif tag in _LOADS and _LOADS[tag] in given and given.get("rel") not in _NAMES:
            self.loads.add(given[_LOADS[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, in a folder of its own."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict"]
    options = ["--config-file", str(ROOT / "docs/site/mkdocs.yml"), "--site-dir", str(folder)]
    environ = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, env=environ, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


def test_no_page_loads_anything_from_elsewhere_or_leads_nowhere(site: Path) -> None:
    pages = {path: _Page(path.read_text("utf-8")) for path in sorted(site.rglob("*.html"))}
    assert len(pages) > 80
    wrong = []
    for path, page in pages.items():
        for link in sorted(page.loads | page.leads):
            if re.match(r"(https?:)?//|mailto:", link):
                if link in page.loads:
                    wrong.append(f"{path.relative_to(site)} loads {link}")
                continue
            # 404.html is for a server, which has it at its own root.
            if path.name == "404.html" or link.startswith("data:"):
                continue
            place, _, anchor = unquote(link).partition("#")
            target = (path.parent / place).resolve() if place else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                wrong.append(f"{path.relative_to(site)} leads to {link}")
            elif anchor and target in pages and anchor not in pages[target].anchors:
                wrong.append(f"{path.relative_to(site)} leads to {link}: no such anchor")
    for style in site.rglob("*.css"):
        loaded = re.findall(
            r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^\"')]+", style.read_text("utf-8")
        )
        wrong += [f"{style.name} loads {one}" for one in loaded]
    assert wrong == []


def test_a_page_has_the_blocks_that_a_repository_shows(site: Path) -> None:
    """Lists, items, tables and code: as many of each as CommonMark sees."""
    shown = MarkdownIt("commonmark").enable("table")
    tags = ("<pre", "<table", "<ol", "<ul>", "<li>", "<blockquote")
    for page in sorted((ROOT / "docs").rglob("*.md")):
        place = page.relative_to(ROOT / "docs")
        if place.name == "README.md":
            place = place.with_name("index.md")
        built = (site / place).with_suffix(".html").read_text("utf-8")
        built = built.partition("<article")[2].partition("</article>")[0]
        wanted = shown.render(page.read_text("utf-8"))
        found = {tag: built.count(tag) for tag in tags}
        assert found == {tag: wanted.count(tag) for tag in tags}, place


async def test_a_browser_asks_nobody_else_and_finds_without_a_server(site: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        lacking = pytest.fail if os.environ.get("CI") else pytest.skip
        lacking("chromium is not installed: apt-get install --no-install-recommends chromium")
    asked: list[str] = []
    errors: list[str] = []

    def note(request: Request) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            asked.append(request.url)

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = await browser.new_page()
        page.on("request", note)
        page.on("pageerror", lambda error: errors.append(str(error)))
        for width in (390, 1280):
            await page.set_viewport_size({"width": width, "height": 800})
            for name in ("which-mode.html", "how-to/direct-or-envelope.html", "reference/cli.html"):
                await page.goto((site / name).as_uri())
                assert await page.evaluate("document.documentElement.scrollWidth") <= width, name
        await page.goto((site / "index.html").as_uri())
        await page.locator("input.md-search__input").fill("CustodyKekDue")
        found = page.locator(".md-search-result__link").first
        await found.wait_for(timeout=10_000)
        assert "CustodyKekDue" in await found.inner_text()
        await browser.close()
    assert (asked, errors) == ([], [])
