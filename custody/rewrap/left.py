"""What a run leaves: it is not done then, and its operator hears why."""

from dataclasses import dataclass

from custody.keks.legacy import Unsealed


@dataclass(frozen=True, slots=True)
class Left:
    """What a run leaves, since it can't be done here, or may not.

    Args:
        kek_ids: of rows that no configured KEK can unwrap.
        unsealed: rows that are not sealed, while the door for them is shut; None while it is open.
        data_keys: those that can't be moved, each as a line with its cure.
    """

    kek_ids: tuple[str, ...]
    unsealed: Unsealed | None
    data_keys: tuple[str, ...]

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self.kek_ids or self.unsealed or self.data_keys)
