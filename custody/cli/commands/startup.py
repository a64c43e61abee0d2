"""How a command begins into whose process keys come."""

from custody.ops.logging import configure
from custody.ops.process import harden
from custody.settings import Settings, load


def prepare() -> Settings:
    """Read the settings, set up the log, and shut the process to others.

    Raises:
        ConfigurationError: a setting is wrong.
    """
    settings = load()
    configure(settings.log_level, settings.log_format)
    # The KEKs, and for a moment users' keys, come into this process.
    harden()
    return settings
