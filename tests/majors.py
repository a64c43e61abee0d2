"""The major of PostgreSQL that the tests run on, and tests that need more than the oldest."""

import os

import pytest

# That of the wheel, unless tests.postgres_majors says another.
MAJOR = int(os.environ.get("CUSTODY_TEST_MAJOR", "18"))


def since(major: int, why: str) -> pytest.MarkDecorator:
    """Return the mark of a test that needs a major: of what the test itself uses, not of custody.

    Args:
        major: the first one that has it.
        why: what that is.
    """
    return pytest.mark.skipif(major > MAJOR, reason=f"PostgreSQL {major}: {why}")


# Clients are the wheel's: what they write for a restore or a standby has settings of its release.
NEW_CLIENTS = since(17, "pg_dump and pg_basebackup of 18 write for no older server")
