"""The commands of a how-to, so that tests run them as they stand."""

import re
from pathlib import Path

_FOLDER = Path(__file__).resolve().parents[2] / "docs" / "how-to"
_SECTION = re.compile(r"(?m)^## (.+)$")


def blocks(text: str, language: str = "sh") -> list[str]:
    """Return the blocks in a language of a page or a section: commands, as a rule."""
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", text)


def sections(page: str, language: str = "sh") -> dict[str, list[str]]:
    """Return the blocks in a language of a page, by section.

    Args:
        page: its name, without ``.md``.
        language: of the blocks: ``ini`` is that of drop-ins.
    """
    _, *parts = _SECTION.split((_FOLDER / f"{page}.md").read_text("utf-8"))
    found = zip(parts[::2], parts[1::2], strict=True)
    return {title: blocks(text, language) for title, text in found}
