"""Whose word counts in the audit: of the data keys that are open, and of those that were ended."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from custody.audit.checkpoint import Checkpoint, MalformedCheckpoint
from custody.audit.ended_key import believed
from custody.audit.note import (
    MalformedNote,
    UnknownKeys,
    Verifier,
    WrongSignature,
    open_note,
    parse,
)
from custody.audit.row_seal import hint_of_seal
from custody.datakeys.data_key import DataKey, hint_of


class Word(StrEnum):
    """Who says what a checkpoint says."""

    # A data key that is open here.
    OURS = "ours"
    # A data key that was ended: one that is open says so.
    ENDED = "ended"
    # A data key that is not open here, maybe: not all that there are can be opened.
    UNKNOWN = "unknown"
    # Nobody: it is not what was signed, or by no data key of ours.
    NOBODY = "nobody"


class Keys:
    """The data keys by which checkpoints and rows are known.

    Args:
        open_keys: those that are open here.
        words: what data keys said of those that were ended, the oldest first.
        is_all: whether no other data key is on record: who is not among these is nobody.
    """

    def __init__(
        self, open_keys: Sequence[DataKey] = (), words: Sequence[str] = (), *, is_all: bool = False
    ) -> None:
        self.ended = believed(words, open_keys)
        self.is_all = is_all
        self._publics = (
            (Word.OURS, [key.audit_signer.public_key() for key in open_keys]),
            (Word.ENDED, [key.verifier for key in self.ended]),
        )
        self._last_rows: dict[str, int] = {}
        for key in self.ended:
            hint = hint_of(key.id)
            self._last_rows[hint] = max(key.last_row, self._last_rows.get(hint, 0))

    def read(self, note: str) -> tuple[Checkpoint | None, Word]:
        """Return what a checkpoint says, None where it is none, and whose word it is.

        Args:
            note: whatever the database holds.
        """
        try:
            said = Checkpoint.parse(parse(note).text)
        except (MalformedNote, MalformedCheckpoint):
            return None, Word.NOBODY
        return said, self.word_of(note, said.origin)

    def word_of(self, note: str, origin: str) -> Word:
        """Return whose word a note is.

        Args:
            note: it, with its signatures.
            origin: of the log that it is about.

        Raises:
            MalformedNote: it is none.
        """
        for word, publics in self._publics:
            try:
                open_note(note, [Verifier(origin, public) for public in publics])
            except UnknownKeys:
                continue
            except WrongSignature:
                return Word.NOBODY
            return word
        return Word.NOBODY if self.is_all else Word.UNKNOWN

    def was_sealed_before_an_end(self, row: Mapping[str, Any]) -> bool:
        """Say whether a row names a data key that was ended, and not before the row was written.

        Nobody can check its seal any more: that the row is what it was, only the tree shows.

        Args:
            row: with a seal by a data key that is not open.
        """
        last_row = self._last_rows.get(hint_of_seal(row["seal"]))
        return last_row is not None and row["number"] <= last_row
