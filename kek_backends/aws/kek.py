"""``aws-kms:KEY``: a symmetric key of AWS KMS."""

import asyncio
import base64
import contextlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from kek_backends.aws.client import AwsClient, endpoint_from, region_from
from kek_backends.aws.diagnostics import good, tried
from kek_backends.aws.key import check, context, missing, parse_wrap, replicas
from kek_backends.aws.names import KeyArn, KeyName
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
        # As last learnt. Two threads may learn at once: the last one counts, and both were true.
        self._arn = KeyArn.parse(name.text)
        # What an alias has meant: by KMS itself in this process, and by records that were judged.
        self._targets: set[str] = set()
        self._trusted: frozenset[str] = frozenset()
        # The stamps that the key would have in each of its regions.
        self._replicas: frozenset[str] = frozenset()

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
        return None if self._arn is None else self._stamp(self._arn)

    def fingerprint(self, kek_id: str) -> str:
        """Return the stamp itself: an ARN is never given to another key, and keeps its material."""
        return kek_id

    def holds(self, kek_id: str) -> bool:
        """Say whether a row's key is the one of this URI, or one that its alias has meant.

        Which those are is never read from rows: whoever writes them has keys of his own.
        """
        arn = KeyArn.of_stamp(kek_id)
        if arn is None or not self._may_be(arn):
            return False
        if self._name.key is not None:
            return True
        names = {kek_id, self._here(arn).stamp}
        return not names.isdisjoint(self._targets | self._trusted)

    def trust(self, kek_ids: frozenset[str]) -> None:
        """Be told which kek_ids are on record; see :meth:`KekBackend.trust`.

        What was trusted once stays so: else a record that is touched would lock users out.
        """
        self._trusted |= kek_ids

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
        self._learn(metadata["Arn"])
        self._replicas = replicas(metadata)
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
            KeyId=self._here(arn).text,
            EncryptionContext=context(binding, wrap.format_version),
        )
        self._see_same(arn, answer["KeyId"])
        plaintext: bytes = answer["Plaintext"]
        return plaintext

    def _reencrypt_one(self, item: OwnedWrap) -> Wrap:
        blob, arn = parse_wrap(self._uri, item.wrap)
        answer = self._client.get().re_encrypt(
            CiphertextBlob=blob,
            SourceKeyId=self._here(arn).text,
            SourceEncryptionContext=context(item.binding),
            DestinationKeyId=self._name.text,
            DestinationEncryptionContext=context(item.binding),
        )
        self._see_same(arn, answer["SourceKeyId"])
        return self._wrap_of(answer)

    def _here(self, arn: KeyArn) -> KeyArn:
        """Return the ARN that a key has in the region that is asked."""
        return arn.in_region(self._client.region)

    def _stamp(self, arn: KeyArn) -> str:
        """Return what rows carry: of the replicas the one on record, so that regions agree."""
        known = self._replicas & self._trusted if arn.stamp in self._replicas else ()
        # Two first boots at once may have put two of them on record: then all take the same one.
        return min(known, default=arn.stamp)

    def _may_be(self, arn: KeyArn) -> bool:
        known, arn = self._arn, self._here(arn)
        return (
            self._name.may_mean(arn)
            and arn.region == self._client.region
            and (known is None or (known.partition, known.account) == (arn.partition, arn.account))
        )

    def _encrypt_twice(self, binding: Binding, key: bytes) -> Wrap:
        return self._reencrypt_one(OwnedWrap(binding, self._encrypt(binding, key)))

    def _dry_decrypt(self) -> None:
        if self._arn is None:
            raise Transient(f"{self._uri.text}: the key is not known yet")
        client = self._client.get()
        # Each of the two says that the right is there: KMS looks at the policy first.
        with contextlib.suppress(
            client.exceptions.DryRunOperationException,
            client.exceptions.InvalidCiphertextException,
        ):
            client.decrypt(
                CiphertextBlob=b"no ciphertext",
                KeyId=self._arn.text,
                EncryptionContext=context(_PROBE),
                DryRun=True,
                DryRunModifiers=["IGNORE_CIPHERTEXT"],
            )

    def _wrap_of(self, answer: Mapping[str, Any]) -> Wrap:
        arn = self._learn(answer["KeyId"])
        blob: bytes = answer["CiphertextBlob"]
        if not blob:
            raise Transient(f"{self._uri.text}: an answer without a ciphertext")
        return Wrap(base64.b64encode(blob).decode(), "", FORMAT_CURRENT, self._stamp(arn))

    def _learn(self, text: object) -> KeyArn:
        """Remember which key KMS says it used."""
        arn = KeyArn.parse(text)
        if arn is None:
            raise Transient(f"{self._uri.text}: an answer without the ARN of a key")
        if not self._may_be(arn):
            raise self._other_key()
        self._targets.add(arn.stamp)
        self._arn = arn
        return arn

    def _see_same(self, asked: KeyArn, answered: object) -> None:
        if answered != self._here(asked).text:
            raise self._other_key()

    def _other_key(self) -> Misconfigured:
        return Misconfigured(
            f"KEK {self._uri.text}: another key answered than the one that was asked; is the "
            "endpoint AWS KMS, and are the credentials those of the same account?"
        )

    def _translate(self, error: Exception) -> KekError:
        return translate(self._uri, error)
