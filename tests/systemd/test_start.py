"""The daemon under systemd: from encrypted credentials to an answer, and what an operator sees."""

import socket
import time
from urllib.parse import urlsplit

import pytest

from tests.client import Client, client_session
from tests.eventually import soon
from tests.faulty_proxy import Fault, faulty_proxy
from tests.systemd.host import Host

pytestmark = pytest.mark.timeout(600)


def processes(host: Host) -> set[str]:
    """Return the processes of the service, as its system numbers them."""
    group = "/sys/fs/cgroup/system.slice/custody.service/cgroup.procs"
    return set(host.read(group).split())


@pytest.mark.prove
async def test_it_starts_with_encrypted_credentials_and_serves(debian: Host) -> None:
    debian.start()
    # On the disk there is no secret that can be read.
    sealed = debian.read("/etc/credstore.encrypted/custody_database_url")
    assert "postgresql" not in sealed
    async with client_session() as session:
        alice = Client(debian.daemon, session, "alice")
        made = await alice.init()
        assert made.json["kekId"] == "systemd-kek_2026"
        assert (await alice.key()).json == made.json


@pytest.mark.prove
def test_systemctl_status_says_where_it_listens_and_under_which_kek(debian: Host) -> None:
    debian.start()
    status = debian.systemctl("status", "--no-pager", "custody").stdout
    address = f"http://{urlsplit(debian.daemon.base).netloc}"
    (line,) = (line.strip() for line in status.splitlines() if "Status:" in line)
    assert address in line
    assert "KEK systemd-kek_2026" in line
    assert "active (running)" in status
    assert "TriggeredBy: ● custody.socket" in status


@pytest.mark.prove
async def test_a_first_connection_starts_it(debian: Host) -> None:
    debian.start("custody.socket")
    assert debian.property("ActiveState") == "inactive"
    async with client_session() as session:
        assert (await Client(debian.daemon, session, "alice").init()).status == 200
    # It is served before systemd has heard that it is.
    soon(lambda: debian.property("ActiveState") == "active")


@pytest.mark.prove
def test_it_is_started_only_when_the_database_is_there_and_says_what_it_waits_for(
    debian: Host,
) -> None:
    database = debian.daemon.database
    with faulty_proxy(database.server.port) as proxy:
        proxy.fault = Fault.REFUSE
        url = database.url("custody_app").replace(f":{database.server.port}/", f":{proxy.port}/")
        debian.seal("custody_database_url", url)
        # Shorter than the wait: it asks for more time.
        debian.drop_in("custody.service", "[Service]", "TimeoutStartSec=5")
        debian.systemctl("start", "--no-block", "custody")
        soon(lambda: "NOT READY: database" in debian.property("StatusText"))
        time.sleep(8)
        assert debian.show("ActiveState", "NRestarts") == ["activating", "0"]
        proxy.fault = Fault.NONE
        soon(lambda: debian.property("ActiveState") == "active")
        assert "NOT READY" not in debian.property("StatusText")
        assert debian.property("NRestarts") == "0"


@pytest.mark.prove
async def test_several_processes_are_one_service(debian: Host) -> None:
    debian.configure(workers=2)
    debian.start()
    main = debian.property("MainPID")
    workers = processes(debian) - {main}
    assert len(workers) == 2
    killed = workers.pop()
    debian.run("kill", "-KILL", killed)
    soon(lambda: len(processes(debian)) == 3 and killed not in processes(debian))
    async with client_session() as session:
        assert (await Client(debian.daemon, session, "alice").init()).status == 200
    assert debian.show("MainPID", "NRestarts", "ActiveState") == [main, "0", "active"]
    debian.systemctl("stop", "custody")
    assert debian.show("Result", "ActiveState") == ["success", "inactive"]


@pytest.mark.prove
def test_stopping_the_socket_stops_the_daemon_and_nothing_starts_it_again(debian: Host) -> None:
    debian.start()
    debian.systemctl("stop", "custody.socket")
    assert debian.show("Result", "ActiveState") == ["success", "inactive"]
    port = urlsplit(debian.daemon.base).port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port or 0))
