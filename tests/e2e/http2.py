"""HTTP/2 by hand: one request with any fields at all, which no client library would send.

Fields are written as literals that nobody keeps (RFC 7541, section 6.2.2), without Huffman's code.
"""

from asyncio import IncompleteReadError, StreamReader
from collections.abc import Sequence
from dataclasses import dataclass

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _GOAWAY = 0, 1, 3, 4, 7
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_STREAM = 1
# How a status that most answers have begins the header block: its place in HPACK's static table.
_STATUSES = {0x88: 200, 0x8C: 400, 0x8D: 404}

Fields = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Outcome:
    """What came of a request.

    Args:
        status: of the answer; 0 where it is none of the usual ones; None where none came.
        body: of the answer.
    """

    status: int | None
    body: bytes = b""


def request_frames(fields: Fields, body: bytes = b"") -> bytes:
    """Write the first frames of a connection, with one request."""
    block = b"".join(b"\0" + _string(name) + _string(value) for name, value in fields)
    flags = _END_HEADERS | (0 if body else _END_STREAM)
    frames = _frame(_SETTINGS, 0, 0) + _frame(_HEADERS, flags, _STREAM, block)
    return _PREFACE + frames + (_frame(_DATA, _END_STREAM, _STREAM, body) if body else b"")


async def outcome(reader: StreamReader) -> Outcome:
    """Read until the request is answered, or will not be."""
    status, body = None, b""
    try:
        while True:
            head = await reader.readexactly(9)
            payload = await reader.readexactly(int.from_bytes(head[:3]))
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:])
            if kind == _GOAWAY or (kind == _RESET and stream == _STREAM):
                return Outcome(status, body)
            if kind == _HEADERS:
                # HAProxy begins with a change of the table's size.
                first = next(byte for byte in payload if byte & 0xE0 != 0x20)
                status = _STATUSES.get(first, 0)
            if kind == _DATA:
                body += payload
            if kind in {_HEADERS, _DATA} and flags & _END_STREAM:
                return Outcome(status, body)
    except (IncompleteReadError, ConnectionError):
        return Outcome(status, body)


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    head = len(payload).to_bytes(3) + bytes([kind, flags])
    return head + stream.to_bytes(4) + payload


def _string(text: bytes) -> bytes:
    """Write a string (RFC 7541, section 5.2): its length as an integer with a prefix of 7 bits."""
    size = len(text)
    if size < 0x7F:
        return bytes([size]) + text
    size -= 0x7F
    written = bytearray([0x7F])
    while size >= 0x80:
        written.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes(written) + bytes([size]) + text
