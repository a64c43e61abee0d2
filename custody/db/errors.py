"""What the database can do to a request."""

NO_ANSWER = "the database did not answer in time"
# A server that stands still takes no login: it is a pooler, as a rule, whose connections are all
# in use.
SILENT = (
    "the login was taken, and the first statement not answered in time: behind a pooler, give it "
    "more connections (default_pool_size of PgBouncer: in session mode as many as all daemons have)"
)


class DatabaseError(Exception):
    """The database can't serve this request now."""


class OnlyThisRequest(DatabaseError):
    """It can't serve this one request, and may well serve all others: no reason not to be ready."""


class Busy(OnlyThisRequest):
    """No connection was free, or a row stayed locked by someone else, for too long."""


class Unreachable(DatabaseError):
    """No server of the URL can be reached: the message names the setting, the hosts, the cause."""


class ConnectionLost(DatabaseError):
    """The connection ended, maybe long ago while nobody used it: a new one shows more."""


class OutcomeUnknown(DatabaseError):
    """COMMIT was sent, and nothing certain came back: the transaction may have been made or not.

    Args:
        cause: why, in a few words.
    """

    def __str__(self) -> str:
        """Return the sentence; a copy, made of the cause alone, has the same one."""
        return f"the database did not say whether the change was made: {self.args[0]}"


class Demoted(ConnectionLost):
    """The server is the primary no more, and what is read from it may be out of date."""


class Refused(DatabaseError):
    """The database refuses a statement that our roles must be allowed."""


class RetiredKek(DatabaseError):
    """A row would have been written under a retired kek_id: the database refuses that for good."""


class DataKeyGone(DatabaseError):
    """A row would have been written under a data key that is not on record: it is refused."""


class DataKeyEnded(DatabaseError):
    """A row would have been sealed with a data key that was ended: it is refused."""


def reason_of(error: DatabaseError) -> str | None:
    """Return why the database is down; None where the failure is this request's own."""
    return None if isinstance(error, OnlyThisRequest) else str(error) or error.__doc__
