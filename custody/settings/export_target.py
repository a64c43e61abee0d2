"""Where the audit is followed to: ``CUSTODY_AUDIT_EXPORT``, a URI."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

_FORMAT = r"(?:\?format=(?P<format>jsonl|ocsf))?"
_PLACE = (
    r"file:(?P<file>/(?!/)[^?\0]*[^?\0/])"
    r"|journal:"
    r"|syslog:(?P<socket>/(?!/)[^?\0]+)?"
    r"|syslog(?P<tls>\+tls)?://(?P<host>[^\s/?\[\]:@]+|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})"
)
_DEFAULT_SOCKET = "/dev/log"
_MAX_PORT = 65535
_CURE = (
    "write file:/absolute/path, journal:, syslog: (the socket /dev/log), syslog://host:port or "
    "syslog+tls://host:port (TCP), each with ?format=ocsf for events of OCSF"
)


class Scheme(StrEnum):
    """What kind of target it is."""

    FILE = "file"
    JOURNAL = "journal"
    SOCKET = "syslog socket"
    STREAM = "syslog stream"


@dataclass(frozen=True)
class ExportTarget:
    """A target of the audit.

    Args:
        scheme: what kind of target it is.
        path: of the file, or of the socket; empty for others.
        host: of a stream: a name, or an address without brackets; empty for others.
        port: of a stream; 0 for others.
        tls: whether the stream is one of TLS.
        format_: ``jsonl`` or ``ocsf``.
    """

    scheme: Scheme
    path: str
    host: str
    port: int
    tls: bool
    format_: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a URI.

        Raises:
            ValueError: it is none of a target; the message names the cure.
        """
        if re.match(r"(?i)(syslog\+)?udp:", text):
            raise ValueError(f"UDP loses rows and nobody knows; {_CURE}")
        found = re.fullmatch(f"(?:{_PLACE}){_FORMAT}", text)
        if found is None or not int(found["port"] or 1) <= _MAX_PORT or found["port"] == "0":
            raise ValueError(_CURE)
        if found["file"]:
            scheme, path = Scheme.FILE, found["file"]
        elif found["host"]:
            scheme, path = Scheme.STREAM, ""
        elif text.startswith("journal:"):
            scheme, path = Scheme.JOURNAL, ""
        else:
            scheme, path = Scheme.SOCKET, found["socket"] or _DEFAULT_SOCKET
        return cls(
            scheme=scheme,
            path=path,
            host=(found["host"] or "").strip("[]"),
            port=int(found["port"] or 0),
            tls=found["tls"] is not None,
            format_=found["format"] or "jsonl",
        )
