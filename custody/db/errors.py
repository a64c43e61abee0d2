"""What the database can do to a request."""


class DatabaseError(Exception):
    """The database can't serve this request now."""


class Busy(DatabaseError):
    """No connection was free, or a row stayed locked by someone else, for too long."""


class Refused(DatabaseError):
    """The database refuses a statement that our roles must be allowed."""


class RetiredKek(DatabaseError):
    """A row would have been written under a retired kek_id: the database refuses that for good."""
