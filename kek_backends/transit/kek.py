"""``vault:MOUNT/KEY``: a key of the transit engine of HashiCorp Vault or OpenBao."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from kek_backends.base import OwnedWrap, Rewrapped, Wrap
from kek_backends.binding import Binding
from kek_backends.call_batcher import CallBatcher
from kek_backends.errors import KekError, KeyMissing, Misconfigured, Tampered, Transient
from kek_backends.findings import Finding
from kek_backends.plain import plain_address
from kek_backends.remote import RemoteKek
from kek_backends.transit.answers import TooLarge, data_of, opening, translate
from kek_backends.transit.batches import MOST_ITEMS, Batches
from kek_backends.transit.diagnostics import examine
from kek_backends.transit.http import Address, connector, is_agent
from kek_backends.transit.key import KeyPath, TransitKey
from kek_backends.transit.login import login_from
from kek_backends.transit.state import KeyState
from kek_backends.transit.tokens import Tokens
from kek_backends.transit.variables import Variables
from kek_backends.uri import KekUri


@dataclass(frozen=True, slots=True)
class OwnedKey:
    """A key and what it is to be bound to: one item of a batch of wraps.

    Args:
        binding: for this alone will the wrap open.
        key: 32 bytes.
    """

    binding: Binding
    key: bytes = field(repr=False)


class TransitKek(RemoteKek):
    """A key of the transit engine; it never leaves the server.

    A key made with ``derived=true`` binds a wrap by ``context``, and the server can re-wrap it; any
    other AEAD key binds by ``associated_data``, and can't. The kek_id is no part of either, for a
    re-wrap changes it and not what is bound: the key and its version are bound by who decrypts,
    with the version in the ciphertext, which is compared with the row's. Rows are stamped with
    the version that the server says it used: ``vault:MOUNT/KEY:vN``.

    The least policy, for ``vault:transit/custody``. With ``create`` on the first path a
    misspelt or deleted key would come into being at the first wrap; without the first path the
    KEK is decrypt-only, and only a derived key needs the third::

        path "transit/encrypt/custody" { capabilities = ["update"] }
        path "transit/decrypt/custody" { capabilities = ["update"] }
        path "transit/rewrap/custody"  { capabilities = ["update"] }
        path "transit/keys/custody"    { capabilities = ["read"] }

    The policy ``default`` must be there too: it lets a token look at itself and be renewed.
    """

    def __init__(self, path: KeyPath, tokens: Tokens, address: str) -> None:
        super().__init__(path.uri)
        self._plain_address = plain_address(address)
        self._path = path
        self._tokens = tokens
        self._key = KeyState(path, tokens)
        self._batch_size = MOST_ITEMS
        self._batches = Batches(path.uri, tokens)
        self._wrap_calls: CallBatcher[OwnedKey, Wrap] = CallBatcher(
            lambda items: self._calls.in_turn(lambda: self._encrypt_batch(items)), MOST_ITEMS
        )
        self._unwrap_calls: CallBatcher[OwnedWrap, bytes] = CallBatcher(
            lambda items: self._calls.in_turn(lambda: self._decrypt_batch(items)), MOST_ITEMS
        )

    @classmethod
    def from_uri(cls, uri: KekUri, *, environ: Mapping[str, str], development: bool) -> Self:  # noqa: ARG003 - nothing is made up for it
        """Build the backend that a URI names; see :meth:`KekBackend.from_uri`."""
        path = KeyPath.of(uri)
        if uri.kek_id is not None:
            raise Misconfigured(
                f"KEK {uri.text}: a transit key has no ?id=: its rows are stamped with the version "
                "that the server used"
            )
        variables = Variables(uri, environ)
        login = login_from(variables, through_agent=is_agent(variables))
        address = Address.of(variables)
        return cls(path, Tokens(uri, login, connector(variables, address)), address.url)

    @property
    def plain_address(self) -> str | None:
        """The server's, where it is plain http and not on this host."""
        return self._plain_address

    @property
    def kek_id(self) -> str | None:
        """The stamp of the version that encrypts, as last heard."""
        key = self._key.last
        return None if key is None else self._path.stamp(key.latest)

    def fingerprint(self, kek_id: str) -> str | None:
        """Return when the version was made: a key that was deleted and made again differs."""
        key, version = self._key.last, self._path.version(kek_id)
        if key is None or version is None or version not in key.created:
            return None
        return f"transit version made at {key.created[version]}"

    def holds(self, kek_id: str) -> bool:
        """Every version of this key is ours to unwrap."""
        return self._path.version(kek_id) is not None

    def refusal(self, kek_id: str) -> str | None:
        """Name a version that the server would refuse to decrypt with."""
        key, version = self._key.last, self._path.version(kek_id)
        if key is None or version is None:
            return None
        if version > key.latest:
            return (
                f"{self._uri.text}: rows carry version {version}, and the key has "
                f"{key.latest}: restore a newer backup of the key"
            )
        if version >= key.least:
            return None
        return (
            f"{self._uri.text}: rows carry version {version}, and the key's min_decryption_version "
            f"is {key.least}: lower it until they are re-wrapped"
        )

    @property
    def refresh_seconds(self) -> float:
        """Half a minute, or less: until the token must be renewed."""
        return max(0.0, min(super().refresh_seconds, self._tokens.seconds_to_renewal))

    def can_rewrap_from(self, source: object) -> bool:
        """The server re-wraps to its newest version what a derived key wrapped."""
        return source is self and self._is_derived

    async def close(self) -> None:
        """Give back threads and connections."""
        await super().close()
        self._tokens.close()

    async def examine(self, *, active: bool) -> list[Finding]:
        """Look at the key, its policy, the token and the address; see the docs of the doctor."""
        return await examine(self, self._path, self._tokens, lambda: self._key.last, active=active)

    @property
    def _is_derived(self) -> bool:
        return self._key.last is not None and self._key.last.derived

    def _ask(self) -> None:
        self._key.ask()

    async def _wrap_once(self, binding: Binding, key: bytes) -> Wrap:
        if not await self._goes_in_batches():
            return await super()._wrap_once(binding, key)
        return await self._wrap_calls.ask(OwnedKey(binding, key))

    async def _unwrap_once(self, binding: Binding, wrap: Wrap) -> bytes:
        if not await self._goes_in_batches():
            return await super()._unwrap_once(binding, wrap)
        return await self._unwrap_calls.ask(OwnedWrap(binding, wrap))

    async def _goes_in_batches(self) -> bool:
        """Say whether this key's calls go in batches; then a lone one does, too.

        A key has one form of call, so the form that is proven to bind is the form that is used.
        Only ``context`` is relied on in a batch: rewrap, for one, ignores ``associated_data``.
        """
        if self._key.last is None:
            await self._calls.in_turn(self._key.known)
        return self._is_derived

    def _encrypt(self, binding: Binding, key: bytes) -> Wrap:
        known = self._key.known()
        plaintext = base64.b64encode(key).decode()
        answer = self._tokens.call(
            lambda client: client.secrets.transit.encrypt_data(
                **self._path.named, plaintext=plaintext, **known.bound_by(binding)
            )
        )
        wrap = self._path.wrap_of(data_of(self._uri, answer))
        if not self._key.is_still(known):
            raise Transient(f"{self._uri.text}: the key was replaced at this moment")
        return wrap

    def _decrypt(self, binding: Binding, wrap: Wrap) -> bytes:
        self._path.check(wrap)
        bound_by = self._key.known().bound_by(binding, wrap.format_version)
        with opening(self._uri):
            answer = self._tokens.call(
                lambda client: client.secrets.transit.decrypt_data(
                    **self._path.named, ciphertext=wrap.wrapped_mk, **bound_by
                )
            )
        key = _plaintext(data_of(self._uri, answer))
        if self.refusal(wrap.kek_id) is not None:
            self._key.ask()  # the version is allowed again
        return key

    async def _reencrypt(self, items: Sequence[OwnedWrap]) -> list[Rewrapped]:
        done: list[Rewrapped] = []
        while len(done) < len(items):
            batch = items[len(done) : len(done) + self._batch_size]
            try:
                done += await self._call(lambda batch=batch: self._rewrap_batch(batch))  # type: ignore[misc]
            except TooLarge:
                if len(batch) == 1:
                    raise
                self._batch_size = len(batch) // 2
            except Tampered:
                # All that the server says of a batch because of one wrap in it.
                done += [await self._reencrypt_alone(item) for item in batch]
        return done

    async def _reencrypt_alone(self, item: OwnedWrap) -> Rewrapped:
        try:
            (outcome,) = await self._call(lambda: self._rewrap_batch([item]))
        except Tampered as error:
            return error
        return outcome

    def _encrypt_batch(self, items: Sequence[OwnedKey]) -> list[Wrap | KekError]:
        key = self._key.known_derived()
        done = self._batches.each(
            items,
            lambda item: {
                "plaintext": base64.b64encode(item.key).decode(),
                **key.bound_by(item.binding),
            },
            lambda client, batch: client.secrets.transit.encrypt_data(
                **self._path.named, batch_input=batch
            ),
            self._path.wrap_of,
        )
        if not self._key.is_still(key):
            raise Transient(f"{self._uri.text}: the key was replaced at this moment")
        return done

    def _decrypt_batch(self, items: Sequence[OwnedWrap]) -> list[bytes | KekError]:
        key = self._key.known_derived()
        with opening(self._uri):
            done = self._batches.each(
                items,
                lambda item: self._entry(key, item),
                lambda client, batch: client.secrets.transit.decrypt_data(
                    **self._path.named, batch_input=batch
                ),
                _plaintext,
            )
        opened = (
            item.wrap for item, one in zip(items, done, strict=True) if isinstance(one, bytes)
        )
        if any(self.refusal(wrap.kek_id) is not None for wrap in opened):
            self._key.ask()  # the version is allowed again
        return done

    def _rewrap_batch(self, items: Sequence[OwnedWrap]) -> list[Rewrapped]:
        key = self._key.known_derived()
        with opening(self._uri):
            done = self._batches.each(
                items,
                lambda item: self._entry(key, item),
                lambda client, batch: client.secrets.transit.rewrap_data(
                    **self._path.named, ciphertext="", batch_input=batch
                ),
                self._path.wrap_of,
            )
        if not self._key.is_still(key):
            # Each of them would look as if somebody had touched its row.
            raise KeyMissing(f"{self._uri.text}: the key was replaced by another of its name")
        return done

    def _translate(self, error: Exception) -> KekError:
        return translate(self._uri, error)

    def _entry(self, key: TransitKey, item: OwnedWrap) -> dict[str, str]:
        """Return what is sent of one wrap."""
        self._path.check(item.wrap)
        bound_by = key.bound_by(item.binding, item.wrap.format_version)
        return {"ciphertext": item.wrap.wrapped_mk, **bound_by}


def _plaintext(answer: Mapping[str, Any]) -> bytes:
    return base64.b64decode(answer["plaintext"], validate=True)
