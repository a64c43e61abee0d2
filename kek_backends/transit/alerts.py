"""Why a server ended a TLS connection: it says so, and is asked for it where a write fails."""

import contextlib
import ssl
from typing import Any


def hear(manager: Any) -> None:
    """Have the connections of a pool manager tell a server's alert, not that they were ended.

    With TLS 1.3 a client learns only after the handshake that its certificate was refused. By then
    it writes, which fails, and the alert lies unread.

    Args:
        manager: an ``urllib3.PoolManager``.
    """
    pool = manager.pool_classes_by_scheme["https"]

    def send(connection: Any, data: Any) -> None:
        try:
            pool.ConnectionCls.send(connection, data)
        except (ssl.SSLEOFError, ConnectionError):
            if connection.sock is not None:
                with contextlib.suppress(ssl.SSLEOFError, ConnectionError, TimeoutError):
                    connection.sock.recv(1)
            raise

    connection = type("Connection", (pool.ConnectionCls,), {"send": send})
    told = type("Pool", (pool,), {"ConnectionCls": connection})
    manager.pool_classes_by_scheme = manager.pool_classes_by_scheme | {"https": told}
