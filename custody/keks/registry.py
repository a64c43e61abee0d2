"""The registry of KEKs: a kek_id can never come to mean other key material, nor return retired.

What a kek_id stands for is kept in the database. Before this process stores a wrap under a kek_id
it has compared the KEK with the registry, and recorded it there.
"""

import hmac
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from custody.db.checkout import acquire
from custody.db.queries import query
from custody.db.scope import transaction
from kek_backends.base import KekBackend, Wrap
from kek_backends.binding import Binding
from kek_backends.errors import KekError, Misconfigured, Tampered
from kek_backends.keyring import Keyring

RETIRED = "retired"
_REGISTER_SECONDS = 3.0

log = structlog.get_logger()


class KekRegistry:
    """The configured KEKs, compared with what the database knows of them.

    Args:
        engine: connections of the role custody_app.
        keyring: the configured KEKs.
    """

    def __init__(self, engine: AsyncEngine, keyring: Keyring) -> None:
        self._engine = engine
        self._keyring = keyring
        # The kek_ids that were compared with the registry, with the fingerprint they had then, and
        # the one of them that was recorded as active last.
        self._admitted: dict[str, str] = {}
        self._active: str | None = None
        # Those whose record was there before, and is right.
        self._proven: set[str] = set()
        self._problems: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """Rows that no configured KEK can unwrap, and KEKs that are not what is recorded."""
        return self._problems

    def is_proven(self, kek_id: str) -> bool:
        """Say whether a KEK was seen to be the one that its kek_id stands for."""
        return kek_id in self._proven

    async def check(self) -> None:
        """Compare every KEK with the registry, and record what is new.

        A KMS that has not answered yet says nothing of its kek_ids: it is left for later.

        Raises:
            Misconfigured: a KEK is not the one that its kek_id stands for, or the active one is
                retired.
            DatabaseError: the database can't be asked now.
        """
        in_use = await kek_ids_in_use(self._engine)
        refused = [*self._doubles(), *await self._retired()]
        for backend in self._keyring:
            if backend.kek_id is None:
                continue
            for kek_id in {backend.kek_id} | {used for used in in_use if backend.holds(used)}:
                if kek_id != backend.kek_id and backend.fingerprint(kek_id) is None:
                    continue  # nothing can be said of it now; it was recorded while it wrapped
                try:
                    await self._admit(backend, kek_id)
                except Misconfigured as error:
                    refused.append(str(error))
                except KekError:
                    # The KMS can't prove it now. It is checked again, and before it wraps anyway.
                    continue
        refused = list(dict.fromkeys(refused))
        self._report((*refused, *unreadable(self._keyring, in_use)))
        if refused:
            raise Misconfigured("; ".join(refused))

    async def admit(self, kek_id: str) -> None:
        """Make sure that a wrap under this kek_id may be stored; cheap where that is known.

        Raises:
            Misconfigured: other key material is recorded under it, or it is retired.
            KekError: the KMS can't be asked now.
            DatabaseError: the database can't be asked now.
        """
        backend = self._keyring.find(kek_id)
        if backend is None:
            raise Misconfigured(f"no configured KEK holds {kek_id}")
        await self._admit(backend, kek_id)

    async def _admit(self, backend: KekBackend, kek_id: str) -> None:
        # Read once: a KMS may answer otherwise in the next moment. Where nothing of the material
        # can be seen, the id that the KMS gave stands for it.
        fingerprint = backend.fingerprint(kek_id) or kek_id
        active = backend is self._keyring.active and kek_id == backend.kek_id
        if self._admitted.get(kek_id) == fingerprint and (not active or kek_id == self._active):
            return
        if await compare(self._engine, backend, kek_id, fingerprint):
            self._proven.add(kek_id)
        parameters = kek_id, backend.uri.scheme, backend.uri.text, fingerprint, active
        async with transaction(self._engine, _REGISTER_SECONDS) as connection:
            (recorded,) = await connection.fetch(query("register_kek"), *parameters)
        # Another instance may have recorded another one first: then we are wrong.
        _compare_fingerprint(backend, kek_id, fingerprint, recorded["fingerprint"])
        if active:
            if recorded["state"] == RETIRED:
                raise Misconfigured(retired(backend, kek_id))
            self._active = kek_id
        self._admitted[kek_id] = fingerprint

    async def _retired(self) -> list[str]:
        """Say whether the active KEK was retired under us: then nothing is wrapped any more."""
        active = self._keyring.active
        if active.kek_id is None or not await is_retired(self._engine, active.kek_id):
            return []
        self._admitted.pop(active.kek_id, None)
        return [retired(active, active.kek_id)]

    def _doubles(self) -> list[str]:
        """Name two KEKs that have come to share a kek_id, and are not the same key."""
        found = []
        for backend in self._keyring:
            kek_id = backend.kek_id
            other = None if kek_id is None else self._keyring.find(kek_id)
            if kek_id is None or other is None or other is backend:
                continue
            if other.fingerprint(kek_id) != backend.fingerprint(kek_id):
                found.append(
                    f"KEK {backend.uri.text} and KEK {other.uri.text} share the kek_id {kek_id}: "
                    "remove one"
                )
        return found

    def _report(self, problems: tuple[str, ...]) -> None:
        for problem in problems:
            if problem not in self._problems:
                log.error("kek_problem", problem=problem)
        self._problems = problems


async def kek_ids_in_use(engine: AsyncEngine) -> tuple[str, ...]:
    """Return the kek_ids that rows with a wrap carry.

    Args:
        engine: connections of a runtime role.
    """
    async with acquire(engine) as connection:
        return tuple(row[0] for row in await connection.fetch(query("list_keks_in_use")))


def unreadable(keyring: Keyring, in_use: Sequence[str]) -> tuple[str, ...]:
    """Say which rows can't be unwrapped with what is configured, in one line each.

    Args:
        keyring: the configured KEKs.
        in_use: the kek_ids that rows carry.
    """
    problems = []
    for kek_id in in_use:
        backend = keyring.find(kek_id)
        if backend is None:
            problems.append(
                f"rows carry the kek_id {kek_id}, and no configured KEK holds it: "
                "list it in CUSTODY_OLD_KEKS"
            )
        elif (refusal := backend.refusal(kek_id)) is not None:
            problems.append(refusal)
    return tuple(problems)


async def is_retired(engine: AsyncEngine, kek_id: str) -> bool:
    """Say whether a kek_id is retired.

    Args:
        engine: connections of a runtime role.
        kek_id: which.
    """
    async with acquire(engine) as connection:
        return bool(await connection.fetchval(query("read_kek_state"), kek_id) == RETIRED)


def retired(backend: KekBackend, kek_id: str) -> str:
    """Say that the active KEK is retired, and the cure."""
    return (
        f"KEK {backend.uri.text}: the kek_id {kek_id} is retired, and nothing is written under it "
        "again; set CUSTODY_KEK to another KEK"
    )


async def compare(engine: AsyncEngine, backend: KekBackend, kek_id: str, fingerprint: str) -> bool:
    """Compare a KEK with its recorded fingerprint, or else with rows that carry its kek_id.

    For a kek_id that rows already carry, the first fingerprint may be recorded only after one of
    those rows was unwrapped with it: a wrong key at the first boot can't lock out the right one.

    Args:
        engine: connections of a runtime role.
        backend: the KEK.
        kek_id: one that it holds.
        fingerprint: of its key material.

    Returns:
        True when the fingerprint is recorded, False when none is yet.

    Raises:
        Misconfigured: the key is not the one that the kek_id stands for.
        KekError: the KMS can't be asked now.
        DatabaseError: the database can't be asked now.
    """
    async with acquire(engine) as connection:
        recorded = await connection.fetchval(query("read_fingerprint"), kek_id)
        rows = await connection.fetch(query("sample_wraps"), kek_id) if recorded is None else []
    if recorded is None:
        await _prove(backend, kek_id, rows)
        return False
    _compare_fingerprint(backend, kek_id, fingerprint, recorded)
    return True


def _compare_fingerprint(backend: KekBackend, kek_id: str, ours: str, known: str | None) -> None:
    if known is not None and hmac.compare_digest(known.encode(), ours.encode()):
        return
    raise Misconfigured(
        f"KEK {backend.uri.text}: the kek_id {kek_id} stands for other key material; restore that "
        "key, or name the new one otherwise (?id=NEW_ID, or a new key in the KMS) and list the "
        "old one in CUSTODY_OLD_KEKS"
    )


async def _prove(backend: KekBackend, kek_id: str, rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        wrap = Wrap(row["wrapped_mk"], row["wrap_iv"], row["format_version"], kek_id)
        try:
            await backend.unwrap(Binding(row["user_id"], row["generation"]), wrap)
        except Tampered:
            continue
        return
    if rows:
        raise Misconfigured(
            f"KEK {backend.uri.text}: this key opens none of the {len(rows)} rows tried that "
            f"carry the kek_id {kek_id}; configure the key that wrapped them"
        )
