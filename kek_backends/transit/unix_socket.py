"""HTTP to a socket of this host: an agent's, for example."""

import socket
from typing import Any


def lead_to(path: str, manager: Any) -> None:
    """Have all connections of a pool manager lead to a socket.

    Args:
        path: of the socket.
        manager: an ``urllib3.PoolManager``; what it says of hosts and ports counts no more.
    """
    pool = manager.pool_classes_by_scheme["http"]

    def connect(connection: Any) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        try:
            made.settimeout(connection.timeout)
            made.connect(path)
        except OSError:
            made.close()
            raise
        return made

    connection = type("Connection", (pool.ConnectionCls,), {"_new_conn": connect})
    there = type("Pool", (pool,), {"ConnectionCls": connection})
    manager.pool_classes_by_scheme = {"http": there}
