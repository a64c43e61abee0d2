"""Reads settings: from variables, from the files that they name, from credentials, from TOML."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from custody.nearest import did_you_mean
from custody.settings.model import Settings

PREFIX = "CUSTODY_"
CREDENTIALS_DIRECTORY = "CREDENTIALS_DIRECTORY"
_MAX_FILE_SIZE = 64 * 1024
_PLAIN: Final = {
    "int_parsing": "write a whole number",
    "int_from_float": "write a whole number",
    "greater_than_equal": "write {ge} or more",
    "less_than_equal": "write {le} or less",
    "enum": "write {expected}",
    "string_too_short": "it is empty",
}


class ConfigurationError(Exception):
    """The configuration can't be used. The message is one line that names the cure."""


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Read all settings.

    Args:
        environ: the variables; None reads those of the process.

    Raises:
        ConfigurationError: naming the setting and the cure, never a value that may be secret.
    """
    environ = os.environ if environ is None else environ
    values = _from_toml(environ) | _from_credentials(environ) | _from_variables(environ)
    try:
        return Settings(**values)
    except ValidationError as error:
        raise ConfigurationError(_explain(error)) from None


def unknown_names(environ: Mapping[str, str]) -> dict[str, str]:
    """Return variables and credentials that start like a setting and are none: misspelt, likely.

    Each with a hint at the right name. A variable counts in any case, a credential as it is.
    """
    names = {f"{PREFIX}{name}".upper() for name in Settings.model_fields}
    known = names | {f"{name}_FILE" for name in names} | {f"{PREFIX}CONFIG"}
    variables = sorted(n for n in environ if n.upper().startswith(PREFIX) and n not in known)
    of_credentials = {name.lower() for name in names}
    credentials = [name for name in _credentials(environ) if name not in of_credentials]
    return {name: did_you_mean(name, sorted(known)) for name in variables} | {
        name: did_you_mean(name, sorted(of_credentials)) for name in credentials
    }


def _from_variables(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in Settings.model_fields:
        variable = f"{PREFIX}{name.upper()}"
        value, file = environ.get(variable), environ.get(f"{variable}_FILE")
        if value and file:
            raise ConfigurationError(f"{variable} and {variable}_FILE are both set; unset one")
        if file:
            value = _read(Path(file), f"{variable}_FILE names {file}").strip()
        if value:
            values[name] = value
    return values


def _from_credentials(environ: Mapping[str, str]) -> dict[str, Any]:
    """Read what systemd hands over; of a setting that is a path, the credential is the file."""
    values: dict[str, Any] = {}
    credentials = _credentials(environ)
    for name, field in Settings.model_fields.items():
        path = credentials.get(f"{PREFIX}{name}".lower())
        if path is None:
            continue
        if field.annotation == Path | None:
            values[name] = path
        elif value := _read(path, f"the credential {path.name}").strip():
            values[name] = value
    return values


def _credentials(environ: Mapping[str, str]) -> dict[str, Path]:
    """Return the credentials that start like a setting, by name."""
    directory = environ.get(CREDENTIALS_DIRECTORY)
    if not directory:
        return {}
    try:
        found = sorted(Path(directory).iterdir())
    except OSError as error:
        raise ConfigurationError(
            f"{CREDENTIALS_DIRECTORY} names {directory}: {error.strerror}"
        ) from None
    return {path.name: path for path in found if path.name.startswith(PREFIX.lower())}


def _from_toml(environ: Mapping[str, str]) -> dict[str, Any]:
    path = environ.get(f"{PREFIX}CONFIG")
    if not path:
        return {}
    try:
        values = tomllib.loads(_read(Path(path), f"{PREFIX}CONFIG names {path}"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{PREFIX}CONFIG: {path} is not TOML: {error}") from None
    for name in values:
        if name not in Settings.model_fields:
            raise ConfigurationError(
                f"{PREFIX}CONFIG: {path} has an unknown name {name!r} "
                f"({did_you_mean(name, Settings.model_fields)}); known: "
                + ", ".join(Settings.model_fields)
            )
    return values


def _read(path: Path, source: str) -> str:
    try:
        with path.open("rb") as stream:
            text = stream.read(_MAX_FILE_SIZE + 1)
    except OSError as error:
        raise ConfigurationError(f"{source}: {error.strerror}") from None
    if len(text) > _MAX_FILE_SIZE:
        raise ConfigurationError(f"{source}: larger than {_MAX_FILE_SIZE} bytes")
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise ConfigurationError(f"{source}: not UTF-8 text") from None


def _plain(kind: str, bounds: Mapping[str, Any], message: str) -> str:
    """Return pydantic's message, or our own for what operators meet most."""
    if kind in _PLAIN:
        return _PLAIN[kind].format(**bounds)
    return message.removeprefix("Value error, ")


def _explain(error: ValidationError) -> str:
    """Say what is wrong without a value: pydantic's messages for our types hold none."""
    lines = []
    for item in error.errors(include_url=False, include_input=False):
        message = _plain(item["type"], item.get("ctx", {}), item["msg"])
        field = str(item["loc"][0]) if item["loc"] else None
        name = f"{PREFIX}{field.upper()}: " if field else ""
        what = Settings.model_fields[field].description if field in Settings.model_fields else None
        lines.append(f"{name}{message}" + (f" ({what})" if what else ""))
    return "; ".join(lines)
