"""Whether all is well, in one sentence, and what is to be done if not."""

from collections.abc import Iterable, Iterator, Mapping

from custody.console.known import Known
from custody.console.snapshot import Found, Kms, Level, Seal, Todo, Verdict
from custody.console.tree import Tree

_ORDER = (Level.BAD, Level.WATCH)
# What each part of /readyz is called in a sentence.
_NAMES = {
    "database": "the database",
    "schema": "the schema",
    "roles": "the database's roles",
    "audit": "the audit",
    "kek": "the KEK",
    "data-key": "the data key",
    "rows": "rows that are not sealed",
    "erasures": "erasures that are due",
    "jwks": "the issuer's keys",
}
_TAMPERED = (
    "requests met rows that are not what was sealed: run custody audit verify, restore them, and "
    "find out who writes to the database"
)
_CANARY = "requests were made for a canary: somebody has tokens that nobody should have"
_BRAKE = "requests were refused as CUSTODY_UNWRAP_LIMIT was reached: find out whose they were"
_ALARMS = {
    "custody_tampered_rows_total": ("rows", _TAMPERED),
    "custody_canary_requests_total": ("canaries", _CANARY),
    "custody_unwrap_refusals_total": ("brake", _BRAKE),
}


def judge(
    parts: Mapping[str, str | None],
    degraded: Mapping[str, str],
    alarms: Mapping[str, int],
    *,
    tree: Known[Tree],
    kms: Kms,
    audit: Seal,
    found: Iterable[Found],
) -> Verdict:
    """Judge all of it.

    Args:
        parts: of /readyz, each with its problem or None.
        degraded: what is wrong in parts that are ready.
        alarms: of the last hour, by the name of the metric.
        tree: of keys.
        kms: KEKs and ages.
        audit: its seal.
        found: by the doctor.
    """
    bad = {part: what for part, what in parts.items() if what}
    todo = [Todo(Level.BAD, part, what) for part, what in bad.items()]
    todo += _alarms(alarms)
    todo += (Todo(Level.WATCH, part, what) for part, what in degraded.items())
    todo += _others(tree, kms, audit)
    said = {one.what for one in todo}
    todo += (
        Todo(Level.WATCH, one.part, one.message, one.cure)
        for one in found
        if one.level is not None and one.level is not Level.WELL and one.message not in said
    )
    todo.sort(key=lambda one: _ORDER.index(one.level))
    if bad.keys() == {"listener"}:
        return Verdict(Level.BAD, "This daemon is stopping.", tuple(todo))
    if bad:
        names = _listed([_NAMES.get(part, part) for part in bad])
        return Verdict(Level.BAD, f"Not ready: users are kept waiting by {names}.", tuple(todo))
    if any(one.level is Level.BAD for one in todo):
        return Verdict(Level.BAD, "Users are served, and an alarm rings.", tuple(todo))
    if todo:
        things = "one thing needs" if len(todo) == 1 else f"{len(todo)} things need"
        return Verdict(Level.WATCH, f"Users are served; {things} you.", tuple(todo))
    return Verdict(Level.WELL, "All is well.")


def _alarms(alarms: Mapping[str, int]) -> Iterator[Todo]:
    for name, (part, what) in _ALARMS.items():
        if number := alarms.get(name, 0):
            yield Todo(Level.BAD, part, f"In the last hour {number} {what}.")


def _others(tree: Known[Tree], kms: Kms, audit: Seal) -> Iterator[Todo]:
    if audit.alarms:
        what = "the audit's log is not what it was: run custody audit verify"
        yield Todo(Level.BAD, "audit", what)
    if audit.is_late:
        what = "the audit has not been sealed for more than five minutes: see the log"
        yield Todo(Level.WATCH, "audit", what)
    if tree.value is not None and tree.value.quarantined:
        what = (
            f"{tree.value.quarantined} rows are set aside, as their wraps do not open: restore "
            "them, or let their users rotate; to try them again: custody rewrap run --quarantined"
        )
        yield Todo(Level.WATCH, "rows", what)
    if kms.ages.is_overdue:
        what = "the active KEK is older than CUSTODY_KEK_MAX_AGE: rotate it"
        yield Todo(Level.WATCH, "kek", what)


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
