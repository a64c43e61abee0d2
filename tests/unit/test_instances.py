"""Whether another daemon reads and writes what this process does."""

import pytest

from custody.keks.instances import Instance

ENVELOPE = "env:NEW?mode=envelope"


def instance(uri: str, kek_id: str | None, active: str | None) -> Instance:
    return Instance(
        id="i1",
        host="far",
        process=7,
        writes_uri=uri,
        writes_kek_id=kek_id,
        active_kek_id=active,
        seals_with=None,
        reads=("env:NEW", "new"),
    )


@pytest.mark.parametrize(
    ("other", "agrees"),
    [
        (instance(ENVELOPE, "dk-1", "new"), True),
        # Its URI says it all, whatever it has reached.
        (instance(ENVELOPE, None, None), True),
        # Another name of the same KEK.
        (instance("env:ALSO_NEW?mode=envelope", "dk-1", "new"), True),
        # A release that says nothing of data keys.
        (instance("env:ALSO_NEW?mode=envelope", "dk-1", None), True),
        # The same data key, which it has wrapped under another KEK.
        (instance("env:OLD?mode=envelope", "dk-1", "old"), False),
        (instance("env:NEW", "new", "new"), False),
        (instance("env:NEW", None, "new"), False),
        (instance("vault:t/k", None, None), False),
    ],
)
def test_writes(other: Instance, agrees: bool) -> None:
    assert other.writes(ENVELOPE, "dk-1", "new") is agrees
    # While no data key is open here, nothing that is unknown there is the same.
    assert other.writes(ENVELOPE, None, "new") is (other.writes_uri == ENVELOPE)


def test_reads() -> None:
    other = instance(ENVELOPE, "dk-1", "new")
    assert other.can_read("env:NEW", "moved")
    assert other.can_read("env:ANOTHER_NAME", "new")
    assert not other.can_read("env:OLD", "old")
