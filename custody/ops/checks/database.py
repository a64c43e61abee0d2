"""The database: its posture, what would be wiser, erasures, who can dump it, the re-wraps' role."""

from collections.abc import Mapping

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db.advice import advise, dumpers
from custody.db.dsn import parse
from custody.db.engine import open_engine
from custody.db.erasure_record import RecordError, read_record
from custody.db.erasures import describe, find_due
from custody.db.errors import DatabaseError, Refused
from custody.db.plain import in_clear, is_local, unverified
from custody.db.posture import find_problems, refuse_unfit_rewrap
from custody.db.scope import transaction
from custody.settings import Settings
from kek_backends.findings import Finding, Verdict

_MAKE_DUMPER = (
    "CREATE ROLE custody_backup LOGIN NOSUPERUSER BYPASSRLS; "
    "GRANT pg_read_all_data TO custody_backup;"
)


async def examine_posture(engine: AsyncEngine) -> list[Finding]:
    """Say whether schema and role keep their promises; what else is looked at rests on that.

    Args:
        engine: connections of the role custody_app.

    Raises:
        DatabaseError: the database can't be asked now.
    """
    if problems := await find_problems(engine, "custody_app"):
        return [Finding(Verdict.FINDING, one.message, one.part) for one in problems]
    return [Finding(Verdict.OK, "schema and role keep their promises", "database")]


def examine_way(settings: Settings, environ: Mapping[str, str]) -> list[Finding]:
    """Say how what goes to the database is kept from others, where nothing is wrong with it.

    Args:
        settings: of the daemon.
        environ: the variables of the process; those of libpq's count.
    """
    if settings.database_url is None:
        return []
    target = parse(settings.database_url.get_secret_value(), environ)
    if in_clear(target) or unverified(target):
        return []  # it is said of the settings
    how = (
        "it is on this host: a socket, or loopback"
        if is_local(target)
        else "encrypted, and the server's name is verified (sslmode=verify-full)"
    )
    return [Finding(Verdict.OK, how, "database tls")]


async def examine_advice(engine: AsyncEngine) -> list[Finding]:
    """Say what would be wiser.

    Args:
        engine: connections of the role custody_app.
    """
    try:
        advice = await advise(engine)
    except DatabaseError as error:
        return [Finding(Verdict.UNSEEN, f"what would be wiser was not seen: {error}", "database")]
    return [
        Finding(Verdict.FINDING if one.is_problem else Verdict.OK, one.message, one.part)
        for one in advice
    ]


async def examine_erasures(settings: Settings, engine: AsyncEngine) -> list[Finding]:
    """Hold the database against the erasure record, where there is one.

    Args:
        settings: of the daemon.
        engine: connections of the role custody_app.

    Raises:
        DatabaseError: the database can't be asked now.
    """
    if settings.erasure_record is None:
        return []
    try:
        erasures = read_record(settings.erasure_record).erasures
    except RecordError as error:
        return [Finding(Verdict.FINDING, str(error), "erasures")]
    async with transaction(engine) as connection:
        due = await find_due(connection, erasures)
    if due:
        return [Finding(Verdict.FINDING, describe(len(due)), "erasures")]
    message = f"{len(erasures)} on record, each of them made in this database"
    return [Finding(Verdict.OK, message, "erasures")]


async def examine_dumpers(engine: AsyncEngine) -> list[Finding]:
    """Say who can dump the database; whether anybody does can't be seen from here.

    Args:
        engine: connections of the role custody_app.

    Raises:
        DatabaseError: the database can't be asked now.
    """
    if names := await dumpers(engine):
        message = f"pg_dump can read all rows as {', '.join(names)}"
        return [Finding(Verdict.OK, message, "backup")]
    message = (
        "no role but superusers can dump this database: row-level security is forced, so pg_dump "
        "as its owner fails (a physical backup can't be seen from here); an administrator runs"
    )
    return [Finding(Verdict.UNSEEN, message, "backup", _MAKE_DUMPER)]


async def examine_rewrap_role(settings: Settings, app: AsyncEngine) -> list[Finding]:
    """Examine the role of the re-wrap worker, where there is one.

    Args:
        settings: of the daemon.
        app: connections of the role custody_app.

    Raises:
        DatabaseError: the daemon's database can't be asked now.
    """
    if settings.rewrap_database_url is None:
        return []
    dsn = settings.dsn(settings.rewrap_database_url)
    try:
        async with open_engine(dsn, pool_size=1, variable="CUSTODY_REWRAP_DATABASE_URL") as engine:
            await refuse_unfit_rewrap(engine, app)
    except DatabaseError as error:
        return [failure(error, "rewrap")]
    return [Finding(Verdict.OK, "the role for re-wraps is of the same database", "rewrap")]


def failure(error: DatabaseError, part: str) -> Finding:
    """Say that the database could not be asked, or refuses.

    Args:
        error: what came of it.
        part: what was to be seen.
    """
    verdict = Verdict.FINDING if isinstance(error, Refused) else Verdict.DOWN
    return Finding(verdict, str(error), part)
