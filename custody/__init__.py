"""The key custody daemon."""

from typing import Final

#: What pip and importlib.metadata know these packages as. On a public index `custody` is not ours.
DISTRIBUTION: Final = "custody-daemon"
