"""Ports on loopback for servers that are told where to listen, and for where nobody does."""

import asyncio
import itertools
import random
import socket
from functools import cache

# Below those that Linux hands out by itself (32768 to 60999, ip_local_port_range): a connection
# of another test never gets one of these as its own end.
_FIRST = 10_000
_BLOCK = 500
_BLOCKS = 45


def free_port() -> int:
    """Return a TCP port where nobody listens, and that no other process of tests is given.

    It stays so until its test listens there, also after a while and between two servers. This
    process is given it again once it was given all others of its block.
    """
    for port in itertools.islice(_ports(), _BLOCK):
        if _binds(port, socket.SOCK_STREAM):
            return port
    raise AssertionError(f"not one of {_BLOCK} ports is free")


@cache
def _ports() -> "itertools.cycle[int]":
    blocks = range(_FIRST, _FIRST + _BLOCKS * _BLOCK, _BLOCK)
    for first in random.sample(blocks, _BLOCKS):
        # The UDP port stands for all: one process has it at a time, until it ends.
        if _binds(first, socket.SOCK_DGRAM, keep=True):
            return itertools.cycle(range(first, first + _BLOCK))
    raise AssertionError(f"{_BLOCKS} processes of tests have all ports between them")


def _binds(port: int, kind: socket.SocketKind, *, keep: bool = False) -> bool:
    """Say whether nobody has a port; where it is kept, nobody else has it until we end."""
    with socket.socket(type=kind) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        if keep:
            probe.detach()
    return True


async def stop_listening(server: asyncio.Server) -> None:
    """Close a server, and leave no connection that it has just taken half made.

    Before Python 3.12 one that was accepted, and whose transport is made after the server was
    closed, is left open.

    Args:
        server: of this event loop; it has been started.
    """
    for one in server.sockets:
        asyncio.get_running_loop().remove_reader(one.fileno())
    # The turns of the loop from a connection that is taken to its transport.
    for _ in range(3):
        await asyncio.sleep(0)
    server.close()
