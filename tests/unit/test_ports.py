"""A port that one test was given is nobody else's: no connection's, and no other process's."""

import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.servers import ROOT

ALL = 600  # more than a process has
HANDED_OUT = Path("/proc/sys/net/ipv4/ip_local_port_range")


def test_linux_hands_it_to_no_connection() -> None:
    first, last = (int(word) for word in HANDED_OUT.read_text().split())
    if first < 32768:
        pytest.skip(f"this machine hands out {first} to {last}, others than Linux does by itself")
    assert not first <= free_port() <= last


def test_it_is_not_given_twice_in_a_row() -> None:
    ports = [free_port() for _ in range(100)]
    assert len(set(ports)) == len(ports)


def test_what_is_in_use_is_left_out() -> None:
    taken = free_port()
    with socket.create_server(("127.0.0.1", taken)):
        given = [free_port() for _ in range(ALL)]
    assert given.count(given[0]) > 1
    assert taken not in given


def test_processes_have_ports_of_their_own() -> None:
    """Also when both ask for the same ones first."""
    ask = (
        "import random; random.sample = lambda blocks, _: list(blocks);"
        " from tests.ports import free_port;"
        f" print(*(free_port() for _ in range({ALL})), flush=True); input()"
    )
    with ExitStack() as held:
        given = []
        for _ in range(2):
            process = subprocess.Popen(
                [sys.executable, "-c", ask],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            held.callback(process.communicate, "\n", timeout=60)
            assert process.stdout is not None
            given.append({int(word) for word in process.stdout.readline().split()})
    assert all(len(ports) > 100 for ports in given)
    assert given[0].isdisjoint(given[1])
