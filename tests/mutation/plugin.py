"""What ``make mutate`` changes of the tests: how they are chosen, and what they stand on.

Each mutant is a process of its own. A PostgreSQL for each would take longer than its tests: there
is one for all.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from custody.development.postgres import EmbeddedPostgres, cluster
from custody.development.postgres.binaries import find_binaries
from custody.development.postgres.user import choose_user
from tests import forked, leaks, servers

FOLDER, PORT = "CUSTODY_MUTANTS_POSTGRES", "CUSTODY_MUTANTS_PORT"
_chosen: set[str] = set()


@contextmanager
def _server_that_runs(*, durable: bool = False) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(Path(os.environ[FOLDER]), durable=durable)
    server._passwords = cluster.passwords(server.folder)
    server._bin = find_binaries(server.folder, choose_user())
    server._port = int(os.environ[PORT])
    yield server


def _no_process(_process: forked.Forked) -> None:
    pytest.skip("a process of its own would have no mutant in it")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Before any conftest takes them by name; logs of mutants are not searched."""
    servers.postgres_server = _server_that_runs
    leaks.search = lambda: (0, 0, [])
    setattr(forked.Forked, "start", _no_process)  # noqa: B010 - of mypy no method is assigned to


def pytest_configure(config: pytest.Config) -> None:
    """Take tests that were given one by one by their files: some names are no arguments."""
    _chosen.clear()
    if any("::" in one for one in config.args):
        _chosen.update(config.args)
        config.args = sorted({one.partition("::")[0] for one in config.args}, key=_last_the_slow)


def _last_the_slow(file: str) -> tuple[bool, str]:
    return not file.startswith(("tests/unit", "tests/kek")), file


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what was not given."""
    if _chosen:
        others = [item for item in items if item.nodeid not in _chosen]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item.nodeid in _chosen]
