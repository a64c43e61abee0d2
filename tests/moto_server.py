"""moto's server in a thread: a KMS that decrypts for real."""

import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from moto.kms import models, urls
from moto.kms.responses import KmsResponse
from moto.server import ThreadedMotoServer

REGION = "eu-central-1"


@dataclass(frozen=True)
class Moto:
    """A running server."""

    url: str

    @property
    def environ(self) -> dict[str, str]:
        """The variables by which a backend finds it."""
        return {
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL_KMS": self.url,
            "AWS_ACCESS_KEY_ID": "AKIAMOTOMOTOMOTOMOTO",
            "AWS_SECRET_ACCESS_KEY": "moto/secret/access/key/of/nobody",
        }

    def client(self, region: str = REGION) -> "closing[Any]":
        """A client of an administrator, for the length of the block."""
        names = {"aws_access_key_id": "admin", "aws_secret_access_key": "admin"}
        return closing(boto3.client("kms", region_name=region, endpoint_url=self.url, **names))

    def make_key(self, alias: str | None = None, region: str = REGION, **fields: Any) -> str:
        """Make a key, with an alias that may be there already, and return its ARN."""
        with self.client(region) as client:
            arn: str = client.create_key(**fields)["KeyMetadata"]["Arn"]
            if alias is not None:
                known = client.list_aliases()["Aliases"]
                there = any(one["AliasName"] == alias for one in known)
                point = client.update_alias if there else client.create_alias
                point(AliasName=alias, TargetKeyId=arn)
            return arn

    def replicate(self, arn: str, region: str) -> None:
        """Make a replica of a multi-Region key."""
        with self.client() as client:
            client.replicate_key(KeyId=arn.rpartition("/")[2], ReplicaRegion=region)


class _Responses(KmsResponse):
    """Takes the id of a multi-Region key as it takes others."""

    def _validate_cmk_id(self, key_id: str) -> None:
        super()._validate_cmk_id(self._display_arn(key_id) if key_id.startswith("mrk-") else key_id)


def _key_id(multi_region: bool = False) -> str:
    made = uuid.uuid4()
    # As AWS has them. Those of moto are longer, and its own ciphertexts have no room for them.
    return f"mrk-{made.hex}" if multi_region else str(made)


@contextmanager
def moto_server() -> Iterator[Moto]:
    """Run a server for the length of the block, whose multi-Region keys are usable."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "generate_key_id", _key_id)
        patch.setattr(urls, "url_paths", {"{0}/$": _Responses.dispatch})
        server.start()
        try:
            yield Moto("http://{}:{}".format(*server.get_host_and_port()))
        finally:
            server.stop()
