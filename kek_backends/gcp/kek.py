"""``gcp-kms:projects/…/cryptoKeys/NAME``: a symmetric key of Google Cloud KMS, by its REST API."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import urlsplit

import google_crc32c

from kek_backends import rest
from kek_backends.base import FORMAT_CURRENT, Wrap
from kek_backends.binding import Binding
from kek_backends.errors import (
    KekError,
    KeyMissing,
    Misconfigured,
    Tampered,
    Transient,
    VersionRetired,
)
from kek_backends.gcp.credentials import Credentials, open_credentials
from kek_backends.gcp.errors import code_of, of_answer, translate
from kek_backends.gcp.names import KeyName, stamp
from kek_backends.plain import plain_address
from kek_backends.remote import RemoteKek
from kek_backends.uri import KekUri

_ENDPOINT = "https://cloudkms.googleapis.com"
# As gcloud names it: for Private Service Connect, or a regional endpoint.
_OVERRIDE = "CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDKMS"
# Of 32 bytes it makes some 113; of the 64 KiB it takes, 65,617.
_MAX_CIPHERTEXT_SIZE = 1024


class GcpKmsKek(RemoteKek):
    """A key of Google Cloud KMS; it never leaves it. Rows are stamped with the version that wraps.

    A wrap is made by a version by name, and that name is in the additional authenticated data,
    beside what the wrap is bound to: so it opens under no other stamp. Checksums (CRC32C) go with
    each call and come back with each answer: what was damaged on the way, or in the memory of
    either side, is noticed before it is stored.

    The least roles, on the key: ``roles/cloudkms.cryptoKeyEncrypterDecrypter`` and
    ``roles/cloudkms.viewer``; of the second ``cloudkms.cryptoKeys.get`` alone is used. A
    decrypt-only key needs ``roles/cloudkms.cryptoKeyDecrypter`` in place of the first.

    Source: https://cloud.google.com/kms/docs/reference/rest/v1/projects.locations.keyRings.cryptoKeys

    Args:
        uri: which key.
        name: its path, parsed.
        endpoint: URL of the API.
        credentials: give a token.
        session: makes the calls.
    """

    def __init__(
        self, uri: KekUri, name: KeyName, endpoint: str, credentials: Credentials, session: Any
    ) -> None:
        super().__init__(uri)
        self._name = name
        self._endpoint = endpoint
        self._credentials = credentials
        self._session = session
        self._primary: str | None = None

    @classmethod
    def from_uri(cls, uri: KekUri, *, environ: Mapping[str, str], development: bool) -> Self:  # noqa: ARG003 - nothing is made up for it
        """Build the backend that a URI names; see :meth:`KekBackend.from_uri`."""
        name = KeyName.parse(uri.path)
        if name is None:
            raise Misconfigured(
                f"KEK {uri.text}: {uri.path!r} is not the name of a key, without a version: write "
                "projects/P/locations/L/keyRings/R/cryptoKeys/K; list them with: "
                "gcloud kms keys list --location L --keyring R"
            )
        if uri.kek_id is not None:
            raise Misconfigured(
                f"KEK {uri.text}: rows are stamped with the version of the key: remove ?id="
            )
        session = rest.session()
        endpoint = _endpoint_from(uri, environ)
        return cls(uri, name, endpoint, open_credentials(uri, environ, session), session)

    @property
    def plain_address(self) -> str | None:
        """The endpoint, where it is plain http and not on this host."""
        return plain_address(self._endpoint)

    @property
    def kek_id(self) -> str | None:
        """The stamp of the primary version, as last heard."""
        return None if self._primary is None else stamp(self._primary)

    def fingerprint(self, kek_id: str) -> str:
        """Return the stamp itself: the name of a version is never given to other material."""
        return kek_id

    def holds(self, kek_id: str) -> bool:
        """Every version of this key is ours to unwrap."""
        return self._name.version_of(kek_id) is not None

    async def close(self) -> None:
        """Give back threads and connections."""
        await super().close()
        self._session.close()

    async def _unwrap(self, binding: Binding, wrap: Wrap) -> bytes:
        # What is seen here is no answer of the KMS: neither the breaker nor ``problem`` may take
        # it for one.
        self._parse(wrap)
        return await super()._unwrap(binding, wrap)

    def _ask(self) -> None:
        self._ask_primary()

    def _ask_primary(self) -> str:
        key = self._asked("GET", self._name.text, "cryptoKeys.get")
        if key.get("purpose") != "ENCRYPT_DECRYPT":
            raise Misconfigured(
                f"KEK {self._uri.text}: not a symmetric key for encryption; make one with: "
                "gcloud kms keys create K --purpose encryption --location L --keyring R"
            )
        primary = key.get("primary")
        version = primary.get("name") if isinstance(primary, dict) else None
        if not isinstance(version, str) or not isinstance(primary, dict):
            raise self._no_primary()
        if not self._name.has(version):
            raise self._other_key()
        # One that shall only unwrap may well have none that is enabled.
        if self._wraps and primary.get("state") != "ENABLED":
            raise self._no_primary()
        self._primary = version
        return version

    def _encrypt(self, binding: Binding, key: bytes) -> Wrap:
        version = self._primary or self._ask_primary()
        aad = binding.encode(stamp(version))
        answer = self._asked(
            "POST",
            f"{version}:encrypt",
            "encrypt",
            {
                "plaintext": _text(key),
                "plaintextCrc32c": _checksum(key),
                "additionalAuthenticatedData": _text(aad),
                "additionalAuthenticatedDataCrc32c": _checksum(aad),
            },
        )
        used = answer.get("name")
        if not isinstance(used, str):
            raise Transient(f"{self._uri.text}: encrypt: an answer that is not Google's")
        if used != version:
            raise self._other_key()
        if not (
            answer.get("verifiedPlaintextCrc32c") is True
            and answer.get("verifiedAdditionalAuthenticatedDataCrc32c") is True
        ):
            raise Transient(f"{self._uri.text}: encrypt: what was sent did not arrive whole")
        blob = self._checked(answer, "ciphertext")
        if not 0 < len(blob) <= _MAX_CIPHERTEXT_SIZE:
            raise Transient(f"{self._uri.text}: encrypt: an answer without a ciphertext")
        return Wrap(_text(blob), "", FORMAT_CURRENT, stamp(version))

    def _decrypt(self, binding: Binding, wrap: Wrap) -> bytes:
        blob = self._parse(wrap)
        aad = binding.encode(wrap.kek_id)
        answer = self._answer(
            "POST",
            f"{self._name.text}:decrypt",
            {
                "ciphertext": wrap.wrapped_mk,
                "ciphertextCrc32c": _checksum(blob),
                "additionalAuthenticatedData": _text(aad),
                "additionalAuthenticatedDataCrc32c": _checksum(aad),
            },
        )
        if answer.is_good:
            return self._checked(answer.body, "plaintext")
        # What was sent is well-formed: so it says that the wrap does not open for this.
        if code_of(answer) == "INVALID_ARGUMENT":
            raise Tampered(f"{self._uri.text}: the wrap does not open for this binding")
        if code_of(answer) == "FAILED_PRECONDITION":
            raise VersionRetired(
                f"{self._uri.text}: {wrap.kek_id} is disabled or destroyed; enable it with: "
                "gcloud kms keys versions enable, or restore it within 30 days"
            )
        raise of_answer(self._uri, "decrypt", answer)

    def _parse(self, wrap: Wrap) -> bytes:
        """Return the ciphertext of a wrap.

        Raises:
            Tampered: this key has not made it.
        """
        try:
            blob = base64.b64decode(wrap.wrapped_mk, validate=True)
        except (binascii.Error, ValueError):
            blob = b""
        good = wrap.wrap_iv == "" and wrap.format_version == FORMAT_CURRENT
        is_canonical = 0 < len(blob) <= _MAX_CIPHERTEXT_SIZE and _text(blob) == wrap.wrapped_mk
        if self._name.version_of(wrap.kek_id) is None or not good or not is_canonical:
            raise Tampered(f"{self._uri.text}: the row's wrap is not one of this key")
        return blob

    def _asked(self, method: str, path: str, operation: str, body: Any = None) -> Mapping[str, Any]:
        answer = self._answer(method, path, body)
        if not answer.is_good:
            raise of_answer(self._uri, operation, answer)
        return answer.body

    def _answer(self, method: str, path: str, body: Any = None) -> rest.Answer:
        token = self._credentials.token()
        answer = rest.call(self._session, method, f"{self._endpoint}/v1/{path}", body, token=token)
        if code_of(answer) == "UNAUTHENTICATED":
            self._credentials.drop(token)
        return answer

    def _checked(self, answer: Mapping[str, Any], field: str) -> bytes:
        """Return what an answer carries, if it has come whole."""
        try:
            value = base64.b64decode(answer[field], validate=True)
        except (KeyError, TypeError, ValueError):
            raise Transient(f"{self._uri.text}: an answer without {field}") from None
        if str(answer.get(f"{field}Crc32c")) != _checksum(value):
            raise Transient(f"{self._uri.text}: the {field} did not arrive whole")
        return value

    def _no_primary(self) -> KeyMissing:
        return KeyMissing(
            f"{self._uri.text}: the key has no primary version that is enabled; set one with: "
            "gcloud kms keys set-primary-version"
        )

    def _other_key(self) -> Misconfigured:
        return Misconfigured(
            f"KEK {self._uri.text}: another key answered than the one that was asked; is the "
            "endpoint Google Cloud KMS?"
        )

    def _translate(self, error: Exception) -> KekError:
        return translate(self._uri, error)


def _endpoint_from(uri: KekUri, environ: Mapping[str, str]) -> str:
    endpoint = (environ.get(_OVERRIDE) or _ENDPOINT).rstrip("/")
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path or parts.query:
        raise Misconfigured(
            f"KEK {uri.text}: {_OVERRIDE} is the URL of the API without a path, for example "
            "https://cloudkms.europe-west3.rep.googleapis.com"
        )
    return endpoint


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _checksum(value: bytes) -> str:
    # An int64 in JSON is text (RFC 3720 section B.4 has the checksum).
    return str(google_crc32c.value(value))
