"""The seals of the registry's records: made and judged by the data keys of this process."""

from custody.datakeys.data_key import PREFIX_SIZE, id_of
from custody.datakeys.encoding import fields
from custody.datakeys.ring import Ring

_KEK_RECORD = "custody kek record v1"


class Sealer:
    """Seals records of KEKs; what :class:`custody.keks.registry.KekRegistry` asks for.

    Args:
        ring: the data keys.
    """

    def __init__(self, ring: Ring) -> None:
        self._ring = ring

    def seal(self, *values: str | None) -> str | None:
        """Return the seal of a record, or None while no data key is open.

        Args:
            values: of the record, always as many and in the same order.
        """
        key = self._ring.newest
        if key is None:
            return None
        return key.prefix + key.record_seal.of(fields(_KEK_RECORD, key.id, *values))

    def judge(self, seal: str | None, *values: str | None) -> bool | None:
        """Say whether a seal is that of a record; None where it can't be judged now.

        Args:
            seal: as the record has it, whatever that is; None: it has none.
            values: as for :meth:`seal`.
        """
        prefix, mac = (seal or "")[:PREFIX_SIZE], (seal or "")[PREFIX_SIZE:]
        key = self._ring.find(prefix)
        if key is not None:
            return key.record_seal.is_mac(mac, fields(_KEK_RECORD, key.id, *values))
        key_id = id_of(prefix)
        waits = key_id is not None and self._ring.reason(key_id) is not None
        return None if waits or self._ring.newest is None else False

    def has_opened_with(self, kek_id: str) -> bool:
        """Say whether a KEK has opened a data key that is in use here: then it is the right one."""
        return self._ring.has_opened_with(kek_id)
