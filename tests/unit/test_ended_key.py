"""Which data keys that were ended are believed: those to which a chain of words leads."""

import pytest

from custody.audit.checkpoint import Checkpoint, MalformedCheckpoint
from custody.audit.ended_key import EndedKey, believed, word_of_end
from custody.audit.note import Signer, parse, sign
from custody.datakeys.data_key import DataKey

FIRST, SECOND, THIRD, HIS = (DataKey.of(f"dk-{one * 32}", one.encode() * 32) for one in "1239")
OF_FIRST, OF_SECOND = word_of_end(FIRST, 10, SECOND), word_of_end(SECOND, 20, THIRD)


def ids(words: list[str], *keys: DataKey) -> list[tuple[str, int]]:
    return [(key.id, key.last_row) for key in believed(words, keys)]


def test_a_word_is_read_as_it_was_written() -> None:
    (found,) = believed([OF_FIRST], [SECOND])
    assert found == EndedKey.parse(found.text)
    assert (found.id, found.last_row) == (FIRST.id, 10)
    assert found.verifier == FIRST.audit_signer.public_key()
    assert "\n" + FIRST.id + "\n" in OF_FIRST
    assert len(OF_FIRST) < 1000  # what the database takes


def test_a_chain_leads_to_the_first() -> None:
    assert ids([OF_FIRST, OF_SECOND], THIRD) == [(SECOND.id, 20), (FIRST.id, 10)]
    assert ids([OF_FIRST], THIRD) == []
    assert ids([OF_SECOND], THIRD) == [(SECOND.id, 20)]


@pytest.mark.parametrize(
    "word",
    [
        "",
        "junk",
        OF_FIRST.replace("last-row 10", "last-row 11"),
        OF_FIRST.replace("1" * 32, "4" * 32),
        word_of_end(HIS, 10, HIS),
        word_of_end(FIRST, 10, HIS),
        sign("other\n", Signer("custody-audit-ended-key", SECOND.audit_signer)),
        sign(parse(OF_FIRST).text, Signer("other", SECOND.audit_signer)),
    ],
)
def test_what_none_of_ours_has_said_is_not_believed(word: str) -> None:
    assert ids([word], SECOND) == []
    assert ids([word, OF_FIRST, word], SECOND) == [(FIRST.id, 10)]


def test_an_ended_data_key_that_somebody_knows_speaks_of_nothing_behind_its_end() -> None:
    assert ids([word_of_end(HIS, 10, FIRST), OF_FIRST], SECOND) == [(FIRST.id, 10), (HIS.id, 10)]
    assert ids([word_of_end(HIS, 11, FIRST), OF_FIRST], SECOND) == [(FIRST.id, 10)]


def test_a_word_is_no_checkpoint_and_a_checkpoint_no_word() -> None:
    with pytest.raises(MalformedCheckpoint):
        Checkpoint.parse(parse(OF_FIRST).text)
    said = Checkpoint("custody-audit-ended-key", 1, bytes(32), 1)
    assert ids([sign(said.text, Signer(said.origin, SECOND.audit_signer))], SECOND) == []
