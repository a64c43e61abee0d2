"""A source of a JWKS, its cache and a verifier of tokens, under a clock that a test turns."""

import asyncio
import json
from dataclasses import dataclass, field

from custody.auth.jwks import JwksCache
from custody.auth.rules import TokenRules
from custody.auth.tokens import TokenVerifier
from tests.clock import Clock
from tests.tokens import Issuer


@dataclass(eq=False)
class ServedJwks:
    """Serves ``document``; ``problem`` is raised instead, and who fetches waits for ``gate``.

    Args:
        issuer: whose tokens are verified.
        document: of the issuer's, unless told otherwise.
        clock: of the cache and of the verifier.
        max_age: of the cache.
    """

    issuer: Issuer
    document: bytes = b""
    clock: Clock = field(default_factory=Clock)
    max_age: float = 86400
    fetches: int = 0
    problem: Exception | None = None

    def __post_init__(self) -> None:
        self.document = self.document or self.issuer.jwks()
        self.gate = asyncio.Event()
        self.gate.set()
        self.cache = JwksCache(
            fetch=self.fetch, source="https://i/jwks", max_age=self.max_age, clock=self.clock
        )
        rules = TokenRules(self.issuer.url, self.issuer.audience, now=self.clock)
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
