"""Stubs of the KMS that no real server can be had of."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.kek.azure_stub import AzureStub, azure_stub
from tests.kek.gcp_stub import GcpStub, gcp_stub


@dataclass(frozen=True)
class Clouds:
    """They answer by the documented protocols of those whose names they bear."""

    azure: AzureStub
    gcp: GcpStub


@contextmanager
def cloud_stubs(folder: Path) -> Iterator[Clouds]:
    """Run them for the length of the block."""
    with azure_stub(folder) as azure, gcp_stub() as gcp:
        yield Clouds(azure, gcp)
