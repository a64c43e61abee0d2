"""moto's server as a process of its own: a KMS that decrypts for real."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import boto3

from tests.leaks import LOGS
from tests.ports import free_port
from tests.servers import wait_for

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

    @contextmanager
    def client(self, region: str = REGION) -> Iterator[Any]:
        """A client of an administrator."""
        client = boto3.client(
            "kms",
            region_name=region,
            endpoint_url=self.url,
            aws_access_key_id="admin",
            aws_secret_access_key="admin",
        )
        with closing(client):
            yield client

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
    """Run a server for the length of the block; its output is a log of the run."""
    port = free_port()
    log = LOGS / f"moto-{os.getpid()}-{secrets.token_hex(4)}.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=stream,
            stderr=stream,
            env={"PATH": os.environ["PATH"]},
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/moto-api/data.json", process, log)
        yield Moto(url)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
