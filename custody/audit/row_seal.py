"""The seal of an audit row: made by the daemon that writes the row, so that nobody else can.

Address and user agent are in it by a keyed hash of their own: they can be taken out of a row after
some time, and the seal still holds. The hash takes in the row's id: nothing shows then which rows
are of one client.
"""

import hmac
from collections.abc import Mapping
from typing import Any

from custody.audit.events import Event
from custody.datakeys.data_key import DataKey
from custody.datakeys.encoding import field
from custody.datakeys.ring import Ring

# 4 bytes name the data key, 16 are the keyed hash of the client, 16 the MAC.
_SIZE = 36
_KEY, _CLIENT = slice(0, 4), slice(4, 20)
# In hexadecimal digits: HMAC-SHA-256 cut to half its length (RFC 2104, section 5).
_HALF = 32


class RowSeals:
    """Makes and judges the seals of audit rows.

    Args:
        ring: the data keys.
    """

    def __init__(self, ring: Ring) -> None:
        self._ring = ring

    def of(self, event: Event) -> str | None:
        """Return the seal of a row that is to be written: 72 hexadecimal digits.

        None while no data key is open: a refusal is recorded without a seal, and no key leaves.

        Args:
            event: what is recorded.
        """
        key = self._ring.current
        return None if key is None else _seal(key, event, _client(key, event))

    def judge(self, row: Mapping[str, Any]) -> bool | None:
        """Say whether a row is as a daemon has written it; None: its data key is not open here.

        Not judged: its number and its time, which are the database's word.

        Args:
            row: with a seal, and the columns of the table, whatever they hold.
        """
        seal: bytes = row["seal"]
        key = self._ring.find_by_hint(seal[_KEY].hex())
        if key is None:
            return None
        event = Event(
            row["id"],
            row["user_id"],
            row["ip_address"],
            row["user_agent"],
            row["action"],
            row["context"],
            row["status"],
            row["state"],
        )
        # Of a client that was taken out of the row only its hash is left, which the MAC holds.
        is_taken_out = event.ip_address is None and event.user_agent is None
        client = seal[_CLIENT].hex() if is_taken_out else _client(key, event)
        return len(seal) == _SIZE and hmac.compare_digest(seal.hex(), _seal(key, event, client))


def _client(key: DataKey, event: Event) -> str:
    parts = field(event.id), field(event.ip_address), field(event.user_agent)
    return key.audit_row.of("client{}{}{}".format(*parts).encode())[:_HALF]


def _seal(key: DataKey, event: Event, client: str) -> str:
    id_, user_id, _, _, action, context, status, state = event
    message = (
        f"row{field(id_)}{field(user_id)}{field(action)}{field(context)}"
        f"{field(str(status))}{field(state)}{client}"
    )
    return f"{key.audit_hint}{client}{key.audit_row.of(message.encode())[:_HALF]}"
