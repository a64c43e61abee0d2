"""``env:NAME``: a KEK in an environment variable, or in a file that a variable names."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import structlog

from kek_backends.errors import Misconfigured
from kek_backends.key_file import read_key_file
from kek_backends.key_text import parse_key
from kek_backends.local import ZERO_KEY, LocalKek
from kek_backends.uri import KekUri

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DEFAULT_KEK_ID = "env-v1"

log = structlog.get_logger()


class EnvKek(LocalKek):
    """A KEK given as base64 of 32 bytes in variable NAME, or in the file that NAME_FILE names.

    The default stamp is ``env-v1``, as rows of the service that custody replaces carry it; a
    second key needs another: ``env:NEW_KEK?id=env-v2``.

    Permissions: anyone who can read the process's environment, or the file, has the KEK. A file
    that others may use is refused.
    """

    @classmethod
    def from_uri(cls, uri: KekUri, *, environ: Mapping[str, str], development: bool) -> Self:
        """Build the backend that a URI names; see :meth:`KekBackend.from_uri`."""
        if not _NAME.fullmatch(uri.path):
            raise Misconfigured(f"KEK {uri.text}: {uri.path!r} is not the name of a variable")
        content = _read(uri, environ)
        if content is None and development:
            log.warning(
                "zero_kek",
                kek=uri.text,
                warning="NO KEK IS SET: 32 ZERO BYTES ARE USED. ANYONE CAN OPEN EVERY KEY. "
                "FOR DEVELOPMENT ONLY.",
            )
            key = ZERO_KEY
        elif content is None:
            raise Misconfigured(
                f"KEK {uri.text}: neither {uri.path} nor {uri.path}_FILE is set; give it the key "
                "that wrapped the rows there are; only where there are none yet, make one with: "
                "openssl rand -base64 32"
            )
        else:
            key = parse_key(uri, content)
        kek_id = uri.kek_id or _DEFAULT_KEK_ID
        return cls(uri=uri, kek_id=kek_id, key=key, development=development)


def _read(uri: KekUri, environ: Mapping[str, str]) -> bytes | None:
    # An empty variable is an unset one, as it is for settings.
    value, file = environ.get(uri.path) or None, environ.get(f"{uri.path}_FILE") or None
    if value is not None and file is not None:
        raise Misconfigured(
            f"KEK {uri.text}: both {uri.path} and {uri.path}_FILE are set; unset one"
        )
    if file is None:
        return None if value is None else value.encode("utf-8", "surrogateescape")
    return read_key_file(Path(file), f"KEK {uri.text}: {uri.path}_FILE names {file}, which")
