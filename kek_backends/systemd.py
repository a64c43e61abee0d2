"""``systemd:NAME``: a KEK that systemd hands to the service as a credential."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from kek_backends.errors import Misconfigured
from kek_backends.key_file import read_key_file
from kek_backends.key_text import parse_key
from kek_backends.local import LocalKek
from kek_backends.uri import KekUri

_DIRECTORY = "CREDENTIALS_DIRECTORY"
# With "systemd-" in front it is a kek_id, and that has 255 characters at most.
_NAME = re.compile(r"[A-Za-z0-9._-]{1,247}")


class SystemdKek(LocalKek):
    """A KEK in file NAME of ``$CREDENTIALS_DIRECTORY``: 32 raw bytes, or base64 of them.

    The default stamp is ``systemd-NAME``. The credential is read once, when the process starts:
    systemd itself gives a running service no newer one.

    Permissions: the service's user and root can read it; a file that others may read is refused.
    """

    @classmethod
    def from_uri(cls, uri: KekUri, *, environ: Mapping[str, str], development: bool) -> Self:
        """Build the backend that a URI names; see :meth:`KekBackend.from_uri`."""
        if not _NAME.fullmatch(uri.path) or uri.path in {".", ".."}:
            raise Misconfigured(
                f"KEK {uri.text}: {uri.path!r} is not the name of a credential: write 1 to 247 "
                "letters, digits and any of . _ -"
            )
        directory = environ.get(_DIRECTORY)
        if not directory:
            raise Misconfigured(
                f"KEK {uri.text}: {_DIRECTORY} is not set: systemd gives this process no "
                f"credential; add to its unit: LoadCredential={uri.path}:/path/to/the/key"
            )
        path = Path(directory) / uri.path
        absent = (
            f"does not exist; add to the unit: LoadCredential={uri.path}:/path/to/the/key, and "
            "restart it"
        )
        content = read_key_file(path, f"KEK {uri.text}: {path}", absent=absent)
        key = parse_key(uri, content, raw=True)
        kek_id = uri.kek_id or f"systemd-{uri.path}"
        return cls(uri=uri, kek_id=kek_id, key=key, development=development)
