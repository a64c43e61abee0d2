"""Requests that two servers may read differently, each with a second one inside.

The first one is mallory's. The second one is hidden where one server sees a body, and another one
the next request: on a connection that a proxy shares among its clients, somebody else's.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from custody.http.routes import BASE_PATH
from tests.proxies import HOST

# Makes the bytes that are sent of the hidden request.
Build: TypeAlias = Callable[["Hidden"], bytes]


@dataclass(frozen=True)
class Hidden:
    """A hidden request, and what the one around it needs.

    Args:
        name: what its request id ends in.
        token: mallory's Authorization.
        whole: it is complete, with mallory's own token: whose answer is it? Otherwise it is open at
            its end: the request that comes next on the connection would fall into it, with the
            token of whoever sent that.
    """

    name: str
    token: str
    whole: bool

    def __bytes__(self) -> bytes:
        method, path = ("GET", "/key") if self.whole else ("POST", "/rotate")
        lines = [f"{method} {BASE_PATH}{path} HTTP/1.1", f"X-Request-Id: hidden-{self.name}"]
        if self.whole:
            lines += [f"Host: {HOST}", f"Authorization: {self.token}", "", ""]
        else:
            # Host, too, comes with the request that falls into it: two are refused.
            lines += ["X-Swallow: "]
        return "\r\n".join(lines).encode()

    def around(
        self,
        *lines: str,
        body: bytes = b"",
        start: str = f"POST {BASE_PATH}/init HTTP/1.1",
        host: str = f"Host: {HOST}",
    ) -> bytes:
        """Write the request around it."""
        given = [start, host, f"X-Request-Id: outer-{self.name}", f"Authorization: {self.token}"]
        given += ["Content-Type: application/json", *lines, "", ""]
        return "\r\n".join(given).encode("latin-1") + body


def _length_then_chunks(*lines: str) -> Build:
    """CL.TE: by its length the hidden one is in the body, by its chunks it comes after it."""

    def build(hidden: Hidden) -> bytes:
        body = b"0\r\n\r\n" + bytes(hidden)
        return hidden.around(f"Content-Length: {len(body)}", *lines, body=body)

    return build


def _chunks_then_length(*lines: str) -> Build:
    """TE.CL: by its chunks the hidden one is in the body, by its length it comes after it."""

    def build(hidden: Hidden) -> bytes:
        size = f"{len(bytes(hidden)):x}\r\n".encode()
        body = size + bytes(hidden) + b"\r\n0\r\n\r\n"
        return hidden.around(f"Content-Length: {len(size)}", *lines, body=body)

    return build


def _lengths(*lines: str) -> Build:
    """One length that leaves the hidden one out, or in: ``{n}`` is that with it."""

    def build(hidden: Hidden) -> bytes:
        inside = bytes(hidden)
        return hidden.around(*(line.format(n=len(inside)) for line in lines), body=inside)

    return build


def _chunks(body: bytes, *lines: str) -> Build:
    """Chunks that are no proper ones; ``@`` is the hidden request, ``#`` its length."""

    def build(hidden: Hidden) -> bytes:
        inside = bytes(hidden)
        framed = body.replace(b"#", f"{len(inside):x}".encode()).replace(b"@", inside)
        return hidden.around("Transfer-Encoding: chunked", *lines, body=framed)

    return build


def _after(*lines: str, start: str, host: str = f"Host: {HOST}") -> Build:
    """A request that has no body, as one may think, and the hidden one behind it."""
    return lambda hidden: hidden.around(*lines, start=start, host=host, body=bytes(hidden))


def _within(line: str) -> Build:
    """The hidden one inside a header or the target, behind a line end that is none; ``@`` is it."""

    def build(hidden: Hidden) -> bytes:
        text = bytes(hidden).decode()
        start, _, more = line.partition("|")
        given = [part.replace("@", text) for part in (start, more)]
        return hidden.around(*([given[1]] if more else []), start=given[0])

    return build


_TE = "Transfer-Encoding"
# A field that one reads as chunked, and another one does not see.
_CODINGS: Mapping[str, tuple[str, ...]] = {
    "plain": (f"{_TE}: chunked",),
    "in another case": ("tRANSFER-eNCODING: cHUNKED",),
    "space before the colon": (f"{_TE} : chunked",),
    "tab before the colon": (f"{_TE}\t: chunked",),
    "tab behind the colon": (f"{_TE}:\tchunked",),
    "vertical tab": (f"{_TE}: \x0bchunked",),
    "another word": (f"{_TE}: xchunked",),
    "identity too": (f"{_TE}: identity, chunked",),
    "twice": (f"{_TE}: chunked", f"{_TE}: chunked"),
    "and then identity": (f"{_TE}: chunked", f"{_TE}: identity"),
    "nonsense first": (f"{_TE}: nonsense", f"{_TE}: chunked"),
    "with a comma": (f"{_TE}: ,chunked",),
    "with a parameter": (f"{_TE}: chunked;q=1",),
    "quoted": (f'{_TE}: "chunked"',),
    "folded": (f"{_TE}:", " chunked"),
    "as a continuation": ("X-Fold: x", f" {_TE}: chunked"),
    "behind a line feed": (f"X-Line: x\n{_TE}: chunked",),
    "behind a carriage return": (f"X-Line: x\r{_TE}: chunked",),
    "behind a NUL": (f"X-Line: x\0{_TE}: chunked",),
    "NUL at its end": (f"{_TE}: chunked\0",),
    "an underscore": ("Transfer_Encoding: chunked",),
    "named by Connection": (f"{_TE}: chunked", f"Connection: {_TE}"),
    "the length named by Connection": (f"{_TE}: chunked", "Connection: Content-Length"),
}
_KEY = f"{BASE_PATH}/key"
_SPECIAL: Mapping[str, Build] = {
    "two lengths": _lengths("Content-Length: 0", "Content-Length: {n}"),
    "two lengths, the other way": _lengths("Content-Length: {n}", "Content-Length: 0"),
    "a list of lengths": _lengths("Content-Length: 0, {n}"),
    "a length with plus": _lengths("Content-Length: +0"),
    "a negative length": _lengths("Content-Length: -1"),
    "a length with zeros": _lengths("Content-Length: 00{n}"),
    "a hexadecimal length": _lengths("Content-Length: 0x{n}"),
    "an empty length": _lengths("Content-Length:"),
    "a length with a space": _lengths("Content-Length: 0 {n}"),
    "a length past 64 bits": _lengths("Content-Length: 18446744073709551616"),
    "a length with space before the colon": _lengths("Content-Length : {n}"),
    "a length with an underscore": _lengths("Content_Length: {n}"),
    "a length named by Connection": _lengths("Content-Length: {n}", "Connection: Content-Length"),
    "chunk of 0x": _chunks(b"0x#\r\n@\r\n0\r\n\r\n"),
    "chunk with plus": _chunks(b"+#\r\n@\r\n0\r\n\r\n"),
    "chunk with minus": _chunks(b"-1\r\n@\r\n0\r\n\r\n"),
    "chunk with a space before": _chunks(b" #\r\n@\r\n0\r\n\r\n"),
    "chunk with an underscore": _chunks(b"0_#\r\n@\r\n0\r\n\r\n"),
    "chunk past 64 bits": _chunks(b"10000000000000000\r\n\r\n@"),
    "chunk of no size": _chunks(b"\r\n@\r\n0\r\n\r\n"),
    "chunk too long": _chunks(b"0\r\n@\r\n0\r\n\r\n"),
    "chunk with a line feed": _chunks(b"0\n\n@"),
    "chunk with a carriage return": _chunks(b"0\r\r@"),
    "chunk with an extension": _chunks(b'0;a="\r\n\r\n@"\r\n\r\n'),
    "extension with a line feed": _chunks(b"2;\nxx\r\n#\r\n@\r\n0\r\n\r\n"),
    "chunk ended by two others": _chunks(b"1\r\n{xx#\r\n@\r\n0\r\n\r\n"),
    "trailer with a length": _chunks(b"0\r\nContent-Length: #\r\n\r\n@"),
    "trailer that is a request": _chunks(b"0\r\n@\r\n\r\n"),
    "HTTP/1.0 with chunks": lambda hidden: hidden.around(
        f"{_TE}: chunked",
        "Connection: keep-alive",
        start=f"POST {BASE_PATH}/init HTTP/1.0",
        body=b"0\r\n\r\n" + bytes(hidden),
    ),
    "HTTP/0.9": lambda hidden: f"GET {_KEY}\r\n".encode() + bytes(hidden),
    "HTTP/1.1 with more behind it": _after(start=f"GET {_KEY} HTTP/1.1 HTTP/1.1"),
    "HTTP/2.0 in words": _after(start=f"GET {_KEY} HTTP/2.0"),
    "behind a GET": _after(start=f"GET {_KEY} HTTP/1.1"),
    "in the body of a GET": lambda hidden: hidden.around(
        f"Content-Length: {len(bytes(hidden))}",
        start=f"GET {_KEY} HTTP/1.1",
        body=bytes(hidden),
    ),
    "another host in the target": _after(start=f"GET http://127.0.0.1:3002{_KEY} HTTP/1.1"),
    "two hosts": _after("Host: 127.0.0.1:3002", start=f"GET {_KEY} HTTP/1.1"),
    "no host": _after(start=f"GET {_KEY} HTTP/1.1", host="X-None: x"),
    "a line end in the target": _within(f"GET {_KEY}?\r\nX: y HTTP/1.1"),
    "a line feed in the target": _within(f"GET {_KEY}?\n@ HTTP/1.1"),
    "an escaped line end in the target": _within(f"GET {_KEY}%20HTTP/1.1%0d%0aX:%20y HTTP/1.1"),
    "a space in the target": _within(f"GET {_KEY} /x HTTP/1.1"),
    "a line end in the method": _within(f"GET\r\n{_KEY} HTTP/1.1"),
    "a header that ends twice": _within(f"GET {_KEY} HTTP/1.1|X-Line: a\n\n@"),
    "carriage returns for line ends": _within(f"GET {_KEY} HTTP/1.1|X-Line: a\r\r@"),
    "a name with a line feed": _within(f"GET {_KEY} HTTP/1.1|X\nLine: a"),
    "a header without a name": _within(f"GET {_KEY} HTTP/1.1|: a"),
    "a header without a colon": _within(f"GET {_KEY} HTTP/1.1|nothing"),
    "Expect and a body": lambda hidden: hidden.around(
        "Expect: 100-continue", f"Content-Length: {len(bytes(hidden))}", body=bytes(hidden)
    ),
    "Expect behind a GET": _after("Expect: 100-continue", start=f"GET {_KEY} HTTP/1.1"),
    "another Expect": _after("Expect: y 100-continue", start=f"GET {_KEY} HTTP/1.1"),
    "Upgrade to HTTP/2": _after(
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA",
        start=f"GET {_KEY} HTTP/1.1",
    ),
    "Upgrade to a web socket": _after(
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        start=f"GET {_KEY} HTTP/1.1",
    ),
    "CONNECT": _after(start="CONNECT 127.0.0.1:3002 HTTP/1.1"),
    "PRI": _after(start="PRI * HTTP/2.0"),
}


# What the daemon itself answers to those that are plain HTTP to it; 400, and the end of the
# connection, to all others. The hidden one is behind the first one, by the rules, or in its body.
READABLE: Mapping[str, tuple[int, ...]] = {
    "length, then chunks: an underscore": (200,),
    "a length with zeros": (200,),
    "a length with an underscore": (200, 200),
    "a length named by Connection": (200,),
    "behind a GET": (200, 200),
    "in the body of a GET": (200,),
    "another host in the target": (200, 200),
    "an escaped line end in the target": (404,),
    "Expect and a body": (100, 200),
    "Expect behind a GET": (100, 200, 200),
    "another Expect": (400, 200),
    "CONNECT": (404, 200),
}
# These have the first one answered, and the connection ended.
LAST: Mapping[str, tuple[int, ...]] = {
    "Upgrade to HTTP/2": (200,),
    "Upgrade to a web socket": (200,),
}


def attempts() -> Iterator[tuple[str, Build]]:
    """Give all attempts by name; what is built of each is sent as it is."""
    for name, lines in _CODINGS.items():
        yield f"length, then chunks: {name}", _length_then_chunks(*lines)
        yield f"chunks, then length: {name}", _chunks_then_length(*lines)
    yield from _SPECIAL.items()
