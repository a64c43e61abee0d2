"""``vault:MOUNT/KEY``: a key of the transit engine of HashiCorp Vault or OpenBao."""

import base64
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from hvac import exceptions as of_hvac

from kek_backends.base import FORMAT_BOUND, Observation, OwnedWrap, Rewrapped, Wrap
from kek_backends.errors import KekError, KeyMissing, Misconfigured, Tampered, Transient
from kek_backends.remote import ATTEMPT_SECONDS, RemoteKek
from kek_backends.uri import KekUri
from kek_backends.vault_examination import examine
from kek_backends.vault_http import TooLarge, connector, of_item, translate
from kek_backends.vault_login import login_from
from kek_backends.vault_tokens import Tokens

_PATH = re.compile(r"(?P<mount>[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*)/(?P<key>[A-Za-z0-9_.-]+)")
_VERSION = re.compile(r"v([1-9][0-9]{0,8})")
_CIPHERTEXT = re.compile(r"vault:v([1-9][0-9]{0,8}):[A-Za-z0-9+/]+={0,2}")
_MAX_CIPHERTEXT = 4096
_KEY_TYPES = ("aes256-gcm96", "chacha20-poly1305", "xchacha20-poly1305")
# OpenBao refuses JSON of more than 1000 strings, names included: four an item.
_BATCH_SIZE = 240


@dataclass(frozen=True, slots=True)
class TransitKey:
    """What the server says of a key.

    Args:
        derived: whether the key of each user is derived from it: then ``context`` binds a wrap.
        latest: the version that encrypts.
        least: the least version that may still decrypt.
        created: for each version from ``least`` on, the second it was made in.
        details: all that the server said, for the doctor.
    """

    derived: bool
    latest: int
    least: int
    created: Mapping[int, int]
    details: Mapping[str, Any]

    def is_same(self, other: "TransitKey") -> bool:
        """Say whether both are of one key, and not of one that was made again under its name."""
        if self.derived != other.derived:
            return False
        if not self.created.keys() & other.created.keys():
            # All versions that we knew were retired since; a new key begins at its first one.
            return other.least > self.latest
        return all(
            other.created[version] == made
            for version, made in self.created.items()
            if version in other.created
        )


class VaultTransitKek(RemoteKek):
    """A key of the transit engine; it never leaves the server.

    A key made with ``derived=true`` binds a wrap to its user by ``context``, and the server can
    re-wrap it; any other AEAD key binds by ``associated_data``, and can't. Rows are stamped with
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

    def __init__(self, uri: KekUri, mount: str, key: str, tokens: Tokens) -> None:
        super().__init__(uri)
        self._mount = mount
        self._key = key
        self._tokens = tokens
        self._state: TransitKey | None = None
        self._asking = threading.Lock()
        self._batch_size = _BATCH_SIZE

    @classmethod
    def from_uri(cls, uri: KekUri, *, environ: Mapping[str, str], development: bool) -> Self:  # noqa: ARG003 - nothing is made up for it
        """Build the backend that a URI names; see :meth:`KekBackend.from_uri`."""
        path = _PATH.fullmatch(uri.path)
        if path is None:
            raise Misconfigured(
                f"KEK {uri.text}: write vault:MOUNT/KEY, for example vault:transit/custody"
            )
        if uri.kek_id is not None:
            raise Misconfigured(
                f"KEK {uri.text}: a transit key has no ?id=: its rows are stamped with the version "
                "that the server used"
            )
        tokens = Tokens(uri, login_from(uri, environ), connector(uri, environ))
        return cls(uri, path["mount"], path["key"], tokens)

    @property
    def kek_id(self) -> str | None:
        """The stamp of the version that encrypts, as last heard."""
        return None if self._state is None else self._stamp(self._state.latest)

    def fingerprint(self, kek_id: str) -> str | None:
        """Return when the version was made: a key that was deleted and made again differs."""
        version = self._version(kek_id)
        if self._state is None or version is None or version not in self._state.created:
            return None
        return f"transit version made at {self._state.created[version]}"

    def holds(self, kek_id: str) -> bool:
        """Every version of this key is ours to unwrap."""
        return self._version(kek_id) is not None

    def refusal(self, kek_id: str) -> str | None:
        """Name a version that the server would refuse to decrypt with."""
        version = self._version(kek_id)
        if self._state is None or version is None:
            return None
        if version > self._state.latest:
            return (
                f"{self._uri.text}: rows carry version {version}, and the key has "
                f"{self._state.latest}: restore a newer backup of the key"
            )
        if version >= self._state.least:
            return None
        return (
            f"{self._uri.text}: rows carry version {version}, and the key's min_decryption_version "
            f"is {self._state.least}: lower it until they are re-wrapped"
        )

    @property
    def refresh_seconds(self) -> float:
        """Half a minute, or less: until the token must be renewed."""
        return max(0.0, min(super().refresh_seconds, self._tokens.seconds_to_renewal))

    def takes_over(self, source: object) -> bool:
        """The server re-wraps to its newest version what a derived key wrapped."""
        return source is self and self._state is not None and self._state.derived

    async def examine(self, *, active: bool) -> list[Observation]:
        """Look at the key, its policy, the token and the address; see the docs of the doctor."""
        return await examine(self, self._tokens, (self._mount, self._key), active=active)

    @property
    def state(self) -> TransitKey | None:
        """What the server said of the key when it was last asked."""
        return self._state

    def _ask(self) -> None:
        # One at a time: an answer that was asked for earlier never replaces a later one.
        if not self._asking.acquire(timeout=ATTEMPT_SECONDS):
            raise Transient(f"{self._uri.text}: the server does not say how the key is")
        try:
            self._state = self._read_key()
        finally:
            self._asking.release()

    def _read_key(self) -> TransitKey:
        answer = self._tokens.call(lambda vault: vault.secrets.transit.read_key(**self._named))
        found = _data(self._uri, answer)
        if found["type"] not in _KEY_TYPES:
            raise Misconfigured(
                f"KEK {self._uri.text}: a key of type {found['type']} can't wrap; make one with: "
                f"bao write -f {self._mount}/keys/{self._key} derived=true"
            )
        return TransitKey(
            derived=bool(found["derived"]),
            latest=int(found["latest_version"]),
            least=int(found["min_decryption_version"]),
            created={int(version): int(made) for version, made in found["keys"].items()},
            details=found,
        )

    def _known(self) -> TransitKey:
        if self._state is None:
            self._ask()
        if self._state is None:
            raise AssertionError
        return self._state

    def _is_still(self, before: TransitKey) -> bool:
        """Ask whether the key is still the one that a call was made for.

        A key that is deleted and made again has the same versions, and may not be derived: then a
        wrap would be bound to nobody, or be of a key that the kek_id does not stand for.
        """
        self._ask()
        return before.is_same(self._known())

    def _encrypt(self, user_id: str, master_key: bytes) -> Wrap:
        key = self._known()
        plaintext = base64.b64encode(master_key).decode()
        answer = self._tokens.call(
            lambda vault: vault.secrets.transit.encrypt_data(
                **self._named, plaintext=plaintext, **_binding(key, user_id)
            )
        )
        wrap = self._wrap_of(_data(self._uri, answer))
        if not self._is_still(key):
            raise Transient(f"{self._uri.text}: the key was replaced at this moment")
        return wrap

    def _decrypt(self, user_id: str, wrap: Wrap) -> bytes:
        self._check(wrap)
        binding = _binding(self._known(), user_id)
        answer = self._tokens.call(
            lambda vault: vault.secrets.transit.decrypt_data(
                **self._named, ciphertext=wrap.wrapped_mk, **binding
            )
        )
        key = base64.b64decode(_data(self._uri, answer)["plaintext"], validate=True)
        if self.refusal(wrap.kek_id) is not None:
            self._ask()  # the version is allowed again
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
        return done

    def _rewrap_batch(self, items: Sequence[OwnedWrap]) -> list[Rewrapped]:
        done: list[Rewrapped] = [Tampered("not tried")] * len(items)
        sent: list[int] = []
        for at, item in enumerate(items):
            try:
                self._check(item.wrap)
            except KekError as error:
                done[at] = error
            else:
                sent.append(at)
        if not sent:
            return done
        key = self._known()
        batch = [
            {"ciphertext": items[at].wrap.wrapped_mk, **_binding(key, items[at].user_id)}
            for at in sent
        ]
        results = self._send_batch(batch)
        if not self._is_still(key):
            # Each of them would look as if somebody had touched its row.
            raise KeyMissing(f"{self._uri.text}: the key was replaced by another of its name")
        if len(results) != len(batch):
            raise Transient(
                f"{self._uri.text}: {len(batch)} wraps went in, {len(results)} came out"
            )
        # The server keeps the order. Each item is looked at: one that failed comes within a 200.
        for at, result in zip(sent, results, strict=True):
            if result.get("error"):
                done[at] = of_item(self._uri, result["error"])
            else:
                done[at] = self._wrap_of(result)
        return done

    def _send_batch(self, batch: list[dict[str, str]]) -> list[dict[str, Any]]:
        try:
            answer = self._tokens.call(
                lambda vault: vault.secrets.transit.rewrap_data(
                    **self._named, ciphertext="", batch_input=batch
                )
            )
        except of_hvac.InvalidRequest as error:
            # Vault answers 400 when all of them failed, with the same list in it.
            results = ((error.json or {}).get("data") or {}).get("batch_results")
            if results is None:
                raise
            return list(results)
        return list(_data(self._uri, answer)["batch_results"])

    def _translate(self, error: Exception) -> KekError:
        return translate(self._uri, error)

    @property
    def _named(self) -> dict[str, str]:
        return {"name": self._key, "mount_point": self._mount}

    def _check(self, wrap: Wrap) -> None:
        """Refuse what can't be one of our wraps before anything is asked."""
        version = self._version(wrap.kek_id)
        shape = (
            _CIPHERTEXT.fullmatch(wrap.wrapped_mk)
            if len(wrap.wrapped_mk) <= _MAX_CIPHERTEXT
            else None
        )
        if wrap.format_version != FORMAT_BOUND or wrap.wrap_iv != "" or shape is None:
            raise Tampered(f"{self._uri.text}: the row's columns hold no wrap of a transit key")
        if int(shape[1]) != version:
            raise Tampered(f"{self._uri.text}: the wrap is of another version than its row says")

    def _wrap_of(self, answer: Mapping[str, Any]) -> Wrap:
        ciphertext = answer["ciphertext"]
        shape = _CIPHERTEXT.fullmatch(ciphertext)
        if shape is None or int(shape[1]) != answer.get("key_version", int(shape[1])):
            raise Transient(f"{self._uri.text}: the server answered with something that is no wrap")
        return Wrap(ciphertext, "", FORMAT_BOUND, self._stamp(int(shape[1])))

    def _stamp(self, version: int) -> str:
        return f"vault:{self._mount}/{self._key}:v{version}"

    def _version(self, kek_id: str) -> int | None:
        prefix = f"vault:{self._mount}/{self._key}:"
        found = _VERSION.fullmatch(kek_id.removeprefix(prefix))
        return int(found[1]) if found and kek_id.startswith(prefix) else None


def _binding(key: TransitKey, user_id: str) -> dict[str, str]:
    """Return the field that binds a wrap to its user."""
    bound = base64.b64encode(user_id.encode()).decode()
    # "context" on a key that is not derived would be ignored without a word.
    return {"context" if key.derived else "associated_data": bound}


def _data(uri: KekUri, answer: Any) -> Mapping[str, Any]:
    """Return the data of an answer; hvac returns other things for answers it can't parse."""
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, dict):
        raise Transient(f"{uri.text}: VAULT_ADDR answers, but not like Vault or OpenBao")
    return data
