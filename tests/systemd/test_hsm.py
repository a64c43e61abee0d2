"""A KEK in a token under the unit's sandbox: its module has what the how-to's drop-in gives it."""

import pytest

from tests.client import Client, client_session
from tests.softhsm import module
from tests.systemd.host import Host
from tests.systemd.howto import sections

pytestmark = pytest.mark.timeout(600)

PAGE = "use-an-hsm"


@pytest.mark.prove
async def test_a_token_on_disk_behind_the_sandbox(debian: Host) -> None:
    module()
    (make,) = sections(PAGE)["Make the token and the key"]
    debian.run("bash", "-euo", "pipefail", "-c", make)
    debian.seal("hsm_pin", debian.read("/etc/custody/hsm/pin"))
    debian.run("chown", "-R", "custody", "/etc/custody/hsm")
    _settings, drop_in, _others = sections(PAGE, "ini")["Use it"]
    debian.drop_in("custody.service", drop_in)
    place = f"module-path={module()}&pin-source=systemd:hsm_pin"
    debian.configure(kek=f"pkcs11:token=custody;object=kek?{place}")
    debian.start()
    async with client_session() as session:
        alice = Client(debian.daemon, session, "alice")
        made = await alice.init()
        assert made.json["kekId"].startswith("pkcs11:")
        assert (await alice.key()).json == made.json
    # The module's process is the daemon's, and ends with it.
    assert "kek_backends.pkcs11.child" in debian.systemctl("status", "custody", "--no-pager").stdout
    debian.systemctl("stop", "custody.socket", "custody.service")
    assert debian.property("ActiveState") == "inactive"
    assert debian.property("Result") == "success"
