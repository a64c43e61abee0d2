"""What is said of settings."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Remark:
    """Something that is wrong with the settings.

    Args:
        part: of the configuration.
        message: what is wrong and the cure, in one line.
        refused: whether the daemon does not start with it; else it says so and goes on.
    """

    part: str
    message: str
    refused: bool = False
