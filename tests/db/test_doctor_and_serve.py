"""``custody doctor`` and ``custody serve`` judge alike: a table of what is wrong, both on each."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from custody.app import running
from custody.ops import preflight
from custody.ops.doctor import examine
from custody.settings import ConfigurationError, load
from kek_backends.findings import Finding, Verdict
from tests.db.mistakes import OTHER_KEK, REFUSED, UNWISE, Change, Place, setting
from tests.ports import free_port
from tests.proofs import some
from tests.servers import Database, daemon_here, new_database, settings_for
from tests.tokens import Issuer


async def serve(environ: Mapping[str, str], *, whole: bool = True) -> tuple[str | None, list[Any]]:
    """Begin as the command does, or only judge the settings; return the refusal and the log."""
    with capture_logs() as logs:
        try:
            settings = load(environ)
            preflight.check(settings, environ)
            if whole:
                async with running(settings, environ):
                    pass
        except ConfigurationError as error:
            return str(error), logs
    return None, logs


def said(findings: list[Finding], verdict: Verdict) -> list[str]:
    return [finding.message for finding in findings if finding.verdict is verdict]


@pytest.fixture
def place(database: Database, tmp_path: Path) -> Place:
    return Place(database, tmp_path)


@pytest.fixture
def kept(module_database: Database, tmp_path: Path) -> Place:
    """A place on the database of the module: who only looks leaves nothing in it."""
    return Place(module_database, tmp_path)


def wrong(place: Place, issuer: Issuer, change: Change) -> dict[str, str]:
    folder = place.folder / "daemon"
    folder.mkdir()
    right = settings_for(place.database, issuer, folder)
    return {name: value for name, value in {**right, **change(place)}.items() if value}


@pytest.mark.parametrize("name", some([*REFUSED], *[*REFUSED][::3]))
async def test_refused_by_both_with_one_line(place: Place, issuer: Issuer, name: str) -> None:
    mistake = REFUSED[name]
    environ = wrong(place, issuer, mistake.change)
    findings = await examine(environ)
    refused, _ = await serve(environ)
    assert refused == place.line(mistake.line)
    assert "; ".join(said(findings, Verdict.FINDING)) == refused


@pytest.mark.parametrize("name", UNWISE)
async def test_unwise_to_both_in_one_line(kept: Place, issuer: Issuer, name: str) -> None:
    mistake = UNWISE[name]
    environ = wrong(kept, issuer, mistake.change)
    found = said(await examine(environ), Verdict.FINDING)
    refused, logs = await serve(environ, whole=False)
    assert refused is None
    logged = [one["problem"] for one in logs if one["event"] == "unsafe_setting"]
    logged += [
        f"{one['name']} is {one['cure'].replace('no such', 'no')}"
        for one in logs
        if one["event"] == "unknown_setting"
    ]
    assert found == logged == [kept.line(mistake.line)]


async def test_database_that_is_refused_by_both(place: Place, issuer: Issuer) -> None:
    environ = wrong(place, issuer, setting())
    await place.database.execute("ALTER TABLE auth.encryption_vaults NO FORCE ROW LEVEL SECURITY")
    refused, _ = await serve(environ)
    assert "; ".join(said(await examine(environ), Verdict.FINDING)) == refused
    assert refused is not None


@pytest.mark.prove
async def test_kek_that_is_not_the_recorded_one(place: Place, issuer: Issuer) -> None:
    environ = wrong(place, issuer, setting())
    assert (await serve(environ))[0] is None
    environ["MANA_AUTH_KEK"] = OTHER_KEK
    refused, _ = await serve(environ)
    of_data_key, of_kek = said(await examine(environ), Verdict.FINDING)
    assert of_kek == refused
    # The second thing that it does not open.
    assert "does not open under the KEK of env-v1: configure the key that wrapped it" in of_data_key


@pytest.mark.prove
@pytest.mark.parametrize(
    "change",
    [
        lambda _place: {"CUSTODY_DATABASE_URL": f"postgresql://u:x@127.0.0.1:{free_port()}/d"},
        lambda _place: {
            "CUSTODY_JWKS_FILE": "",
            "CUSTODY_JWKS_URL": f"http://127.0.0.1:{free_port()}/jwks",
        },
    ],
    ids=["database", "issuer"],
)
async def test_down_to_both_with_one_line(place: Place, issuer: Issuer, change: Change) -> None:
    environ = wrong(place, issuer, change)
    (down,) = said(await examine(environ), Verdict.DOWN)
    refused, logs = await serve(environ)
    assert refused is None
    assert down in json.dumps([one.get("reason") or one.get("error") for one in logs])


# ── one database ──────────────────────────────────────────────────────────────


@pytest.mark.prove
async def test_rewrap_url_of_another_database(
    place: Place, issuer: Issuer, database: Database
) -> None:
    """A copy of it, even: no row there is the daemon's."""
    async with new_database(database.server) as other:
        change = {"CUSTODY_REWRAP_DATABASE_URL": other.url("custody_rewrap")}
        environ = wrong(place, issuer, lambda _place: change)
        refused, _ = await serve(environ)
        assert said(await examine(environ), Verdict.FINDING) == [refused]
        assert refused is not None
        assert other.name in refused
        assert database.name in refused


# ── advice ────────────────────────────────────────────────────────────────────


@pytest.mark.prove
async def test_advice_that_the_role_may_not_ask_for_keeps_nobody_from_serving(
    place: Place, issuer: Issuer
) -> None:
    environ = wrong(place, issuer, setting())
    await place.database.execute(
        "REVOKE EXECUTE ON FUNCTION pg_catalog.pg_stat_get_wal_senders() FROM PUBLIC"
    )
    assert (await serve(environ))[0] is None
    found = await examine(environ)
    assert not said(found, Verdict.FINDING)
    assert "what would be wiser was not seen" in str(said(found, Verdict.UNSEEN))


@pytest.mark.prove
async def test_functions_of_a_superuser(place: Place, issuer: Issuer) -> None:
    environ = wrong(place, issuer, setting())
    async with daemon_here(place.database, issuer, place.folder):
        pass
    assert not said(await examine(environ), Verdict.FINDING)
    definers = await place.database.fetch(
        "SELECT oid::regprocedure::text AS name FROM pg_proc"
        " WHERE pronamespace = 'auth'::regnamespace AND prosecdef"
    )
    for definer in definers:
        await place.database.execute(f"ALTER FUNCTION {definer['name']} OWNER TO postgres")
    for policy in ("kek_sample", "bring_over"):
        await place.database.execute(
            f"ALTER POLICY encryption_vaults_{policy} ON auth.encryption_vaults TO postgres"
        )
    for policy in ("prune", "prune_row", "redact"):
        await place.database.execute(
            f"ALTER POLICY encryption_vault_audit_{policy} ON auth.encryption_vault_audit"
            " TO postgres"
        )
    await place.database.execute(
        "ALTER POLICY encryption_vault_audit_all ON auth.encryption_vault_audit"
        " TO custody_audit, postgres"
    )
    (found,) = said(await examine(environ), Verdict.FINDING)
    assert f"{len(definers)} functions" in found
    refused, logs = await serve(environ)
    assert refused is None
    assert [one["advice"] for one in logs if one["event"] == "database_advice"] == [found]
    # What the page says to do about it, as that superuser.
    page = Path(__file__).parents[2].joinpath("docs", "self-hosting.md").read_text("utf-8")
    cure = page.split("## Another owner", 1)[1].split("```sql\n", 1)[1].split("```", 1)[0]
    role, rest = cure.split("\n", 1)
    assert role.startswith("CREATE ROLE custody_owner")  # it is there
    await place.database.execute(
        rest.replace("DATABASE custody ", f"DATABASE {place.database.name} ")
    )
    assert not said(await examine(environ), Verdict.FINDING)
    assert (await serve(environ))[0] is None
