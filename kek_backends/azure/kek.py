"""``azure-kv:https://VAULT.vault.azure.net/keys/NAME``: a key of Azure Key Vault or Managed HSM."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from typing import Any, Self

from kek_backends import rest
from kek_backends.azure.credentials import Credentials, open_credentials
from kek_backends.azure.errors import is_disabled, of_answer, translate
from kek_backends.azure.names import KeyName
from kek_backends.base import FORMAT_CURRENT, MASTER_KEY_SIZE, Wrap
from kek_backends.binding import Binding, Purpose
from kek_backends.errors import (
    KekError,
    KeyMissing,
    Misconfigured,
    Tampered,
    Transient,
    VersionRetired,
)
from kek_backends.remote import RemoteKek
from kek_backends.uri import KekUri, Mode

_API = "api-version=7.4"
_DIGEST_SIZE = hashlib.sha256().digest_size
_IV_SIZE, _TAG_SIZE = 12, 16
# Of RSA as long as its modulus: 2048 to 4096 bits.
_MAX_CIPHERTEXT_SIZE = 512
_SYMMETRIC, _RSA = ("oct-HSM",), ("RSA", "RSA-HSM")


class AzureKek(RemoteKek):
    """A key of Azure; it never leaves it. Wraps are stamped with the version that made them.

    A symmetric key of a Managed HSM (``oct-HSM``, 256 bits) wraps by A256GCM, which takes what a
    wrap is bound to as associated data.

    An RSA key, all that a Key Vault has, wraps by RSA-OAEP-256, which takes nothing beside the key.
    So a SHA-256 of what it is bound to goes in front of the key, inside; but whoever knows the
    public key can make such a wrap. Therefore it wraps data keys alone: as the active KEK it needs
    ``?mode=envelope``. A data key is believed for its own seal, and not because it opens.

    The least roles, on the key: Key Vault Crypto Service Encryption User; on a Managed HSM, Managed
    HSM Crypto User.

    Source: https://learn.microsoft.com/rest/api/keyvault/keys, RFC 8017 section 7.1, RFC 7518
    section 5.3.

    Args:
        uri: which key.
        name: its path, parsed.
        credentials: give a token.
        session: makes the calls.
    """

    def __init__(self, uri: KekUri, name: KeyName, credentials: Credentials, session: Any) -> None:
        super().__init__(uri)
        self._name = name
        self._credentials = credentials
        self._session = session
        # As last heard: the version that wraps, and whether it is an RSA key.
        self._known: tuple[str, bool] | None = None

    @classmethod
    def from_uri(cls, uri: KekUri, *, environ: Mapping[str, str], development: bool) -> Self:  # noqa: ARG003 - nothing is made up for it
        """Build the backend that a URI names; see :meth:`KekBackend.from_uri`."""
        name = KeyName.parse(uri.path)
        if name is None:
            raise Misconfigured(
                f"KEK {uri.text}: {uri.path!r} is not the identifier of a key, without a version: "
                "write https://VAULT.vault.azure.net/keys/NAME; show it with: az keyvault key show"
            )
        if uri.kek_id is not None:
            raise Misconfigured(
                f"KEK {uri.text}: rows are stamped with the version of the key: remove ?id="
            )
        session = rest.session()
        session.verify = environ.get("REQUESTS_CA_BUNDLE") or True
        return cls(uri, name, open_credentials(uri, environ), session)

    @property
    def kek_id(self) -> str | None:
        """The stamp of the version that wraps, as last heard."""
        return None if self._known is None else self._name.stamp(self._known[0])

    def fingerprint(self, kek_id: str) -> str:
        """Return the stamp itself: the identifier of a version is never given to other material."""
        return kek_id

    def holds(self, kek_id: str) -> bool:
        """Every version of this key is ours to unwrap."""
        return self._name.version_of(kek_id) is not None

    async def close(self) -> None:
        """Give back threads and connections."""
        await super().close()
        self._session.close()
        self._credentials.close()

    async def _unwrap(self, binding: Binding, wrap: Wrap) -> bytes:
        # What is seen here is no answer of the KMS: neither the breaker nor ``problem`` may take
        # it for one.
        self._parse(wrap)
        return await super()._unwrap(binding, wrap)

    def _ask(self) -> None:
        self._ask_version()

    def _ask_version(self) -> tuple[str, bool]:
        answer = self._answer("GET", "")
        if not answer.is_good:
            raise of_answer(self._uri, "get", answer)
        key, attributes = answer.body.get("key"), answer.body.get("attributes")
        if not isinstance(key, dict) or not isinstance(attributes, dict):
            raise Transient(f"{self._uri.text}: get: an answer that is not Azure's")
        version = self._name.version(key.get("kid"))
        if version is None:
            raise self._other_key()
        if key.get("kty") not in (*_SYMMETRIC, *_RSA):
            raise Misconfigured(
                f"KEK {self._uri.text}: neither an RSA nor a symmetric key; make one with: "
                "az keyvault key create --kty RSA-HSM --ops wrapKey unwrapKey"
            )
        if self._wraps and attributes.get("enabled") is not True:
            raise KeyMissing(
                f"{self._uri.text}: the key is disabled; run: "
                "az keyvault key set-attributes --enabled true"
            )
        self._known = version, key["kty"] in _RSA
        return self._known

    def _encrypt(self, binding: Binding, key: bytes) -> Wrap:
        version, is_rsa = self._known or self._ask_version()
        kek_id = self._name.stamp(version)
        bound = binding.encode(kek_id)
        if not is_rsa:
            answer = self._used(version, "encrypt", {"alg": "A256GCM", "value": key, "aad": bound})
            parts = [self._field(answer, name) for name in ("iv", "value", "tag")]
            if [len(part) for part in parts] != [_IV_SIZE, len(key), _TAG_SIZE]:
                raise Transient(f"{self._uri.text}: encrypt: an answer of another size")
            blob = b"".join(parts)
        else:
            if binding.purpose is Purpose.MASTER_KEY and self._uri.mode is Mode.DIRECT:
                raise Misconfigured(
                    f"KEK {self._uri.text}: an RSA key binds nothing, so it wraps data keys alone: "
                    "add ?mode=envelope, or use a symmetric key of a Managed HSM"
                )
            value = hashlib.sha256(bound).digest() + key
            answer = self._used(version, "wrapkey", {"alg": "RSA-OAEP-256", "value": value})
            blob = self._field(answer, "value")
        if not 0 < len(blob) <= _MAX_CIPHERTEXT_SIZE:
            raise Transient(f"{self._uri.text}: an answer without a ciphertext")
        return Wrap(base64.b64encode(blob).decode(), "", FORMAT_CURRENT, kek_id)

    def _decrypt(self, binding: Binding, wrap: Wrap) -> bytes:
        version, blob = self._parse(wrap)
        bound = binding.encode(wrap.kek_id)
        # By its size, and not by what the key is now: each version has a kind of its own.
        if len(blob) == _IV_SIZE + MASTER_KEY_SIZE + _TAG_SIZE:
            sent = {
                "alg": "A256GCM",
                "iv": blob[:_IV_SIZE],
                "value": blob[_IV_SIZE:-_TAG_SIZE],
                "tag": blob[-_TAG_SIZE:],
                "aad": bound,
            }
            return self._field(self._used(version, "decrypt", sent, wrap=wrap), "value")
        sent = {"alg": "RSA-OAEP-256", "value": blob}
        opened = self._field(self._used(version, "unwrapkey", sent, wrap=wrap), "value")
        digest, key = opened[:_DIGEST_SIZE], opened[_DIGEST_SIZE:]
        if not hmac.compare_digest(digest, hashlib.sha256(bound).digest()):
            raise self._not_opened()
        return key

    def _used(
        self, version: str, operation: str, fields: Mapping[str, Any], *, wrap: Wrap | None = None
    ) -> Mapping[str, Any]:
        """Use a version of the key; return the answer.

        Args:
            version: which.
            operation: of the API.
            fields: bytes are sent in base64url.
            wrap: what is to be opened, where something is.
        """
        body = {
            name: _text(value) if isinstance(value, bytes) else value
            for name, value in fields.items()
        }
        answer = self._answer("POST", f"/{version}/{operation}", body)
        if answer.is_good:
            if self._name.version(answer.body.get("kid")) != version:
                raise self._other_key()
            return answer.body
        if wrap is not None:
            # What was sent is well-formed: so it says that the wrap does not open.
            if answer.status == 400:  # noqa: PLR2004 - of HTTP
                raise self._not_opened()
            if answer.status == 404 or is_disabled(answer):  # noqa: PLR2004 - of HTTP
                raise VersionRetired(
                    f"{self._uri.text}: {wrap.kek_id} is disabled or deleted; run: "
                    "az keyvault key set-attributes --enabled true, or recover the key"
                )
        raise of_answer(self._uri, operation, answer)

    def _answer(self, method: str, path: str, body: Any = None) -> rest.Answer:
        token = self._credentials.token(self._name.scope)
        url = f"{self._name.text}{path}?{_API}"
        answer = rest.call(self._session, method, url, body, token=token)
        if answer.status == 401:  # noqa: PLR2004 - of HTTP
            self._credentials.drop(token)
        return answer

    def _parse(self, wrap: Wrap) -> tuple[str, bytes]:
        """Return the version that made a wrap, and the ciphertext.

        Raises:
            Tampered: this key has not made it.
        """
        version = self._name.version_of(wrap.kek_id)
        try:
            blob = base64.b64decode(wrap.wrapped_mk, validate=True)
        except (binascii.Error, ValueError):
            blob = b""
        good = wrap.wrap_iv == "" and wrap.format_version == FORMAT_CURRENT
        is_canonical = base64.b64encode(blob).decode() == wrap.wrapped_mk
        if version is None or not (good and is_canonical and 0 < len(blob) <= _MAX_CIPHERTEXT_SIZE):
            raise Tampered(f"{self._uri.text}: the row's wrap is not one of this key")
        return version, blob

    def _field(self, answer: Mapping[str, Any], name: str) -> bytes:
        value = answer.get(name)
        try:
            text = value if isinstance(value, str) else "?"
            return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise Transient(f"{self._uri.text}: an answer without {name}") from None

    def _not_opened(self) -> Tampered:
        return Tampered(f"{self._uri.text}: the wrap does not open for this binding")

    def _other_key(self) -> Misconfigured:
        return Misconfigured(
            f"KEK {self._uri.text}: another key answered than the one that was asked; is it an "
            "Azure Key Vault?"
        )

    def _translate(self, error: Exception) -> KekError:
        return translate(self._uri, error)


def _text(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()
