"""How requests go over the network: HTTP/1.1 by the standard library, TLS always verified."""

import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, Protocol
from urllib.parse import urlsplit

from custody.client.errors import BadAnswer, NotTrusted, Unreachable
from custody.client.exchange import Request, Response

PATH: Final = "/api/v1/me/encryption-vault"
# 200 audit rows with user agents as long as they may be.
LARGEST_ANSWER: Final = 1024 * 1024


class Transport(Protocol):
    """Sends one request once."""

    def send(self, request: Request) -> Response:
        """Return the answer.

        Raises:
            Unreachable: none came in time.
            NotTrusted: it is not the daemon that answers, or its authority is not trusted.
            BadAnswer: it is too large, or no HTTP.
        """


class HttpTransport:
    """A connection a request; no redirects, no proxies, a bound on what comes back.

    Args:
        base: the daemon, as ``https://vault.example``; ``http:`` only on loopback.
        tls: to trust an authority of one's own; it must verify.
        timeout: seconds for one request.
    """

    def __init__(
        self, base: str, *, tls: ssl.SSLContext | None = None, timeout: float = 15.0
    ) -> None:
        url = urlsplit(base)
        if url.scheme not in ("https", "http") or not url.hostname or url.username or url.query:
            raise ValueError("the address is https://HOST[:PORT]")
        if url.scheme == "http" and not _loopback(url.hostname):
            raise ValueError("http: is for loopback only: keys would cross the network in clear")
        self._tls = tls or ssl.create_default_context()
        if self._tls.verify_mode != ssl.CERT_REQUIRED or not self._tls.check_hostname:
            raise ValueError("the TLS context does not verify")
        self._host, self._port, self._secure = url.hostname, url.port, url.scheme == "https"
        self._prefix = url.path.rstrip("/") + PATH
        self._timeout = timeout

    def send(self, request: Request) -> Response:
        """Send it, as ``Transport`` says."""
        connection = self._connection()
        headers = {"Authorization": f"Bearer {request.token}", "Accept": "application/json"}
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        if request.if_match is not None:
            headers["If-Match"] = request.if_match
        path = self._prefix + request.path
        try:
            with _cut_after(self._timeout, connection):
                connection.request(request.method, path, request.body, headers)
                # Closed by itself: until then it holds the connection's socket open.
                with connection.getresponse() as answer:
                    body = _read(answer)
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Response(answer.status, names, body)
        except ssl.SSLCertVerificationError:
            raise NotTrusted from None
        except OSError:
            raise Unreachable from None
        except ValueError:
            # http.client would quote the header.
            raise ValueError("the token is no value of a header") from None
        except http.client.HTTPException:
            raise Unreachable from None
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self._secure:
            return _TlsConnection(self._host, self._port, self._timeout, self._tls)
        return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)


class _TlsConnection(http.client.HTTPSConnection):
    """Its socket can be reached while the handshake goes on, to be cut."""

    def __init__(self, host: str, port: int | None, seconds: float, tls: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=seconds, context=tls)
        self._tls = tls

    def connect(self) -> None:
        """Connect, then shake hands."""
        http.client.HTTPConnection.connect(self)
        tls = self._tls.wrap_socket(
            self.sock, server_hostname=self.host, do_handshake_on_connect=False
        )
        self.sock = tls
        tls.do_handshake()


@contextmanager
def _cut_after(seconds: float, connection: http.client.HTTPConnection) -> Iterator[None]:
    """End a connection that is still in use then: its own timeout begins anew with each byte."""

    def cut() -> None:
        with suppress(OSError, AttributeError):  # there is none, or none any more
            # Not TLS's own: that would wait for the other side.
            socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _read(answer: http.client.HTTPResponse) -> bytes:
    body = b""
    while piece := answer.read1(LARGEST_ANSWER):
        body += piece
        if len(body) > LARGEST_ANSWER:
            raise BadAnswer
    if answer.length:
        raise Unreachable
    return body


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
