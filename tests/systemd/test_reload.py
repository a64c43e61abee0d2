"""``systemctl reload custody``: what changes while users are served, and what an error leaves."""

import pytest

from tests.eventually import soon
from tests.systemd.host import Host

pytestmark = pytest.mark.timeout(600)


def events(host: Host, event: str) -> int:
    return host.journal("custody").count(f'"event": "{event}"')


@pytest.mark.prove
def test_a_reload_reads_the_configuration_again_in_the_same_process(debian: Host) -> None:
    debian.start()
    before = debian.show("MainPID", "NRestarts")
    debian.configure(log_level="debug", cors_origins="https://app.example.org")
    assert debian.systemctl("reload", "custody").returncode == 0
    soon(lambda: events(debian, "reloaded") == 1)
    assert '"changed": ["CUSTODY_CORS_ORIGINS", "CUSTODY_LOG_LEVEL"]' in debian.journal("custody")
    soon(lambda: debian.show("MainPID", "NRestarts", "ActiveState") == [*before, "active"])


@pytest.mark.prove
def test_a_reload_of_what_is_wrong_keeps_what_was_and_says_so(debian: Host) -> None:
    debian.start()
    before = debian.property("MainPID")
    debian.configure(log_level="loud")
    debian.systemctl("reload", "custody")
    soon(lambda: "reload failed: CUSTODY_LOG_LEVEL" in debian.property("StatusText"))
    soon(lambda: debian.show("MainPID", "ActiveState") == [before, "active"])
    assert events(debian, "reload_failed") == 1
    debian.configure(log_level="info")
    debian.systemctl("reload", "custody")
    soon(lambda: "reload failed" not in debian.property("StatusText"))


@pytest.mark.prove
def test_several_processes_reload_too(debian: Host) -> None:
    debian.configure(workers=2)
    debian.start()
    debian.configure(cors_origins="https://app.example.org")
    debian.systemctl("reload", "custody")
    soon(lambda: events(debian, "reloaded") == 2)
    # The last word of each process comes before the daemon tells systemd that all are done.
    soon(lambda: debian.show("NRestarts", "ActiveState") == ["0", "active"])
