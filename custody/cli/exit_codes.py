"""What a known failure means for the exit code (sysexits.h, where it has a name for it)."""

FINDING = 1
UNAVAILABLE = 69
OUTPUT_LOST = 74
UNFINISHED = 75
CONFIGURATION = 78
# As a shell has it for a process that SIGPIPE ended.
READER_GONE = 141

# By the full name of the class: to import them all would take longer than most commands do.
CODES = {
    "custody.cli.output.OutputLost": OUTPUT_LOST,
    "custody.settings.reading.ConfigurationError": CONFIGURATION,
    "custody.audit.targets.target.TargetUnfit": CONFIGURATION,
    "custody.db.errors.Refused": CONFIGURATION,
    "custody.db.errors.RetiredKek": CONFIGURATION,
    "custody.db.errors.DataKeyGone": FINDING,
    "custody.db.errors.Busy": UNFINISHED,
    "custody.db.errors.DatabaseError": UNAVAILABLE,
    "custody.db.erasure_record.RecordBusy": UNFINISHED,
    "custody.db.erasure_record.RecordError": CONFIGURATION,
    "custody.audit.holding.CantSign": UNAVAILABLE,
    "custody.audit.holding.NotHeld": FINDING,
    "custody.db.owner.OwnerRefused": CONFIGURATION,
    "custody.db.owner.OwnerUnreachable": UNAVAILABLE,
    "custody.db.owner.OwnerUncertain": UNFINISHED,
    "custody.db.owner.OwnerError": FINDING,
    "custody.sockets.addresses.ListenError": FINDING,
    "custody.development.postgres.user.EmbeddedError": FINDING,
    "custody.development.issuer.NoIssuer": FINDING,
    "custody.rewrap.backoff.NotFinished": UNFINISHED,
    "custody.rewrap.target.Blocked": UNFINISHED,
    "custody.rewrap.runs.AnotherRun": UNFINISHED,
    "custody.rewrap.batch.WrongWrap": FINDING,
    "kek_backends.errors.Transient": UNAVAILABLE,
    "kek_backends.errors.KekError": CONFIGURATION,
}


def exit_code_of(error: Exception) -> int | None:
    """Return the exit code of a failure whose message is for the operator, or None.

    That of its class, or else of the nearest of its bases that has one.
    """
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__)
    return next((CODES[name] for name in names if name in CODES), None)
