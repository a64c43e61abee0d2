"""Step-up: what can lose or unlock a key for good needs a fresh login, or a strong one."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

from custody.auth.refusals import Reason, StepUpRequired

# As old a login may be, unless it is set, for what needs a fresh one in any case.
_FRESH_SECONDS = 300


@dataclass(frozen=True, slots=True)
class StepUp:
    """How the user of a verified token must have logged in.

    Args:
        max_age: seconds since the login (``auth_time``) at most; None: it may be of any age.
        acr_values: the login's ``acr`` must be one of them; where there are none, it may be any.
        leeway: seconds by which the issuer's clock may differ from ours.
        now: seconds since 1970.

    Source: RFC 9470 sections 3 and 5; OpenID Connect Core 1.0 section 2.
    """

    max_age: int | None = None
    acr_values: tuple[str, ...] = ()
    leeway: float = 30
    now: Callable[[], float] = time.time

    @property
    def with_fresh_login(self) -> Self:
        """The same, with a bound on the login's age also where none is set."""
        return self if self.max_age is not None else replace(self, max_age=_FRESH_SECONDS)

    def check(self, auth_time: float | None, acr: str | None) -> None:
        """Check a login, at this moment.

        Args:
            auth_time: when it was, in seconds since 1970; None where the token does not say.
            acr: how it was; None where the token does not say.

        Raises:
            StepUpRequired: the user must log in anew, or by stronger means.
        """
        self.check_age(auth_time)
        self.check_acr(acr)

    def check_age(self, auth_time: float | None) -> None:
        """A login of the future is none: an issuer that errs so may err by more."""
        if self.max_age is None:
            return
        now = self.now()
        if auth_time is None or auth_time > now + self.leeway:
            raise StepUpRequired(Reason.NO_LOGIN)
        if auth_time < now - self.max_age - self.leeway:
            raise StepUpRequired(Reason.OLD_LOGIN)

    def check_acr(self, acr: str | None) -> None:
        """The values are names: none is more or less than another."""
        if self.acr_values and acr not in self.acr_values:
            raise StepUpRequired(Reason.WEAK_LOGIN)
