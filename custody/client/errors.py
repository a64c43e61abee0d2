"""What can go wrong, told apart by what the caller does about it. None of them holds a key."""


class CustodyError(Exception):
    """Any error of this client.

    Args:
        code: the daemon's stable code, where it gave one.
        request_id: what its operator finds the request by.
        retry_after: seconds after which it may be tried again, where known.
    """

    def __init__(
        self, code: str = "", *, request_id: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(code or type(self).__name__)
        self.code = code
        self.request_id = request_id
        self.retry_after = retry_after


class SignInAgain(CustodyError):
    """401: the token is refused, a fresh one too."""


class StepUpRequired(CustodyError):
    """401 ``STEP_UP_REQUIRED``: the user is signed in, but this needs a login made just now."""


class Unavailable(CustodyError):
    """429 or 503, after all tries: later. No reason to sign anybody out."""


class Unreachable(CustodyError):
    """No answer came. Whether the daemon did it is not known."""


class NotTrusted(CustodyError):
    """The server's certificate does not verify; nothing was sent. Is ``tls=`` to be given?"""


class Conflict(CustodyError):
    """The vault's state does not allow it; ``code`` says which state."""


class StaleGeneration(CustodyError):
    """412: another device has rotated; unlock again."""


class Failed(CustodyError):
    """Any other refusal; ``code`` says which."""


class BadAnswer(CustodyError):
    """An answer that is not one of the contract's."""


class RolledBack(CustodyError):
    """The vault's generation is older than one that this device has seen."""


class RecoveryCodeNeeded(CustodyError):
    """The vault is in zero-knowledge mode: unlock with the user's code."""


class WrongRecoveryCode(CustodyError):
    """The code is well-formed, but does not open this wrap."""


class MalformedRecoveryCode(CustodyError):
    """Not 64 hexadecimal digits."""
