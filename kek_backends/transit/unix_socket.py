"""HTTP to a socket of this host: an agent's, for example."""

import socket
from typing import Any

from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import NewConnectionError


def pool_to(path: str) -> type[HTTPConnectionPool]:
    """Return the class of pools whose connections all lead to a socket.

    Args:
        path: of the socket.
    """

    class Connection(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            made = socket.socket(socket.AF_UNIX)
            try:
                timeout: Any = self.timeout
                made.settimeout(timeout)
                made.connect(path)
            except OSError as error:
                made.close()
                raise NewConnectionError(self, "the socket can't be reached") from error
            return made

    class Pool(HTTPConnectionPool):
        ConnectionCls = Connection

    return Pool
