"""The seal of an audit row: made by the daemon that writes the row, so that nobody else can.

Address and user agent are in it by a keyed hash of their own: they can be taken out of a row after
some time, and the seal still holds. The hash takes in the row's id: nothing shows then which rows
are of one client.
"""

import hmac
from collections.abc import Mapping
from functools import lru_cache
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
        return None if key is None else _seal(key, event)

    def judge(self, row: Mapping[str, Any]) -> bool | None:
        """Say whether a row is as a daemon has written it; None: its data key is not open here.

        Not judged: its number and its time, which are the database's word.

        Args:
            row: with a seal, and the columns of the table, whatever they hold.
        """
        seal: bytes = row["seal"]
        key = self._ring.find_by_hint(hint_of_seal(seal))
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
        expected = _seal(key, event, seal[_CLIENT].hex() if is_taken_out else None)
        return len(seal) == _SIZE and hmac.compare_digest(seal.hex(), expected)


def hint_of_seal(seal: bytes) -> str:
    """Return what a seal says which data key made it: 8 hexadecimal digits.

    Args:
        seal: whatever it is.
    """
    return seal[_KEY].hex()


def _seal(key: DataKey, event: Event, client: str | None = None) -> str:
    """Return a seal, with the hash of a client that is known by nothing else, or with its own."""
    # On the way of each request for a key: nothing is made twice.
    id_, user_id, ip_address, user_agent, action, context, status, state = event
    id_, mac_of = field(id_), key.audit_row.of
    if client is None:
        message = f"client{id_}{field(ip_address)}{field(user_agent)}"
        client = mac_of(message.encode())[:_HALF]
    message = f"row{id_}{field(user_id)}{_done(action, context, status)}{field(state)}{client}"
    return f"{key.audit_hint}{client}{mac_of(message.encode())[:_HALF]}"


# Of a few dozen that there are; a row of the database that says something else has its turn too.
@lru_cache(256)
def _done(action: str, context: str | None, status: int) -> str:
    return f"{field(action)}{field(context)}{field(str(status))}"
