"""The web client's whole life against ``custody serve`` in production mode."""

import aiohttp
import pytest

from tests.client import client_session
from tests.e2e.browser import Browser
from tests.e2e.life import live
from tests.ports import free_port
from tests.servers import Daemon


async def test_the_whole_life_of_a_vault(daemon: Daemon) -> None:
    await live(daemon, "alice")
    # The next user's life is the same: nothing of the first is in the way.
    await live(daemon, "auth0|bob@example.org/ü")


async def test_the_client_tries_again_three_times(daemon: Daemon) -> None:
    """The client is part of the proof: see that it does what it claims."""
    async with client_session() as session:
        away = Browser(
            Daemon(
                base=f"http://127.0.0.1:{free_port()}",
                admin="",
                issuer=daemon.issuer,
                database=daemon.database,
            ),
            session,
            "alice",
        )
        with pytest.raises(aiohttp.ClientConnectionError):
            await away.sign_in()
        browser = Browser(daemon, session, "alice")
        await browser.sign_in()
        await daemon.database.execute("UPDATE auth.encryption_vaults SET kek_id = 'lost-v1'")
        answer = await browser.call("GET", "/key")
        assert (answer.status, answer.code) == (503, "KEK_UNAVAILABLE")
        assert [answer.status for answer in browser.answers] == [404, 200, 503, 503, 503, 503]
