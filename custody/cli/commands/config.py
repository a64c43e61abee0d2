"""custody config."""

import json
from typing import Any
from urllib.parse import urlsplit

import click
from pydantic import SecretStr

from custody.settings import PREFIX, load


def config(as_json: bool) -> None:
    """Show the settings in force, without passwords."""
    settings = load()
    values = {
        f"{PREFIX}{name.upper()}": _show(getattr(settings, name))
        for name in type(settings).model_fields
    }
    if as_json:
        click.echo(json.dumps(values, indent=2))
        return
    for name, value in values.items():
        shown = "" if value is None else value
        click.echo(f"{name}={' '.join(shown) if isinstance(shown, list) else shown}")


def _show(value: Any) -> Any:
    match value:
        case SecretStr():
            secret = value.get_secret_value()
            return redact(secret) if "://" in secret else "***"
        case tuple():
            return list(value)
        case None | int():
            return value
        case _:
            return str(value)


def redact(url: str) -> str:
    """Return a database URL without its password and without its query, which may hold one."""
    parts = urlsplit(url)
    if "@" in url and "@" not in parts.netloc:
        # A password with a special character that was not percent-encoded.
        return f"{parts.scheme}://***"
    user, at, hosts = parts.netloc.rpartition("@")
    name, colon, _password = user.partition(":")
    netloc = f"{name}{':***' if colon else ''}{at}{hosts}"
    return f"{parts.scheme}://{netloc}{parts.path}{'?***' if parts.query else ''}"
