"""What the daemon and the process of a module say to each other: JSON, its length in front."""

import json
from struct import Struct
from typing import Any, BinaryIO

_length = Struct(">I")
# A request has a key and its binding, an answer a wrap.
_MAX_SIZE = 64 * 1024


def write(stream: BinaryIO, message: dict[str, Any]) -> None:
    """Write one message.

    Args:
        stream: of a pipe.
        message: what JSON can hold.
    """
    body = json.dumps(message).encode()
    stream.write(_length.pack(len(body)) + body)
    stream.flush()


def read(stream: BinaryIO) -> dict[str, Any] | None:
    """Read one message; None at the end, and for what is none.

    Args:
        stream: of a pipe, not buffered: what was not asked for stays in it.
    """
    head = _exactly(stream, _length.size)
    if head is None:
        return None
    (size,) = _length.unpack(head)
    body = _exactly(stream, size) if size <= _MAX_SIZE else None
    if body is None:
        return None
    try:
        message = json.loads(body)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None


def _exactly(stream: BinaryIO, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        part = stream.read(size - len(parts))
        if not part:
            return None
        parts += part
    return bytes(parts)
