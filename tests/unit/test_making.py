"""A new data key: nothing is returned that would not open again, and nothing is waited for long."""

import pytest

from custody.datakeys import making
from custody.datakeys.data_key import made_at
from custody.datakeys.making import make_data_key
from kek_backends.base import Binding, Wrap
from kek_backends.errors import Misconfigured, Transient
from kek_backends.keyring import Keyring
from kek_backends.uri import KekUri
from tests.datakeys import KEY
from tests.failing_kek import FailingKek

# Of the year 2100: after any clock that runs today.
LATER = "dk-03bb2cc3d80070008000000000000001"


class Forgetful(FailingKek):
    """Opens what it wraps to another key."""

    async def _unwrap(self, binding: Binding, wrap: Wrap) -> bytes:
        return bytes(32)


def keyring(kind: type[FailingKek]) -> tuple[FailingKek, Keyring]:
    kek = kind(uri=KekUri.parse("env:K"), kek_id="k", key=KEY, development=False)
    return kek, Keyring(kek)


async def test_it_opens_and_comes_after() -> None:
    kek, keys = keyring(FailingKek)
    key, wrap = await make_data_key(keys, after=LATER)
    opened = await kek.unwrap(Binding.of_data_key(key.id), wrap)
    assert type(key).of(key.id, opened).is_of(key.own_seal)
    # Also where the clock was set back.
    assert made_at(key.id) > made_at(LATER)


async def test_a_wrap_of_another_key_is_refused() -> None:
    with pytest.raises(Misconfigured, match="what it wraps opens to another key"):
        await make_data_key(keyring(Forgetful)[1])


async def test_a_kek_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "_SECONDS", 0.05)
    kek, keys = keyring(FailingKek)
    kek.hangs = True
    with pytest.raises(Transient, match="KEK env:K: no answer in time"):
        await make_data_key(keys)
