"""Which key of AWS KMS a name stands for, as KMS says it, and which rows are that key's."""

from collections.abc import Mapping
from typing import Any

from kek_backends.aws.key import replicas_of
from kek_backends.aws.names import KeyArn, KeyName
from kek_backends.errors import Misconfigured, Transient
from kek_backends.uri import KekUri


class Identity:
    """What is known of a key's name.

    Args:
        uri: of the KEK, for messages.
        name: its path, parsed.
        region: the one that is asked.
    """

    def __init__(self, uri: KekUri, name: KeyName, region: str) -> None:
        self._uri = uri
        self._name = name
        self._region = region
        # As last learnt. Two threads may learn at once: the last one counts, and both were true.
        self.arn = KeyArn.parse(name.text)
        # What an alias has meant: by KMS itself in this process, and by records that were judged.
        self._targets: set[str] = set()
        self._trusted: frozenset[str] = frozenset()
        # The stamps that the key would have in each of its regions; None: KMS was not asked yet.
        self._replicas: frozenset[str] | None = None

    @property
    def kek_id(self) -> str | None:
        """The stamp of new wraps, as last learnt."""
        return self.stamp(self.arn) if self.arn and self.is_known else None

    @property
    def is_known(self) -> bool:
        """Whether all is known that a stamp is made of.

        Before KMS has said where the replicas of a key are, none of them is known to be the one on
        record: a stamp of its own would be a second one for the same key.
        """
        return self.arn is not None and not (self.arn.is_multi_region and self._replicas is None)

    def holds(self, kek_id: str) -> bool:
        """Say whether a row's key is the one of this name, or one that an alias has meant.

        Which those are is never read from rows: whoever writes them has keys of his own.
        """
        arn = KeyArn.of_stamp(kek_id)
        if arn is None or not self._may_be(arn):
            return False
        if self._name.key is not None:
            return True
        names = {kek_id, self.here(arn).stamp}
        return not names.isdisjoint(self._targets | self._trusted)

    def trust(self, kek_ids: frozenset[str]) -> None:
        """Be told which kek_ids are on record.

        What was trusted once stays so: else a record that is touched would lock users out.
        """
        self._trusted |= kek_ids

    def learn(self, text: object) -> KeyArn:
        """Remember which key KMS says it used, and return it.

        Raises:
            Transient: it names none.
            Misconfigured: it can't be the key of this name.
        """
        arn = KeyArn.parse(text)
        if arn is None:
            raise Transient(f"{self._uri.text}: an answer without the ARN of a key")
        if not self._may_be(arn):
            raise self._other_key()
        self._targets.add(arn.stamp)
        self.arn = arn
        return arn

    def learn_replicas(self, metadata: Mapping[str, Any]) -> None:
        """Remember in which regions the key is.

        Args:
            metadata: of DescribeKey.
        """
        self._replicas = replicas_of(metadata)

    def stamp(self, arn: KeyArn) -> str:
        """Return what rows carry: of the replicas the one on record, so that regions agree."""
        replicas = self._replicas or frozenset()
        known = replicas & self._trusted if arn.stamp in replicas else ()
        # Two first boots at once may have put two of them on record: then all take the same one.
        return min(known, default=arn.stamp)

    def here(self, arn: KeyArn) -> KeyArn:
        """Return the ARN that a key has in the region that is asked."""
        return arn.in_region(self._region)

    def see_same(self, asked: KeyArn, answered: object) -> None:
        """See that the key answered that was asked.

        Raises:
            Misconfigured: another one did.
        """
        if answered != self.here(asked).text:
            raise self._other_key()

    def _may_be(self, arn: KeyArn) -> bool:
        known, arn = self.arn, self.here(arn)
        return (
            self._name.may_mean(arn)
            and arn.region == self._region
            and (known is None or (known.partition, known.account) == (arn.partition, arn.account))
        )

    def _other_key(self) -> Misconfigured:
        return Misconfigured(
            f"KEK {self._uri.text}: another key answered than the one that was asked; is the "
            "endpoint AWS KMS, and are the credentials those of the same account?"
        )
