"""``aws-kms:KEY``: a symmetric key of AWS KMS."""

import asyncio
import base64
import contextlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from kek_backends.aws.client import (
    AwsClient,
    choose_kind_of_endpoint,
    endpoint_from,
    region_from,
)
from kek_backends.aws.diagnostics import good, tried
from kek_backends.aws.identity import Identity
from kek_backends.aws.key import check, context, missing, parse_wrap
from kek_backends.aws.names import KeyName
from kek_backends.aws.sdk import open_session, translate
from kek_backends.base import (
    FORMAT_CURRENT,
    MASTER_KEY_SIZE,
    KekBackend,
    OwnedWrap,
    Rewrapped,
    Wrap,
)
from kek_backends.binding import Binding
from kek_backends.errors import KekError, Misconfigured, Transient
from kek_backends.findings import Finding
from kek_backends.plain import plain_address
from kek_backends.remote import ATTEMPT_SECONDS, RemoteKek
from kek_backends.uri import KekUri

# Of a re-wrap at once: the calls of users keep the other turns.
_CONCURRENT_REENCRYPTS = 4
_PROBE = Binding("custody-proof-own")


class AwsKmsKek(RemoteKek):
    """A key of AWS KMS; it never leaves it. Rows are stamped with its ARN, never with an alias.

    A multi-Region key is one key: each region opens what another one wrapped. It has one stamp in
    a database, whatever region is asked: the ARN of the replica that was put on record there.

    The least IAM policy, with the key's own ARN; the condition allows no call that is not bound.
    A decrypt-only key needs neither ``kms:Encrypt`` nor ``kms:ReEncryptTo``::

        {
          "Version": "2012-10-17",
          "Statement": [
            {
              "Effect": "Allow",
              "Action": "kms:DescribeKey",
              "Resource": "arn:aws:kms:REGION:ACCOUNT:key/KEY_ID"
            },
            {
              "Effect": "Allow",
              "Action": [
                "kms:Encrypt", "kms:Decrypt", "kms:ReEncryptFrom", "kms:ReEncryptTo"
              ],
              "Resource": "arn:aws:kms:REGION:ACCOUNT:key/KEY_ID",
              "Condition": {
                "ForAllValues:StringEquals": {
                  "kms:EncryptionContextKeys": [
                    "custody:format", "custody:user", "custody:generation", "custody:data-key"
                  ]
                },
                "Null": {"kms:EncryptionContextKeys": "false"}
              }
            }
          ]
        }

    Args:
        uri: which key.
        name: its path, parsed.
        client: makes the calls.
    """

    def __init__(self, uri: KekUri, name: KeyName, client: AwsClient) -> None:
        super().__init__(uri)
        self._name = name
        self._client = client
        self._key = Identity(uri, name, client.region)

    @classmethod
    def from_uri(cls, uri: KekUri, *, environ: Mapping[str, str], development: bool) -> Self:  # noqa: ARG003 - nothing is made up for it
        """Build the backend that a URI names; see :meth:`KekBackend.from_uri`."""
        name = KeyName.parse(uri.path)
        if name is None:
            raise Misconfigured(
                f"KEK {uri.text}: {uri.path!r} is not the id, the ARN or an alias (alias/NAME) of "
                "a key of your own; list them with: aws kms list-aliases"
            )
        if uri.kek_id is not None:
            raise Misconfigured(
                f"KEK {uri.text}: rows are stamped with the ARN of the key: remove ?id="
            )
        session = open_session(uri, environ)
        # KMS answers only for keys of the region that is asked.
        region = name.region or region_from(uri, environ, session.get_config_variable("region"))
        session.set_config_variable("region", region)  # where credentials come from asks it too
        endpoint = endpoint_from(uri, environ, session)
        choose_kind_of_endpoint(uri, environ, session, endpoint)
        client = AwsClient(
            uri, session, region=region, endpoint=endpoint, give_up_after=ATTEMPT_SECONDS
        )
        return cls(uri, name, client)

    @property
    def region(self) -> str:
        """The region that is asked."""
        return self._client.region

    @property
    def plain_address(self) -> str | None:
        """The endpoint, where it is plain http and not on this host."""
        return None if self._client.endpoint is None else plain_address(self._client.endpoint)

    @property
    def kek_id(self) -> str | None:
        """The stamp of new wraps, as last learnt."""
        return self._key.kek_id

    def fingerprint(self, kek_id: str) -> str:
        """Return the stamp itself: an ARN is never given to another key, and keeps its material."""
        return kek_id

    def holds(self, kek_id: str) -> bool:
        """Say whether a row's key is the one of this URI, or one that its alias has meant."""
        return self._key.holds(kek_id)

    def trust(self, kek_ids: frozenset[str]) -> None:
        """Be told which kek_ids are on record; see :meth:`KekBackend.trust`."""
        self._key.trust(kek_ids)

    def can_rewrap_from(self, source: KekBackend) -> bool:
        """Say whether KMS can re-wrap what ``source`` wrapped: within a region it can."""
        return isinstance(source, AwsKmsKek) and source.region == self.region

    async def close(self) -> None:
        """Give back threads and connections."""
        await super().close()
        self._client.close()

    async def examine(self, *, active: bool) -> list[Finding]:
        """Try each right; see :meth:`KekBackend.examine`."""
        found = await tried("kms:DescribeKey", self.refresh)
        if not found:
            found = await (self._try_all() if active else tried("kms:Decrypt", self._try_decrypt))
        return found or [good(self.kek_id, active=active)]

    async def _try_all(self) -> list[Finding]:
        denied = await tried("kms:Encrypt", lambda: self._try_wrap(self._encrypt))
        if denied:
            return [*denied, *await tried("kms:Decrypt", self._try_decrypt)]
        return [
            *await tried("kms:Decrypt", self.prove),
            *await tried(
                "kms:ReEncryptFrom and kms:ReEncryptTo", lambda: self._try_wrap(self._encrypt_twice)
            ),
        ]

    async def _try_wrap(self, wrap: Callable[[Binding, bytes], Wrap]) -> None:
        probe = secrets.token_bytes(MASTER_KEY_SIZE)
        await self._call(lambda: wrap(_PROBE, probe))

    async def _try_decrypt(self) -> None:
        """See whether KMS would decrypt: without the right to encrypt there is nothing to try."""
        await self._call(self._dry_decrypt)

    async def _unwrap(self, binding: Binding, wrap: Wrap) -> bytes:
        # What is seen here is no answer of the KMS: neither the breaker nor ``problem`` may take
        # it for one.
        parse_wrap(self._uri, wrap)
        return await super()._unwrap(binding, wrap)

    async def _reencrypt(self, items: Sequence[OwnedWrap]) -> list[Rewrapped]:
        turns = asyncio.Semaphore(_CONCURRENT_REENCRYPTS)

        async def one(item: OwnedWrap) -> Rewrapped:
            try:
                parse_wrap(self._uri, item.wrap)
                async with turns:
                    return await self._call(lambda: self._reencrypt_one(item))
            except KekError as error:
                return error

        return list(await asyncio.gather(*map(one, items)))

    def _ask(self) -> None:
        client = self._client.get()
        try:
            metadata = client.describe_key(KeyId=self._name.text)["KeyMetadata"]
        except client.exceptions.NotFoundException:
            raise missing(self._uri, self._name, self._client.region) from None
        self._key.learn(metadata["Arn"])
        self._key.learn_replicas(metadata)
        check(self._uri, metadata)

    def _encrypt(self, binding: Binding, key: bytes) -> Wrap:
        answer = self._client.get().encrypt(
            KeyId=self._name.text, Plaintext=key, EncryptionContext=context(binding)
        )
        return self._wrap_of(answer)

    def _decrypt(self, binding: Binding, wrap: Wrap) -> bytes:
        blob, arn = parse_wrap(self._uri, wrap)
        answer = self._client.get().decrypt(
            CiphertextBlob=blob,
            KeyId=self._key.here(arn).text,
            EncryptionContext=context(binding, wrap.format_version),
        )
        self._key.see_same(arn, answer["KeyId"])
        plaintext: bytes = answer["Plaintext"]
        return plaintext

    def _reencrypt_one(self, item: OwnedWrap) -> Wrap:
        blob, arn = parse_wrap(self._uri, item.wrap)
        answer = self._client.get().re_encrypt(
            CiphertextBlob=blob,
            SourceKeyId=self._key.here(arn).text,
            SourceEncryptionContext=context(item.binding),
            DestinationKeyId=self._name.text,
            DestinationEncryptionContext=context(item.binding),
        )
        self._key.see_same(arn, answer["SourceKeyId"])
        return self._wrap_of(answer)

    def _encrypt_twice(self, binding: Binding, key: bytes) -> Wrap:
        return self._reencrypt_one(OwnedWrap(binding, self._encrypt(binding, key)))

    def _dry_decrypt(self) -> None:
        if self._key.arn is None:
            raise Transient(f"{self._uri.text}: the key is not known yet")
        client = self._client.get()
        # Each of the two says that the right is there: KMS looks at the policy first.
        with contextlib.suppress(
            client.exceptions.DryRunOperationException,
            client.exceptions.InvalidCiphertextException,
        ):
            client.decrypt(
                CiphertextBlob=b"no ciphertext",
                KeyId=self._key.arn.text,
                EncryptionContext=context(_PROBE),
                DryRun=True,
                DryRunModifiers=["IGNORE_CIPHERTEXT"],
            )

    def _wrap_of(self, answer: Mapping[str, Any]) -> Wrap:
        arn = self._key.learn(answer["KeyId"])
        if not self._key.is_known:
            self._ask()
        blob: bytes = answer["CiphertextBlob"]
        if not blob:
            raise Transient(f"{self._uri.text}: an answer without a ciphertext")
        return Wrap(base64.b64encode(blob).decode(), "", FORMAT_CURRENT, self._key.stamp(arn))

    def _translate(self, error: Exception) -> KekError:
        return translate(self._uri, error)
