"""The contract of a KEK backend: what every implementation promises, enforced here once."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Self, TypeVar

from kek_backends.binding import Binding, Purpose
from kek_backends.errors import KekError, Misconfigured, Tampered, Transient
from kek_backends.findings import Finding, Verdict
from kek_backends.proof import prove_binding
from kek_backends.uri import KekUri
from kek_backends.wrap import (
    FORMAT_CURRENT,
    FORMAT_UNBOUND,
    FORMAT_USER,
    MASTER_KEY_SIZE,
    OwnedWrap,
    Rewrapped,
    Wrap,
)

__all__ = [
    "FORMAT_CURRENT",
    "FORMAT_UNBOUND",
    "FORMAT_USER",
    "MASTER_KEY_SIZE",
    "Binding",
    "KekBackend",
    "OwnedWrap",
    "Purpose",
    "Rewrapped",
    "Wrap",
]

T = TypeVar("T")


class KekBackend(ABC):
    """A KEK: it wraps master keys and data keys, and unwraps what it wrapped.

    An implementation overrides the underscored methods and the properties. The public methods
    check sizes on both sides and let nothing but :class:`~kek_backends.errors.KekError` out, so
    an SDK's exception (which may carry plaintext) never travels further.

    A backend is built without touching any network. What only its KMS knows (the version of a
    key, the ARN behind an alias) is learnt by :meth:`refresh`, which the daemon calls again and
    again; a KEK in this process has nothing to learn.
    """

    @classmethod
    @abstractmethod
    def from_uri(cls, uri: KekUri, *, environ: Mapping[str, str], development: bool) -> Self:
        """Build the backend that a URI names.

        Args:
            uri: the parsed URI.
            environ: the variables of the process; a backend reads no others.
            development: True only in development mode, where a missing key may be made up.

        Raises:
            Misconfigured: naming the URI and the cure.
        """

    @property
    @abstractmethod
    def uri(self) -> KekUri:
        """The URI this backend was built from."""

    @property
    @abstractmethod
    def kek_id(self) -> str | None:
        """The stamp that new wraps carry; None while only the KMS knows it."""

    @abstractmethod
    def fingerprint(self, kek_id: str) -> str | None:
        """Return a value that changes with the key material and reveals nothing of it.

        Args:
            kek_id: one that this backend holds.

        Returns:
            The fingerprint, or None where nothing about the material can be seen.
        """

    def holds(self, kek_id: str) -> bool:
        """Say whether a wrap stamped ``kek_id`` is this backend's to unwrap."""
        return kek_id == self.kek_id

    def refusal(self, kek_id: str) -> str | None:  # noqa: ARG002 - for those that override it
        """Say why wraps of a kek_id that this backend holds can't be unwrapped now, if it knows."""
        return None

    @property
    def problem(self) -> str | None:
        """Why this KEK can't be used, by its last calls; None when it can.

        A KMS is not asked for it.
        """
        return None

    @property
    def is_not_asked(self) -> bool:
        """Whether its KMS failed so often that it is only tried now and then."""
        return False

    def observe(self, called: Callable[[str, float], None]) -> None:  # noqa: B027 - as trust
        """Report each call of its KMS from now on; a KEK in this process makes none.

        Args:
            called: takes how it ended (``ok``, ``unavailable``, ``refused``, ``not-asked``,
                ``cancelled``), and the seconds that it took, retries included; must not raise.
        """

    @property
    def plain_address(self) -> str | None:
        """Where its KMS is asked in clear over a network, without any secret; None: nowhere.

        Production refuses such a KEK. See :func:`kek_backends.plain.plain_address`.
        """
        return None

    @property
    def concurrency(self) -> int:
        """How many calls at once are of use: one, for a KEK in this process."""
        return 1

    @property
    def in_process(self) -> bool:
        """Whether its calls never wait for anything: such a KEK needs no deadline."""
        return False

    @property
    def refresh_seconds(self) -> float:
        """How long what :meth:`refresh` learnt is good for, while all is well."""
        return 30.0

    def trust(self, kek_ids: frozenset[str]) -> None:  # noqa: B027 - most hold what they say
        """Be told which kek_ids are on record for this URI, by records that can't be forged.

        Of use to a KEK whose URI has named other keys before, such as an alias.

        Args:
            kek_ids: all of them.
        """

    async def refresh(self) -> None:  # noqa: B027 - most have nothing to learn
        """Learn what the KMS says of the key: which version or ARN new wraps will carry.

        Needs no cryptographic call while all is well.

        Raises:
            KekError: of the type that says whether and when to try again.
        """

    async def close(self) -> None:  # noqa: B027 - nor to give back
        """Give back connections and threads. The backend can't be used afterwards."""

    async def prove(self) -> None:
        """Prove that wraps open again, and for what they are bound to only.

        Raises:
            Misconfigured: they don't. Such a KEK must not be used.
            KekError: it could not be tried.
        """
        await prove_binding(self.uri, self.wrap, self.unwrap)

    async def examine(self, *, active: bool) -> list[Finding]:
        """Look for what is wrong or risky, for an operator; changes nothing.

        Args:
            active: whether this KEK is to wrap; one that is decrypt-only may lack that right.
        """
        if not active:
            # Its KMS may rightly refuse to wrap; rows alone can show whether it unwraps.
            await self.refresh()
            return [Finding(Verdict.OK, f"ready to unwrap; kek_id {self.kek_id}")]
        await self.prove()
        return [Finding(Verdict.OK, f"wraps and unwraps; kek_id {self.kek_id}")]

    async def wrap(self, binding: Binding, key: bytes) -> Wrap:
        """Wrap a key, bound to whose it is, which one, and what it is for.

        Args:
            binding: for this alone will the wrap open.
            key: 32 bytes.

        Raises:
            KekError: of the type that says whether and when to try again.
        """
        _check_size(key)
        wrap = await self._alone("wrapping", self._wrap(binding, key))
        self._check_wrap(wrap)
        return wrap

    async def unwrap(self, binding: Binding, wrap: Wrap) -> bytes:
        """Unwrap a key.

        Args:
            binding: the user of the authenticated request, never of the blob, with the generation
                of the row; or the data key that is wanted.
            wrap: the row's columns; its kek_id is one that this backend holds.

        Returns:
            The 32 bytes of the key.

        Raises:
            Tampered: the wrap does not open for this binding.
            KekError: of the type that says whether and when to try again.
        """
        if wrap.format_version != FORMAT_CURRENT and binding.purpose is not Purpose.MASTER_KEY:
            # Before format 3 there were master keys alone, and nothing in a wrap says what it is.
            raise Tampered(f"{self.uri.text}: a data key is never wrapped in an old format")
        key = await self._alone("unwrapping", self._unwrap(binding, wrap))
        if not isinstance(key, bytes) or len(key) != MASTER_KEY_SIZE:
            raise Tampered(f"{self.uri.text}: the wrap opened to something that is no key")
        return key

    def can_rewrap_from(self, source: "KekBackend") -> bool:  # noqa: ARG002 - see refusal
        """Say whether the KMS can re-wrap what ``source`` wrapped without showing the key."""
        return False

    async def rewrap(self, items: Sequence[OwnedWrap]) -> list[Rewrapped]:
        """Re-wrap inside the KMS: no key comes here.

        Args:
            items: wraps of a backend that this one :meth:`can_rewrap_from`, of format 3. An older
                one is refused: its key must be seen, for only that shows whose it is.

        Returns:
            For each item, in order, its wrap under the current key material, or why not.

        Raises:
            KekError: nothing was re-wrapped at all.
        """
        current = [item for item in items if item.wrap.format_version == FORMAT_CURRENT]
        done = await self._alone("re-wrapping", self._rewrap(current))
        if len(done) != len(current):
            raise Transient(f"{self.uri.text}: {len(current)} wraps went in, {len(done)} came out")
        for wrap in done:
            if isinstance(wrap, Wrap):
                self._check_wrap(wrap)
        results = iter(done)
        return [
            next(results)
            if item.wrap.format_version == FORMAT_CURRENT
            else KekError(f"{self.uri.text}: a wrap of an old format is not re-wrapped in a KMS")
            for item in items
        ]

    async def _alone(self, doing: str, work: Awaitable[T]) -> T:
        """Let nothing but a KekError out, and with it no exception that it was made from."""
        try:
            return await work
        except KekError as error:
            # Not only hidden, as "from None" does: a log shipper may look at them all the same.
            error.__cause__ = error.__context__ = None
            raise
        except Exception as error:  # noqa: BLE001 - the SDK's exception may hold plaintext
            kind = type(error).__name__
        # Raised outside of the handler, it has no context.
        raise Transient(f"{self.uri.text}: {kind} while {doing}")

    def _check_wrap(self, wrap: Wrap) -> None:
        if not self.holds(wrap.kek_id) or wrap.format_version != FORMAT_CURRENT:
            # Stored, it could never be opened again, or for another user too.
            raise Misconfigured(f"KEK {self.uri.text}: the backend made a wrap that is not its own")

    @abstractmethod
    async def _wrap(self, binding: Binding, key: bytes) -> Wrap: ...

    @abstractmethod
    async def _unwrap(self, binding: Binding, wrap: Wrap) -> bytes: ...

    async def _rewrap(self, items: Sequence[OwnedWrap]) -> list[Rewrapped]:
        raise NotImplementedError


def _check_size(key: bytes) -> None:
    if len(key) != MASTER_KEY_SIZE:
        raise ValueError(f"a key has {MASTER_KEY_SIZE} bytes")
