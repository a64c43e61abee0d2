"""The project's SQL, by name: every statement is a file, none is built from strings."""

from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


@cache
def folder() -> Path:
    """Return the folder that holds ``migrations`` and ``queries``.

    A wheel carries it inside the package; a checkout has it beside the package.
    """
    inside = _PACKAGE / "sql"
    return inside if inside.is_dir() else _PACKAGE.parent / "sql"


@cache
def query(name: str) -> str:
    """Return the statement in ``sql/queries/NAME.sql``; its parameters are ``$1``, ``$2``…"""
    return (folder() / "queries" / f"{name}.sql").read_text("utf-8")
