"""Frozen settings; the only reader of environment variables and of the files that they name."""

from custody.settings.model import Settings
from custody.settings.reading import (
    CREDENTIALS_DIRECTORY,
    PREFIX,
    ConfigurationError,
    load,
    unknown_names,
)
from custody.settings.types import (
    UNIX,
    CanaryAnswer,
    Environment,
    LegacyRows,
    LogFormat,
    LogLevel,
    Plain,
    Tracing,
)

__all__ = [
    "CREDENTIALS_DIRECTORY",
    "PREFIX",
    "UNIX",
    "CanaryAnswer",
    "ConfigurationError",
    "Environment",
    "LegacyRows",
    "LogFormat",
    "LogLevel",
    "Plain",
    "Settings",
    "Tracing",
    "load",
    "unknown_names",
]
