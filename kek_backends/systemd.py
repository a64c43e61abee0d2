"""``systemd:NAME``: a KEK that systemd hands to the service as a credential."""

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from kek_backends import aead
from kek_backends.errors import Misconfigured
from kek_backends.local import LocalKek, parse_key
from kek_backends.uri import KekUri

_DIRECTORY = "CREDENTIALS_DIRECTORY"
# With "systemd-" in front it is a kek_id, and that has 255 characters at most.
_NAME = re.compile(r"[A-Za-z0-9._-]{1,247}")
_MAX_FILE_SIZE = 1024
_OTHERS = 0o007


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
        key = _parse(uri, _read(uri, Path(directory) / uri.path))
        kek_id = uri.kek_id or f"systemd-{uri.path}"
        return cls(uri=uri, kek_id=kek_id, key=key, development=development)


def _read(uri: KekUri, path: Path) -> bytes:
    try:
        # Without O_NONBLOCK a FIFO would hold the boot until somebody writes to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            # Asked of the open file, not of its name: that could be another file by now.
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise Misconfigured(f"KEK {uri.text}: {path} is not a regular file")
            # The bits of the group stay out of it: where systemd gives access by an ACL, they
            # show the mask of that ACL.
            if mode & _OTHERS:
                raise Misconfigured(
                    f"KEK {uri.text}: {path} has mode {stat.S_IMODE(mode):04o}: others may use "
                    "it; run chmod 400 on it, or 600"
                )
            return os.read(descriptor, _MAX_FILE_SIZE + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise Misconfigured(
            f"KEK {uri.text}: {path} does not exist; add to the unit: "
            f"LoadCredential={uri.path}:/path/to/the/key, and restart it"
        ) from None
    except OSError as error:
        raise Misconfigured(f"KEK {uri.text}: {path}: {error.strerror}") from None


def _parse(uri: KekUri, content: bytes) -> bytes:
    if len(content) == aead.KEY_SIZE + 1 and content.endswith(b"\n"):
        return content[:-1]
    if len(content) == aead.KEY_SIZE:
        return content
    if len(content) > _MAX_FILE_SIZE:
        # What comes after was not read: it could be anything.
        content = b""
    return parse_key(uri, content.decode("ascii", "replace"))
