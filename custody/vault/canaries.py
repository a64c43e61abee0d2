"""Canaries: users whom nobody should ever ask for. Who does is a thief, or reads a stolen list."""

from collections.abc import Iterable

from custody.settings import CanaryAnswer
from custody.vault.errors import CanaryRefused


class Canaries:
    """The canaries, and what becomes of who asks for one; both may be changed at any time.

    Args:
        users: their ids.
        answer: refuse all but ``/status``, as the brake refuses it for others; or serve.
    """

    def __init__(self, users: Iterable[str], answer: CanaryAnswer) -> None:
        self.follow(users, answer)

    def follow(self, users: Iterable[str], answer: CanaryAnswer) -> None:
        """Take others from now on."""
        self.users = frozenset(users)
        self._refused = self.users if answer is CanaryAnswer.REFUSE else frozenset()

    def refuse(self, user_id: str) -> None:
        """Let all others pass.

        Raises:
            CanaryRefused: this user is a canary that is not served.
        """
        if user_id in self._refused:
            raise CanaryRefused
