"""The commands of a how-to, so that tests run them as they stand."""

import re
from pathlib import Path

_FOLDER = Path(__file__).resolve().parents[2] / "docs" / "how-to"
_SECTION = re.compile(r"(?m)^## (.+)$")
_DROP_IN = re.compile(r"(?ms)^```ini\n(\[.*?)^```")
_COMMANDS = re.compile(r"(?ms)^```sh\n(.*?)^```")


def commands(page: Path) -> list[str]:
    """Return the blocks of commands of any page."""
    return _COMMANDS.findall(page.read_text("utf-8"))


def sections(page: str) -> dict[str, list[str]]:
    """Return the blocks of commands of a page, by section.

    Args:
        page: its name, without ``.md``.
    """
    _, *parts = _SECTION.split((_FOLDER / f"{page}.md").read_text("utf-8"))
    return {
        title: _COMMANDS.findall(text) for title, text in zip(parts[::2], parts[1::2], strict=True)
    }


def drop_ins(page: str, title: str) -> list[str]:
    """Return the drop-ins that a section of a page shows."""
    _, *parts = _SECTION.split((_FOLDER / f"{page}.md").read_text("utf-8"))
    return _DROP_IN.findall(dict(zip(parts[::2], parts[1::2], strict=True))[title])
