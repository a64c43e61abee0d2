"""What a wrap and a key of AWS KMS must look like to be used."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from kek_backends.aws.names import KeyArn, KeyName
from kek_backends.base import FORMAT_CURRENT, FORMAT_USER, Wrap
from kek_backends.binding import Binding
from kek_backends.errors import KeyMissing, Misconfigured, Tampered
from kek_backends.uri import KekUri

# As AWS KMS bounds a ciphertext, in bytes.
_MAX_BLOB_SIZE = 6144
_USABLE_STATES = ("Enabled", "Updating")
_CURES = {
    "Disabled": "aws kms enable-key --key-id {key}",
    "PendingDeletion": "aws kms cancel-key-deletion --key-id {key} (then enable-key, too)",
}


def context(binding: Binding, format_version: int = FORMAT_CURRENT) -> dict[str, str]:
    """Return the encryption context that binds a wrap. CloudTrail shows it.

    Args:
        binding: what to.
        format_version: 3, or 2 for a wrap of before, which is bound to its user alone.
    """
    # KMS compares all of it, so the one with a single name is never one with three.
    return {"custody:user": binding.subject} if format_version == FORMAT_USER else binding.context


def parse_wrap(uri: KekUri, wrap: Wrap) -> tuple[bytes, KeyArn]:
    """Return the ciphertext of a wrap, and the key that made it.

    Args:
        uri: for the message.
        wrap: the row's columns.

    Raises:
        Tampered: AWS KMS has not made it.
    """
    arn = KeyArn.of_stamp(wrap.kek_id)
    try:
        blob = base64.b64decode(wrap.wrapped_mk, validate=True)
    except (binascii.Error, ValueError):
        blob = b""
    good = wrap.wrap_iv == "" and wrap.format_version in (FORMAT_USER, FORMAT_CURRENT)
    if arn is None or not good or not 0 < len(blob) <= _MAX_BLOB_SIZE:
        raise Tampered(f"{uri.text}: the row's wrap is not one of AWS KMS")
    return blob, arn


def check(uri: KekUri, metadata: Mapping[str, Any]) -> None:
    """See whether a key can wrap and unwrap.

    Args:
        uri: for the message.
        metadata: of DescribeKey.

    Raises:
        Misconfigured: it is made for something else.
        KeyMissing: it can't be used in its state.
    """
    # AWS always names both; servers that imitate it leave out what is the default.
    usage, spec = metadata.get("KeyUsage"), metadata.get("KeySpec")
    if usage not in (None, "ENCRYPT_DECRYPT") or spec not in (None, "SYMMETRIC_DEFAULT"):
        raise Misconfigured(
            f"KEK {uri.text}: not a symmetric key for encryption; make one with: aws kms create-key"
        )
    state = str(metadata["KeyState"])
    if state not in _USABLE_STATES:
        cure = f"; run: {_CURES[state].format(key=metadata['KeyId'])}" if state in _CURES else ""
        state = state if state.isalpha() else "in an unknown state"
        raise KeyMissing(f"{uri.text}: the key can't be used: it is {state}{cure}")


def replicas_of(metadata: Mapping[str, Any]) -> frozenset[str]:
    """Return the stamps of a multi-Region key in all its regions; of another key none.

    Args:
        metadata: of DescribeKey.
    """
    found = metadata.get("MultiRegionConfiguration") or {}
    arns = [KeyArn.parse(one.get("Arn")) for one in _replicas(found)]
    own = KeyArn.parse(metadata.get("Arn"))
    return frozenset(arn.stamp for arn in arns if arn and own and arn == own.in_region(arn.region))


def _replicas(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [found.get("PrimaryKey") or {}, *(found.get("ReplicaKeys") or ())]


def missing(uri: KekUri, name: KeyName, region: str) -> KeyMissing:
    """Return the error for a name without a key.

    Args:
        uri: for the message.
        name: the key's.
        region: the one that was asked.
    """
    cure = (
        "check the key id, the region and the account"
        if name.key
        else f"run: aws kms create-alias --alias-name {name.alias} --target-key-id KEY_ID"
    )
    return KeyMissing(f"{uri.text}: no such key in {region}; {cure}")
