"""What is to happen again and again: rotations, re-wraps, drills, checkpoints of the audit."""

import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db.queries import query
from custody.db.scope import transaction
from custody.ops.checks.due import in_words, verdict_of
from custody.settings import Settings
from kek_backends.base import KekBackend
from kek_backends.findings import Finding, Verdict

_DAY_SECONDS = 86_400
# As the alerts CustodyRewrapOverdue, CustodyDrillOverdue and CustodyAuditUnsealed have them.
_RUN_DAYS, _DRILL_DAYS, _SEAL_SECONDS = 2, 8, 300
# How long a user's client may reasonably be away, and to what the database counts.
_PENDING_DAYS, _PENDING_COUNTED = 30, 1_000
# As the owner, whom row-level security shows it while it asks for it.
WHO_ROTATES = (
    """psql "$CUSTODY_OWNER_DATABASE_URL" -c "SET custody.scans_kek_ids = 'on'" """
    '-c "SELECT user_id, rotated_at FROM auth.encryption_vaults '
    'WHERE previous_wrapped_mk IS NOT NULL ORDER BY rotated_at"'
)
# Where custody-drill.service puts the result.
DRILL_FILE = Path("/var/lib/custody-drill/custody_drill.prom")
_IN_MEMORY = {"env", "systemd"}


async def examine_routine(
    engine: AsyncEngine,
    settings: Settings,
    active: KekBackend | None,
    now: Callable[[], float] = time.time,
) -> list[Finding]:
    """Say how old the active KEK is, and when a re-wrap run was last through.

    Args:
        engine: connections of the role custody_app.
        settings: of the daemon.
        active: the active KEK; None: it could not be loaded.
        now: a clock, in seconds since 1970.

    Raises:
        DatabaseError: the database can't be asked now.
    """
    kek_id = None if active is None else active.kek_id
    async with transaction(engine) as connection:
        (row,) = await connection.fetch(query("read_ages"), kek_id, [])
    found = [of_run(row["run_done"], settings, now())]
    if active is not None and kek_id is not None:
        found.insert(0, of_kek(active, row["kek_activated"], settings.kek_max_age, now()))
    return found


def of_kek(active: KekBackend, since: float | None, max_age: int, now: float) -> Finding:
    """Say how long the active KEK has been the active one, and when it is to be rotated.

    Args:
        active: that KEK.
        since: when it became the active one, in seconds since 1970; None: not on record.
        max_age: days that it may be; 0: for ever.
        now: the time, in seconds since 1970.
    """
    part = f"kek {active.uri.text}"
    if since is None:
        message = "since when it is the active one is not on record yet; the next boot records it"
        return Finding(Verdict.UNSEEN, message, part)
    days = (now - since) / _DAY_SECONDS
    begun = time.strftime("%Y-%m-%d", time.gmtime(since))
    if not max_age:
        message = f"it is the active one since {begun}; CUSTODY_KEK_MAX_AGE is 0: it never is due"
        return Finding(Verdict.OK, message, part)
    left = max_age - days
    due = time.strftime("%Y-%m-%d", time.gmtime(since + max_age * _DAY_SECONDS))
    message = f"it is the active one since {begun}, and to be rotated by {due}, {in_words(left)}"
    if (verdict := verdict_of(left)) is Verdict.OK:
        return Finding(verdict, message, part)
    message += " (CUSTODY_KEK_MAX_AGE): docs/how-to/rotate-a-kek.md"
    if active.uri.scheme in _IN_MEMORY:
        return Finding(verdict, message, part, "custody kek generate --output kek.new")
    return Finding(verdict, f"{message}; rotate it in its KMS first", part, "custody rewrap run")


def of_run(done: float | None, settings: Settings, now: float) -> Finding:
    """Say when a re-wrap run was last through.

    Args:
        done: when, in seconds since 1970; None: never.
        settings: whether a daemon with them has a worker.
        now: the time, in seconds since 1970.
    """
    last = (
        "no re-wrap run was ever through"
        if done is None
        else f"the last was through {_ago(now - done)}"
    )
    if settings.rewrap_database_url is not None and settings.rewrap_interval:
        message = f"the daemon's worker looks every {settings.rewrap_interval} s; {last}"
        return Finding(Verdict.OK, message, "rewrap run")
    if done is None:
        message = f"{last}, and a daemon with these settings has no worker"
        return Finding(
            Verdict.NOTE, message, "rewrap run", "systemctl enable --now custody-rewrap.timer"
        )
    if now - done > _RUN_DAYS * _DAY_SECONDS:
        message = f"{last}, and a daemon with these settings has no worker: does the timer run?"
        return Finding(
            Verdict.WARNING, message, "rewrap run", "systemctl enable --now custody-rewrap.timer"
        )
    return Finding(Verdict.OK, last, "rewrap run")


async def examine_rotations(
    engine: AsyncEngine, now: Callable[[], float] = time.time
) -> list[Finding]:
    """Say whether rotations of users' keys have been pending for long.

    Args:
        engine: connections of the role custody_app.
        now: a clock, in seconds since 1970.

    Raises:
        DatabaseError: the database can't be asked now.
    """
    async with transaction(engine) as connection:
        (row,) = await connection.fetch(query("count_pending"))
    return [of_rotations(row["rotations"], row["oldest"], now())]


def of_rotations(pending: int, oldest: float | None, now: float) -> Finding:
    """Say whether rotations of users' keys have been pending for long.

    Args:
        pending: how many there are, counted to one more than are named.
        oldest: when the oldest began, in seconds since 1970.
        now: the time, in seconds since 1970.
    """
    if not pending or oldest is None:
        return Finding(Verdict.OK, "none is pending", "rotations")
    many = f"more than {_PENDING_COUNTED}" if pending > _PENDING_COUNTED else str(pending)
    message = f"pending: {many}, the oldest begun {_ago(now - oldest)}"
    if now - oldest <= _PENDING_DAYS * _DAY_SECONDS:
        return Finding(Verdict.OK, message, "rotations")
    # Nothing that an operator may end: some data may still need the key before.
    message += (
        "; nothing is lost by it, and each goes on when its user's client does: "
        "docs/how-to/rotate-a-master-key.md"
    )
    return Finding(Verdict.NOTE, message, "rotations", WHO_ROTATES)


def examine_drill(file: Path = DRILL_FILE, now: Callable[[], float] = time.time) -> Finding:
    """Say when the second root was last drilled, by what the unit leaves.

    Args:
        file: of metrics.
        now: a clock, in seconds since 1970.
    """
    try:
        said = dict(
            line.split(" ", 1)
            for line in file.read_text("utf-8").splitlines()
            if line.startswith("custody_drill_")
        )
        at, success = (
            float(said["custody_drill_timestamp_seconds"]),
            float(said["custody_drill_success"]),
        )
    except (OSError, ValueError, KeyError):
        message = f"no drill of the second root was seen: {file} is not there, or can't be read"
        return Finding(
            Verdict.UNSEEN, message, "drill", "systemctl enable --now custody-drill.timer"
        )
    ago = now() - at
    if not success:
        message = (
            f"the drill of the second root failed, {_ago(ago)}: it does not open every data key"
        )
        return Finding(Verdict.FINDING, message, "drill", "custody kek drill")
    if ago > _DRILL_DAYS * _DAY_SECONDS:
        message = f"the last drill of the second root was {_ago(ago)}: does its timer run?"
        return Finding(Verdict.WARNING, message, "drill", "systemctl start custody-drill")
    return Finding(Verdict.OK, f"the second root alone opened every data key, {_ago(ago)}", "drill")


async def examine_seals(engine: AsyncEngine, settings: Settings) -> Finding:
    """Say how far the audit is under a checkpoint.

    Args:
        engine: connections of the role custody_app.
        settings: of the daemon.

    Raises:
        DatabaseError: the database can't be asked now.
    """
    async with transaction(engine) as connection:
        (horizon,) = await connection.fetch(query("audit_horizon"))
        checkpoints = await connection.fetch(query("list_audit_checkpoints"), None, 1)
    if horizon["is_standby"]:
        message = "how far it is sealed was not seen: a standby does not know what is to come"
        return Finding(Verdict.UNSEEN, message, "audit")
    last = checkpoints[0] if checkpoints else None
    return of_seals(
        horizon["number"] - (0 if last is None else last["last_row"]),
        None if last is None else last["age"],
        settings.audit_seal_interval,
    )


def of_seals(behind: int, age: float | None, interval: int) -> Finding:
    """Say how far the audit is under a checkpoint.

    Args:
        behind: how many numbers of rows are behind the last checkpoint.
        age: of that, in seconds; None: there is none.
        interval: seconds from one to the next; 0: this daemon makes none.
    """
    if behind <= 0:
        return Finding(Verdict.OK, "every row is under a checkpoint", "audit")
    if age is not None and age <= _SEAL_SECONDS:
        return Finding(Verdict.OK, f"{behind} rows wait for the next checkpoint", "audit")
    since = "there is no checkpoint" if age is None else f"the last checkpoint is of {_ago(age)}"
    if not interval:
        message = (
            f"{behind} rows are under no checkpoint, {since}, and this daemon makes none: it is off"
        )
        cure = "set CUSTODY_AUDIT_SEAL_INTERVAL=30, or see that another daemon seals"
        return Finding(Verdict.WARNING, f"{message}; {cure}", "audit")
    # A role of the daemon's does not see how old they are: they may be of this moment.
    message = (
        f"{behind} rows are under no checkpoint, and {since}: they are new, or no daemon seals; "
        "look again in two minutes"
    )
    return Finding(
        Verdict.NOTE, message, "audit", "journalctl --unit custody --grep audit_seal_waits"
    )


def _ago(seconds: float) -> str:
    """Say how long ago that was, in a unit that fits."""
    for unit, size in (("days", _DAY_SECONDS), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} seconds ago"
