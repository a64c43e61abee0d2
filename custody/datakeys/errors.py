"""Why there is no data key for who asks."""


class DataKeyError(Exception):
    """There is no data key for this seal."""


class DataKeyUnavailable(DataKeyError):
    """There is one, and it can't be opened now; the message says why."""


class DataKeyLost(DataKeyUnavailable):
    """The owner has said that no KEK opens it any more."""


class NoSuchDataKey(DataKeyError):
    """There is no record of it, or what is there is no data key of ours."""
