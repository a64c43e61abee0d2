"""What the wraps of the tests are bound to."""

from kek_backends.binding import Binding

GENERATION = 7


def of(user_id: str, generation: int = GENERATION) -> Binding:
    """Return what a user's master key is bound to."""
    return Binding(user_id, generation)
