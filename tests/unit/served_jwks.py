"""A source of a JWKS, its cache and a verifier of tokens, under a clock that a test turns."""

import asyncio
import json

from custody.auth.jwks import JwksCache
from custody.auth.rules import TokenRules
from custody.auth.tokens import TokenVerifier
from tests.clock import Clock
from tests.tokens import Issuer


class ServedJwks:
    """Serves ``document``; ``problem`` is raised instead, and who fetches waits for ``gate``.

    Args:
        issuer: whose tokens are verified.
        document: of the issuer's, unless told otherwise.
        now: the first time of its clock.
        max_age: of the cache.
    """

    def __init__(
        self,
        issuer: Issuer,
        document: bytes = b"",
        now: float = 1000.0,
        max_age: float = 86400,
    ) -> None:
        self.issuer = issuer
        self.document = document or issuer.jwks()
        self.clock = Clock(now)
        self.fetches = 0
        self.problem: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.cache = JwksCache(
            fetch=self.fetch, source="https://i/jwks", max_age=max_age, clock=self.clock
        )
        rules = TokenRules(issuer.url, issuer.audience, now=self.clock)
        self.verifier = TokenVerifier(self.cache, rules)

    async def fetch(self) -> bytes:
        """Return the document."""
        self.fetches += 1
        await self.gate.wait()
        if self.problem is not None:
            raise self.problem
        return self.document

    def publish(self, *kids: str) -> None:
        """Serve the issuer's key under these names."""
        self.document = jwks(*(self.issuer.jwk(kid=kid) for kid in kids))

    async def knows(self, kid: str | None) -> bool:
        """Return whether the cache has a key of that name."""
        return await self.cache.key_for(kid) is not None


def jwks(*keys: object) -> bytes:
    """Write a JWKS document."""
    return json.dumps({"keys": keys}).encode()
