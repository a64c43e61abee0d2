"""From a snapshot to HTML, part by part: what has not changed is not rendered again."""

from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template

from custody import DISTRIBUTION
from custody.console import shown
from custody.console.snapshot import Snapshot

_FOLDER = files("custody.console")
PARTS = tuple(field.name for field in fields(Snapshot))
STATIC = {
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


class Page:
    """Renders.

    Args:
        has_token: whether there is a session that may be ended.
    """

    def __init__(self, *, has_token: bool) -> None:
        self._has_token = has_token
        self._rendered: dict[str, tuple[object, int, str]] = {}

    def parts(self, snapshot: Snapshot, now: datetime) -> Mapping[str, str]:
        """Return each part of the page as HTML.

        Args:
            snapshot: what is shown.
            now: what ages are counted to, in minutes.
        """
        minute = int(now.timestamp() // 60)
        for name in PARTS:
            value = getattr(snapshot, name)
            before = self._rendered.get(name)
            if before is None or before[:2] != (value, minute):
                html = _template(f"parts/{name}.html").render(part=value, now=now)
                self._rendered[name] = value, minute, html
        return {name: self._rendered[name][2] for name in PARTS}

    def whole(self, snapshot: Snapshot, now: datetime) -> str:
        """Return the whole page."""
        return _template("console.html").render(
            parts=self.parts(snapshot, now),
            level=snapshot.verdict.level,
            now=now,
            version=version(DISTRIBUTION),
            has_token=self._has_token,
        )


def login(message: str | None = None) -> str:
    """Return the page that asks for the token.

    Args:
        message: why the last one was not taken.
    """
    return _template("login.html").render(message=message)


def refusal(message: str) -> str:
    """Return a page that says no.

    Args:
        message: why.
    """
    return _template("refusal.html").render(message=message)


def static(name: str) -> bytes:
    """Return one of the files of STATIC."""
    return _FOLDER.joinpath("static", name).read_bytes()


def utc_now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(
            lambda name: _FOLDER.joinpath("templates", *name.split("/")).read_text("utf-8")
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= shown.FILTERS
    return environment


@cache
def _template(name: str) -> Template:
    return _environment().get_template(name)
