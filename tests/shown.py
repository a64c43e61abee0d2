"""The programs that the pages for integrators show: the tests run these, and no copies."""

import re
from typing import Any

from tests.servers import ROOT

_PAGES = ("docs/how-to/browser-client.md", "docs/how-to/encrypt-records.md")
_MODULE = re.compile(r"(?ms)^```js\n// ([a-z]+\.js)\n(.*?)^```$")


def modules() -> dict[str, str]:
    """Return the ES modules, by the name in their first line."""
    texts = [(ROOT / page).read_text("utf-8") for page in _PAGES]
    return {name: text for page in texts for name, text in _MODULE.findall(page)}


def records() -> dict[str, Any]:
    """Return the functions of the Python program of the page on records."""
    page = (ROOT / "docs/how-to/encrypt-records.md").read_text("utf-8")
    names: dict[str, Any] = {}
    exec(page.partition("```python\n")[2].partition("```")[0], names)  # noqa: S102 - our own page
    return names
