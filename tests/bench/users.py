"""Users with vaults, made without a daemon, and the requests that they send.

A user id is a number of 18 digits, so that pgbench can make one up, too. Each master key is known:
so the generator can tell whether an answer is that of the user who asked.
"""

import base64
import hashlib
import random
import time
from collections.abc import Iterator, Mapping, Sequence

from kek_backends.loader import load
from tests.bench.load import Request
from tests.many_rows import copy_rows
from tests.servers import Database
from tests.tokens import Issuer

PATH = "/api/v1/me/encryption-vault"
FIRST = 10**17
_TOKEN_SECONDS = 86_400
# As a browser's: the daemon writes it into the audit row.
USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
_KEK = "env:MANA_AUTH_KEK"


class Users:
    """So many users, always the same ones; iterating gives each user id with its master key.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        for number in range(self.count):
            user = str(FIRST + number)
            yield user, master_key(user)

    def some(self, count: int) -> list[str]:
        """Return the ids of this many of them, or all, picked at random, always the same ones."""
        picked = random.Random(self.count)  # noqa: S311 - nothing secret
        numbers = picked.sample(range(self.count), min(count, self.count))
        return [str(FIRST + number) for number in numbers]


def master_key(user_id: str) -> bytes:
    """Return the 32 bytes of a user's master key."""
    return hashlib.sha256(user_id.encode()).digest()


async def fill(database: Database, users: Users, environ: dict[str, str]) -> None:
    """Give a database these users, with their vaults under the KEK of the environment."""
    await copy_rows(database, load(_KEK, environ=environ, development=False), users)


def tokens_for(issuer: Issuer, users: Sequence[str]) -> dict[str, str]:
    """Make a token for each, which outlives the benchmark."""
    expires = int(time.time()) + _TOKEN_SECONDS
    return {user: issuer.token(user, exp=expires) for user in users}


def request(method: str, target: str, token: str, expected: bytes = b"") -> Request:
    """Return a request as a browser's client sends it.

    Args:
        method: of HTTP.
        target: path.
        token: the user's.
        expected: what the body of its answer must hold.
    """
    lines = [
        f"{method} {target} HTTP/1.1",
        "Host: custody.example",
        f"User-Agent: {USER_AGENT}",
        "Accept: */*",
        f"Authorization: Bearer {token}",
        "Content-Type: application/json",
    ]
    if method != "GET":
        lines.append("Content-Length: 0")
    return Request("\r\n".join([*lines, "", ""]).encode(), expected)


def requests_of(
    tokens: Mapping[str, str], method: str, target: str, *, key: bool = False
) -> list[Request]:
    """Return one request of each user.

    Args:
        tokens: by user id.
        method: of HTTP.
        target: path.
        key: whether the answer must hold the master key of the user who asked.
    """
    return [
        request(method, target, token, base64.b64encode(master_key(user)) if key else b"")
        for user, token in tokens.items()
    ]
