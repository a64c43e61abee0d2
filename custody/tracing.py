"""Where spans are begun. Nothing happens there until a tracer is installed: see ops/tracing.py.

What is told of a span is chosen here by name, as for a log line: no user, no token, no key, no
parameter of a statement, no text of an error.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Tracer(Protocol):
    """Makes spans."""

    def span(
        self, name: str, attributes: Mapping[str, str | int], links: Sequence[object]
    ) -> AbstractContextManager[None]:
        """Return a span that lasts for a block; an error that leaves the block is named by type."""

    def here(self) -> object:
        """Return the place in its trace of the span that is open here, to be linked to."""

    def ids(self) -> Mapping[str, str]:
        """Return ``trace_id`` and ``span_id`` of the span that is open here, if any."""


_NO_SPAN: AbstractContextManager[None] = nullcontext()
_NO_IDS: Mapping[str, str] = {}
_tracer: Tracer | None = None


def install(tracer: Tracer | None) -> None:
    """Have spans made from now on in this process; None: no more."""
    global _tracer  # noqa: PLW0603 - one for the process, as its log is
    _tracer = tracer


def span(
    name: str, links: Sequence[object] = (), **attributes: str | int
) -> AbstractContextManager[None]:
    """Return a span that lasts for a block.

    Args:
        name: of a fixed set.
        links: places in other traces that it works for.
        attributes: of it; a double underscore stands for a dot.
    """
    return _NO_SPAN if _tracer is None else _tracer.span(name, attributes, links)


def here() -> object:
    """Return where we are in a trace, to be linked to; None where nothing is traced."""
    return None if _tracer is None else _tracer.here()


def ids() -> Mapping[str, str]:
    """Return what a log line says of the trace: nothing where nothing is traced."""
    return _NO_IDS if _tracer is None else _tracer.ids()
