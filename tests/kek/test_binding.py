"""What a wrap is bound to, as bytes and as names: no two bindings are alike."""

from hypothesis import given
from hypothesis import strategies as st

from kek_backends.aead import associated_data
from kek_backends.aws.key import context
from kek_backends.binding import Binding, Purpose
from tests.bindings import of

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
generations = st.integers(0, 2**63 - 1)
# A data key has no generation.
of_users = st.builds(Binding, texts, generations, st.just(Purpose.MASTER_KEY))
bindings = of_users | st.builds(Binding.of_data_key, texts)


def test_bytes_as_rows_are_bound_by_them() -> None:
    """A change here would make every row of format 3 unreadable."""
    expected = (
        b"\0\0\0\x0fcustody wrap v3\0\0\0\x0amaster key\0\0\0\x06\xc3\xa4lice\0\0\0\x0217"
        b"\0\0\0\x06env-v1"
    )
    assert Binding("älice", 17).encode("env-v1") == expected
    expected = b"\0\0\0\x0fcustody wrap v3\0\0\0\x08data key\0\0\0\x04dk-1\0\0\0\x010"
    assert Binding.of_data_key("dk-1").encode() == expected


@given(bindings, bindings, texts, texts)
def test_bytes_are_injective(one: Binding, other: Binding, kek_id: str, another: str) -> None:
    same = (one, kek_id) == (other, another)
    assert (one.encode(kek_id) == other.encode(another)) is same
    assert (one.encode() == other.encode()) is (one == other)
    assert one.encode() != other.encode(kek_id)


@given(bindings, texts, texts)
def test_no_binding_is_what_format_2_binds_to(one: Binding, user_id: str, kek_id: str) -> None:
    """Neither the bare user id, as in transit, nor the associated data of local wraps."""
    assert one.encode() != user_id.encode()
    assert one.encode(kek_id) != associated_data(user_id, kek_id)


@given(bindings, bindings, texts)
def test_names_for_a_kms_are_injective(one: Binding, other: Binding, user_id: str) -> None:
    assert (one.context == other.context) is (one == other)
    assert context(one, 3) == one.context != context(of(user_id), 2) == {"custody:user": user_id}


def test_names_for_a_kms() -> None:
    user = {"custody:format": "3", "custody:user": "alice", "custody:generation": "7"}
    assert of("alice").context == user
    data_key = {"custody:format": "3", "custody:data-key": "dk-1"}
    assert Binding.of_data_key("dk-1").context == data_key
    assert Binding.of_data_key("dk-1").purpose is Purpose.DATA_KEY
