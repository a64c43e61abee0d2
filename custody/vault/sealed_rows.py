"""Rows as everything above sees them: judged when they are read, sealed when they are stored."""

from custody.audit.events import Event
from custody.vault.model import Caller, Vault
from custody.vault.rows import VaultRows
from custody.vault.sealed_state import state_digest
from custody.vault.seals import Seals, state_of


class SealedRows:
    """The vaults of the database, believed as far as their seals hold.

    Args:
        rows: the database side.
        seals: say which rows are believed, and seal what is stored.
    """

    def __init__(self, rows: VaultRows, seals: Seals) -> None:
        self._rows = rows
        self._seals = seals

    async def read(self, caller: Caller) -> tuple[Vault | None, float]:
        """Return the caller's vault, and what the database's clock says (seconds since 1970).

        Raises:
            UserUnknown: there is no vault, and someone else's auth.users does not know the user.
            RowTampered, LegacyRow: what is there is not believed.
            KekUnavailable: it can't be judged now.
            DatabaseUnavailable, Overloaded: try again later.
        """
        found = await self._rows.read(caller)
        if found.row is None:
            return None, found.clock
        return await self._seals.judge(caller, found.row), found.clock

    async def create(self, caller: Caller, done: Event, vault: Vault) -> bool:
        """Store the user's first vault, with its audit row; see :meth:`VaultRows.create`.

        Raises:
            KekUnavailable: no data key is open.
        """
        seal = self._seals.seal(caller.user_id, vault)
        return await self._rows.create(caller, _leaving(caller, done, vault), vault, seal)

    async def store(self, caller: Caller, done: Event, after: Vault) -> bool:
        """Store a vault as it is to be, with its audit row; see :meth:`VaultRows.store`.

        Args:
            caller: whose vault.
            done: the audit row.
            after: made of the vault as it was read.

        Raises:
            KekUnavailable: no data key is open.
        """
        # As the database counts it: one more with each change.
        after = after._replace(seal_serial=after.seal_serial + 1)
        seal = self._seals.seal(caller.user_id, after)
        return await self._rows.store(caller, _leaving(caller, done, after), after, seal)


def _leaving(caller: Caller, done: Event, vault: Vault) -> Event:
    """Return the audit row of a change with the state in which it leaves the vault."""
    return done._replace(state=state_digest(caller.user_id, state_of(vault)))
