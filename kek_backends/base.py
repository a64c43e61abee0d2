"""The contract of a KEK backend: what every implementation promises, enforced here once."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from kek_backends.errors import KekError, Misconfigured, Tampered, Transient
from kek_backends.uri import KekUri

MASTER_KEY_SIZE = 32
FORMAT_UNBOUND = 1
FORMAT_BOUND = 2


@dataclass(frozen=True, slots=True)
class Wrap:
    """A wrapped master key, as the columns of its row hold it.

    Args:
        wrapped_mk: the ciphertext, in the text form of its backend (local KEKs: base64).
        wrap_iv: the nonce in base64, or the empty string where the KMS needs none.
        format_version: 1 (not bound to a user, read only) or 2 (bound to its user).
        kek_id: which KEK made it.
    """

    wrapped_mk: str = field(repr=False)
    wrap_iv: str = field(repr=False)
    format_version: int
    kek_id: str


class KekBackend(ABC):
    """A KEK: it wraps master keys, and unwraps what it wrapped.

    An implementation overrides the underscored methods and the properties. The public methods
    check sizes on both sides and let nothing but :class:`~kek_backends.errors.KekError` out, so
    an SDK's exception (which may carry plaintext) never travels further.
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
    def kek_id(self) -> str:
        """The stamp that new wraps carry."""

    @property
    @abstractmethod
    def fingerprint(self) -> str | None:
        """A value that changes with the key material and reveals nothing of it.

        None where the key material never leaves a KMS.
        """

    def holds(self, kek_id: str) -> bool:
        """Say whether a wrap stamped ``kek_id`` is this backend's to unwrap."""
        return kek_id == self.kek_id

    async def wrap(self, user_id: str, master_key: bytes) -> Wrap:
        """Wrap a user's master key, bound to the user.

        Args:
            user_id: whose key it is; only for this user will the wrap open.
            master_key: 32 bytes.

        Raises:
            KekError: of the type that says whether and when to try again.
        """
        _check_size(master_key)
        try:
            wrap = await self._wrap(user_id, master_key)
        except KekError:
            raise
        except Exception as error:  # noqa: BLE001 - the SDK's exception may hold plaintext
            raise Transient(f"{self.uri.text}: {type(error).__name__} while wrapping") from None
        if not self.holds(wrap.kek_id) or wrap.format_version != FORMAT_BOUND:
            # Stored, it could never be opened again, or by another user too.
            raise Misconfigured(f"{self.uri.text}: the backend made a wrap that is not its own")
        return wrap

    async def unwrap(self, user_id: str, wrap: Wrap) -> bytes:
        """Unwrap a user's master key.

        Args:
            user_id: the user of the authenticated request, never of the blob.
            wrap: the row's columns; its kek_id is one that this backend holds.

        Returns:
            The 32 bytes of the master key.

        Raises:
            Tampered: the wrap does not open for this user.
            KekError: of the type that says whether and when to try again.
        """
        try:
            master_key = await self._unwrap(user_id, wrap)
        except KekError:
            raise
        except Exception as error:  # noqa: BLE001 - the SDK's exception may hold plaintext
            raise Transient(f"{self.uri.text}: {type(error).__name__} while unwrapping") from None
        if len(master_key) != MASTER_KEY_SIZE:
            raise Tampered(f"{self.uri.text}: the wrap opened to something that is no master key")
        return master_key

    @abstractmethod
    async def _wrap(self, user_id: str, master_key: bytes) -> Wrap: ...

    @abstractmethod
    async def _unwrap(self, user_id: str, wrap: Wrap) -> bytes: ...


def _check_size(master_key: bytes) -> None:
    if len(master_key) != MASTER_KEY_SIZE:
        raise ValueError(f"a master key has {MASTER_KEY_SIZE} bytes")
