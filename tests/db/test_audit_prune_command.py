"""``custody audit prune`` and ``redact`` beside a daemon, and what all others say after them."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.client import Client, client_session
from tests.db.test_audit_command import run
from tests.eventually import eventually
from tests.servers import Daemon, Database, daemon_here
from tests.tokens import Issuer

SIZE = "SELECT coalesce(max(size), 0) FROM auth.encryption_audit_checkpoints"
NOTE = "SELECT note FROM auth.encryption_audit_checkpoints ORDER BY number DESC LIMIT 1"
CLIENTS = "SELECT count(*) FROM auth.encryption_vault_audit WHERE ip_address IS NOT NULL"
NOW = "SELECT now()::text"


@pytest.fixture
async def sealing(database: Database, issuer: Issuer, tmp_path: Path) -> AsyncIterator[Daemon]:
    """A daemon that makes checkpoints at once."""
    async with daemon_here(database, issuer, tmp_path, AUDIT_SEAL_INTERVAL="1") as daemon:
        yield daemon


async def sealed(daemon: Daemon, size: int) -> None:
    async def is_there() -> bool:
        return bool(await daemon.database.value(SIZE) == size)

    await eventually(is_there)


async def good(daemon: Daemon, *words: str) -> None:
    done = await run(daemon, "verify", *words)
    assert (done.code, done.out.rpartition(": ")[2]) == (0, "no finding\n"), done.out + done.err


def numbers_in(file: str) -> list[int]:
    lines = [json.loads(line) for line in Path(file).read_text().splitlines()]
    return [line["number"] for line in lines if "number" in line]


@pytest.mark.prove
async def test_a_life_of_an_audit(sealing: Daemon, tmp_path: Path) -> None:
    file, kept = str(tmp_path / "audit.jsonl"), tmp_path / "checkpoint"
    async with client_session() as session:
        alice = Client(sealing, session, "alice")
        await alice.init()
        for _ in range(3):
            await alice.key()
        await sealed(sealing, 4)
        kept.write_text(str(await sealing.database.value(NOTE)))
        await alice.rotate()
        await alice.key()
        await sealed(sealing, 6)
        assert (await run(sealing, "export", "--output", file)).code == 0
        before = ("--before", str(await sealing.database.value(NOW)), "--export", file)

        done = await run(sealing, "prune", *before)
        assert (done.code, "add --yes" in done.err) == (2, True)
        done = await run(sealing, "prune", *before, "--dry-run", "--json")
        said = json.loads(done.out)
        checkpoint = said.pop("checkpoint")
        assert said == {"dry_run": True, "last_row": 6, "deleted": 5, "kept": 1}
        await good(sealing, "--checkpoint", str(kept))

        done = await run(sealing, "prune", *before, "--yes")
        assert (done.code, done.out) == (
            0,
            f"up to row 6, checkpoint {checkpoint}: 5 rows were deleted, 1 were kept\n",
        )
        done = await run(sealing, "prune", *before, "--yes")
        assert (done.code, done.out.partition(":")[0]) == (0, "nothing to prune")

        # A user sees what is left, and goes on; so do the daemon and the sealer.
        events = (await alice.call("GET", "/audit")).json["events"]
        assert [one["action"] for one in events] == ["rotate"]
        await alice.rotate()
        await alice.key()
        await sealed(sealing, 9)
        await good(sealing)
        events = (await alice.call("GET", "/audit")).json["events"]
        assert [one["action"] for one in events] == ["fetch", "rotate", "rotate"]
        shown = [
            json.loads(line) for line in (await run(sealing, "tail", "--json")).out.splitlines()
        ]
        assert [one["action"] for one in shown] == ["rotate", "prune", "rotate", "fetch"]

        # One that was kept from before can't be held against what is gone.
        done = await run(sealing, "verify", "--checkpoint", str(kept))
        assert (done.code, "not seen: the checkpoint that was kept at 4 rows" in done.out) == (
            69,
            True,
        )
        done = await run(sealing, "verify", "--since", "1")
        assert (done.code, "there is no checkpoint 1, or no more" in done.err) == (2, True)

        # An export goes on behind it, and one from the beginning says what it lacks.
        assert (await run(sealing, "export", "--output", file)).code == 0
        assert numbers_in(file) == list(range(1, 10))
        done = await run(sealing, "export")
        assert "rows up to 6 were pruned" in done.err
        assert '"number": 5,' in done.out
        done = await run(sealing, "export", "--since", "6")
        assert "pruned" not in done.err

        # Clients go, and what newer rows say more of.
        old = ("--before", str(await sealing.database.value(NOW)))
        done = await run(sealing, "redact", *old)
        assert (done.code, "add --yes" in done.err) == (2, True)
        done = await run(sealing, "redact", *old, "--yes", "--json")
        assert json.loads(done.out) == {"redacted": 3, "left": 0}
        assert await sealing.database.value(CLIENTS) == 0
        await good(sealing)
        done = await run(sealing, "prune", *old, "--export", file, "--yes", "--json")
        said = json.loads(done.out)
        assert (said["deleted"], said["kept"]) == (3, 1)
        await good(sealing)


@pytest.mark.prove
async def test_what_is_refused(sealing: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    async with client_session() as session:
        await Client(sealing, session, "alice").init()
        await sealed(sealing, 1)
    assert (await run(sealing, "export", "--output", str(file))).code == 0
    words = ("prune", "--yes", "--export", str(file), "--before")
    done = await run(sealing, *words, "2999-01-01")
    assert (done.code, "this time is still to come" in done.err) == (2, True)
    now = str(await sealing.database.value(NOW))
    done = await run(sealing, *words, now, CUSTODY_OWNER_DATABASE_URL="")
    assert (done.code, "CUSTODY_OWNER_DATABASE_URL must be set" in done.err) == (78, True)
    # Not even with all there is but the key: nobody lets go of rows who can't sign what is left.
    other = "b3RoZXIga2V5IG1hdGVyaWFsIHRoYW4gaXQgd2FzISE="
    kek = {"MANA_AUTH_KEK": other, "CUSTODY_KEK": "env:MANA_AUTH_KEK?id=o"}
    done = await run(sealing, *words, now, **kek)
    assert (done.code, "no data key is open here" in done.err) == (69, True)
    role = sealing.database.url("custody_app")
    done = await run(sealing, *words, now, CUSTODY_OWNER_DATABASE_URL=role)
    assert (done.code, "does not see the whole audit" in done.complaint) == (78, True)
    file.write_text("")
    done = await run(sealing, *words, now)
    assert (done.code, done.complaint) == (1, "no export has row 1; nothing was deleted")
    assert await sealing.database.value("SELECT count(*) FROM auth.encryption_vault_audit") == 1
