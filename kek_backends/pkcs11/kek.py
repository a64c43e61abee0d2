"""``pkcs11:…``: an AES key in an HSM, or whatever else has a PKCS#11 module."""

import asyncio
import base64
import binascii
import re
from collections.abc import Mapping
from typing import Self

from kek_backends.base import FORMAT_CURRENT, MASTER_KEY_SIZE, Wrap
from kek_backends.binding import Binding
from kek_backends.errors import KekError, KeyMissing, Misconfigured, Tampered, Transient
from kek_backends.findings import Finding, Verdict
from kek_backends.pkcs11.address import Address
from kek_backends.pkcs11.opened import OpenToken, Seen
from kek_backends.pkcs11.token import IV_SIZE, TAG_BITS
from kek_backends.remote import RemoteKek
from kek_backends.uri import KekUri

_WRAP_SIZE = MASTER_KEY_SIZE + TAG_BITS // 8
_KEK_ID = re.compile(r"pkcs11:[A-Za-z0-9._:-]{1,64}/[0-9a-f]{2,180}")


class Pkcs11Kek(RemoteKek):
    """A key of AES with 256 bits in a token; it never leaves it. AES-GCM wraps with it.

    The default stamp is ``pkcs11:SERIAL/ID``: of the token, and of the key in hex. A key that was
    restored into another token keeps its rows by ``?id=`` with the stamp that they carry: the
    fingerprint proves that it is the same.

    Permissions: whoever has the module, the token and the PIN has the use of the key, and, where it
    is extractable, may take it out under another.

    Args:
        uri: which key.
        address: the same, parsed.
        environ: the variables that the module may see, among others.
    """

    def __init__(self, uri: KekUri, address: Address, environ: Mapping[str, str]) -> None:
        super().__init__(uri)
        self._token = OpenToken(uri, address, environ, self._learn)
        # As last learnt.
        self._seen: Seen | None = None
        self._trusted: frozenset[str] = frozenset()

    @classmethod
    def from_uri(cls, uri: KekUri, *, environ: Mapping[str, str], development: bool) -> Self:  # noqa: ARG003 - nothing is made up for it
        """Build the backend that a URI names; see :meth:`KekBackend.from_uri`."""
        address = Address.parse(uri, environ)
        address.read_pin(uri)  # wrong at the boot rather than later
        address.check_module(uri)
        return cls(uri, address, environ)

    @property
    def kek_id(self) -> str | None:
        """The stamp of new wraps: of the URI, or as last learnt."""
        return self._uri.kek_id or (None if self._seen is None else self._seen.stamp)

    def fingerprint(self, kek_id: str) -> str | None:
        """Return the digest of one message that the key encrypted, always the same one."""
        seen = self._seen
        return seen.fingerprint if seen is not None and kek_id == self.kek_id else None

    def holds(self, kek_id: str) -> bool:
        """Say whether a row's key is the one of this URI; before it was seen, by the records."""
        known = self.kek_id
        return kek_id == known if known is not None else kek_id in self._trusted

    def trust(self, kek_ids: frozenset[str]) -> None:
        """Be told which kek_ids are on record; see :meth:`KekBackend.trust`."""
        self._trusted |= {kek_id for kek_id in kek_ids if _KEK_ID.fullmatch(kek_id)}

    async def close(self) -> None:
        """Give back the threads, and end the process of the module."""
        await super().close()
        await asyncio.to_thread(self._token.close)

    async def examine(self, *, active: bool) -> list[Finding]:
        """Look at the key and its token; see :meth:`KekBackend.examine`."""
        try:
            await self.refresh()
            if active:
                await self.prove()
        except Transient as error:
            return [Finding(Verdict.DOWN, str(error))]
        except KekError as error:
            return [Finding(Verdict.FINDING, str(error))]
        return [*self._risks(), self._good(active=active)]

    async def _unwrap(self, binding: Binding, wrap: Wrap) -> bytes:
        # What is seen here is no answer of the token; see AwsKmsKek.
        _parse(self._uri, wrap)
        return await super()._unwrap(binding, wrap)

    def _ask(self) -> None:
        self._token.look()

    def _encrypt(self, binding: Binding, key: bytes) -> Wrap:
        seen, kek_id = self._known()
        answer = self._token.ask(
            "encrypt",
            key=seen.identity,
            text=base64.b64encode(key).decode(),
            aad=base64.b64encode(binding.encode(kek_id)).decode(),
        )
        wrap = Wrap(answer["made"], answer["iv"], FORMAT_CURRENT, kek_id)
        try:
            _parse(self._uri, wrap)
        except Tampered:
            raise Misconfigured(
                f"KEK {self._uri.text}: what the token makes is not AES-GCM with a tag of 128 bits"
            ) from None
        return wrap

    def _decrypt(self, binding: Binding, wrap: Wrap) -> bytes:
        iv, made = _parse(self._uri, wrap)
        seen, kek_id = self._known()
        if kek_id != wrap.kek_id:
            raise KeyMissing(f"{self._uri.text}: the key that is there now is {kek_id}")
        answer = self._token.ask(
            "decrypt",
            key=seen.identity,
            iv=base64.b64encode(iv).decode(),
            made=base64.b64encode(made).decode(),
            aad=base64.b64encode(binding.encode(kek_id)).decode(),
        )
        return base64.b64decode(answer["text"])

    def _known(self) -> tuple[Seen, str]:
        """Return the key that is there, and its stamp."""
        if self._seen is None:
            self._token.look()
        seen, kek_id = self._seen, self.kek_id
        if seen is None or kek_id is None:
            raise Transient(f"{self._uri.text}: the key is not known yet")
        return seen, kek_id

    def _learn(self, seen: Seen) -> None:
        if not _KEK_ID.fullmatch(seen.stamp):
            raise Misconfigured(
                f"KEK {self._uri.text}: a token without a serial of letters and digits, or a key "
                "whose id is too long, can't be named in rows: give a stamp, as id=pkcs11:NAME/01"
            )
        self._seen = seen

    def _risks(self) -> list[Finding]:
        found = []
        if self._seen is not None and self._seen.extractable:
            message = (
                "the key is extractable: whoever has the PIN can take it out under another key"
            )
            found.append(Finding(Verdict.WARNING, message))
        if self._seen is not None and self._seen.wrong_pins:
            message = "somebody has given the token a wrong PIN since the last right one"
            found.append(Finding(Verdict.WARNING, message))
        return found

    def _good(self, *, active: bool) -> Finding:
        use = "wraps and unwraps" if active else "ready to unwrap"
        return Finding(Verdict.OK, f"{use}; kek_id {self.kek_id}")

    def _translate(self, error: Exception) -> KekError:
        return Transient(
            f"{self._uri.text}: an answer that makes no sense ({type(error).__name__})"
        )


def _parse(uri: KekUri, wrap: Wrap) -> tuple[bytes, bytes]:
    """Return IV and ciphertext of a wrap.

    Raises:
        Tampered: no token has made it.
    """
    try:
        iv = base64.b64decode(wrap.wrap_iv, validate=True)
        made = base64.b64decode(wrap.wrapped_mk, validate=True)
    except (binascii.Error, ValueError):
        iv = made = b""
    good = wrap.format_version == FORMAT_CURRENT
    if not good or len(iv) != IV_SIZE or len(made) != _WRAP_SIZE:
        raise Tampered(f"{uri.text}: the row's wrap is not one of a token")
    return iv, made
