"""Why a token is refused: one reason each, with no part of the token."""

from enum import Enum


class Reason(Enum):
    """A reason: its value is the label in metrics and logs, its text says it to an operator."""

    def __init__(self, label: str, text: str) -> None:
        self.label = label
        self.text = text

    ABSENT = "absent", "no Authorization header"
    SEVERAL = "several", "more than one Authorization header"
    FORM = "form", "not a bearer token of three segments"
    TOO_LONG = "too-long", "too long"
    MALFORMED = "malformed", "malformed segment"
    ALGORITHM = "alg", "its alg is neither EdDSA nor Ed25519"
    EXTENSION = "crit", "an extension that is not understood"
    TYPE = "typ", "another type of token"
    KEY_NAME = "kid", "kid is not a string"
    ISSUER = "iss", "another issuer"
    AUDIENCE = "aud", "another audience"
    SUBJECT = "sub", "sub is no user id"
    BOUND = "cnf", "bound to a key that nobody here checks"
    NO_EXPIRY = "no-exp", "no exp"
    TIME = "time", "a time is not a number, or out of range"
    LIFETIME = "lifetime", "lives longer than CUSTODY_JWT_MAX_LIFETIME says"
    EXPIRED = "expired", "expired"
    NOT_YET = "not-yet", "not valid yet"
    UNKNOWN_KEY = "unknown-key", "no such key"
    SIGNATURE = "signature", "wrong signature"
    # Of tokens that are good for everything else.
    NO_LOGIN = "step-up-no-auth-time", "no auth_time, or one in the future, where step-up is needed"
    OLD_LOGIN = "step-up-old", "a login older than CUSTODY_STEP_UP_MAX_AGE says"
    WEAK_LOGIN = "step-up-acr", "an acr that is not in CUSTODY_STEP_UP_ACR"


class Refusal(Exception):
    """A token does not do.

    Args:
        reason: why; its text is the message.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.text)
        self.reason = reason


class InvalidToken(Refusal):
    """The token proves nothing."""


class StepUpRequired(Refusal):
    """The token says who it is, but not that the user has logged in lately, or as is asked for."""
