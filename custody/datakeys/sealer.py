"""The seals of records: made and judged by the data keys of this process."""

from custody.datakeys.data_key import PREFIX_SIZE, DataKey, id_of
from custody.datakeys.encoding import fields
from custody.datakeys.ring import Ring


class Sealer:
    """Seals records: what :class:`custody.keks.registry.KekRegistry` asks for.

    Args:
        ring: the data keys.
    """

    def __init__(self, ring: Ring) -> None:
        self._ring = ring

    def seal(self, *values: str | None) -> str | None:
        """Return the seal of a record, or None while no data key is open.

        Args:
            values: a label, and what is sealed: for one label always as many.
        """
        key = self._ring.current
        return None if key is None else key.prefix + key.record_seal.of(_message(key, values))

    def judge(self, seal: str | None, *values: str | None) -> bool | None:
        """Say whether a seal is that of a record; None where it can't be judged now.

        Args:
            seal: as the record has it, whatever that is; None: it has none.
            values: as for :meth:`seal`.
        """
        prefix, mac = (seal or "")[:PREFIX_SIZE], (seal or "")[PREFIX_SIZE:]
        if (key := self._ring.find(prefix)) is not None:
            return key.record_seal.is_mac(mac, _message(key, values))
        key_id = id_of(prefix)
        waits = key_id is not None and self._ring.reason(key_id) is not None
        return None if waits or self._ring.current is None else False


def _message(key: DataKey, values: tuple[str | None, ...]) -> bytes:
    """Return what is sealed: the label, the data key, and the rest."""
    label, *rest = values
    return fields(label, key.id, *rest)
