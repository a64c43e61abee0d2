"""moto's server in a thread: a KMS that decrypts for real."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
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

    def make_key(self, alias: str | None = None, region: str = REGION, **fields: str) -> str:
        """Make a key, with an alias that may be there already, and return its ARN."""
        with self.client(region) as client:
            arn: str = client.create_key(**fields)["KeyMetadata"]["Arn"]
            if alias is not None:
                known = client.list_aliases()["Aliases"]
                there = any(one["AliasName"] == alias for one in known)
                point = client.update_alias if there else client.create_alias
                point(AliasName=alias, TargetKeyId=arn)
            return arn


@contextmanager
def moto_server() -> Iterator[Moto]:
    """Run a server for the length of the block."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield Moto("http://{}:{}".format(*server.get_host_and_port()))
    finally:
        server.stop()
