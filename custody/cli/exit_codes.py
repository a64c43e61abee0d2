"""What a known failure means for the exit code (sysexits.h, where it has a name for it)."""

from custody.auth.development import NoIssuer
from custody.db.embedded import EmbeddedError
from custody.db.errors import Busy, DatabaseError, Refused, RetiredKek
from custody.db.owner import OwnerError, OwnerRefused, OwnerUnreachable
from custody.http.listeners import ListenError
from custody.rewrap.batch import WrongWrap
from custody.rewrap.patience import NotFinished
from custody.rewrap.runs import AnotherRun
from custody.rewrap.target import Blocked
from custody.settings import ConfigurationError
from kek_backends.errors import KekError, Transient

FINDING = 1
UNAVAILABLE = 69
UNFINISHED = 75
CONFIGURATION = 78

_CODES: tuple[tuple[type[Exception], int], ...] = (
    (ConfigurationError, CONFIGURATION),
    (Refused, CONFIGURATION),
    (RetiredKek, CONFIGURATION),
    (Busy, UNFINISHED),
    (DatabaseError, UNAVAILABLE),
    (OwnerRefused, CONFIGURATION),
    (OwnerUnreachable, UNAVAILABLE),
    (OwnerError, FINDING),
    (ListenError, FINDING),
    (EmbeddedError, FINDING),
    (NoIssuer, FINDING),
    (NotFinished, UNFINISHED),
    (Blocked, UNFINISHED),
    (AnotherRun, UNFINISHED),
    (WrongWrap, FINDING),
    (Transient, UNAVAILABLE),
    (KekError, CONFIGURATION),
)


def exit_code_of(error: Exception) -> int | None:
    """Return the exit code of a failure whose message is for the operator, or None."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), None)
