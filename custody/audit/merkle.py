"""The Merkle tree over the audit's rows (RFC 6962, section 2.1): as much as one goes on from."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Self

HASH_SIZE = 32


@dataclass(frozen=True, slots=True)
class Tree:
    """A tree, of which only the roots of its whole subtrees are kept.

    There is one of these for each bit that is set in the size: a tree of ten million leaves is
    256 bytes. That is enough to extend it, and to say its root.

    Args:
        size: how many leaves it has.
        hashes: the roots of its whole subtrees, 32 bytes each, the largest subtree first.
    """

    size: int = 0
    hashes: bytes = b""

    @classmethod
    def of(cls, size: int, hashes: bytes) -> Self:
        """Return a tree that was kept somewhere.

        Args:
            size: how many leaves it has.
            hashes: the roots of its whole subtrees.

        Raises:
            ValueError: no tree of that size has so many.
        """
        if size < 0 or len(hashes) != size.bit_count() * HASH_SIZE:
            raise ValueError("a tree has one hash for each bit that is set in its size")
        return cls(size, hashes)

    def extended(self, leaves: bytes) -> "Tree":
        """Return the tree with more leaves behind those that it has.

        Args:
            leaves: their hashes, 32 bytes each.

        Raises:
            ValueError: these are no hashes.
        """
        added, rest = divmod(len(leaves), HASH_SIZE)
        if rest:
            raise ValueError("a hash has 32 bytes")
        kept, above = self.hashes, self.size
        nodes, roots = leaves, []
        # Level by level: what is there already of this level comes first, then the new nodes. One
        # with no other beside it is the root of a whole subtree; pairs make the next level.
        while nodes or above:
            if above & 1:
                nodes, kept = kept[-HASH_SIZE:] + nodes, kept[:-HASH_SIZE]
            if len(nodes) & HASH_SIZE:
                roots.append(nodes[-HASH_SIZE:])
            nodes = b"".join(
                [
                    sha256(b"\x01" + nodes[at - 64 : at]).digest()
                    for at in range(64, len(nodes) + 1, 64)
                ]
            )
            above >>= 1
        return Tree(self.size + added, b"".join(reversed(roots)))

    @property
    def root(self) -> bytes:
        """The hash over all leaves: the Merkle tree hash of RFC 6962; 32 bytes."""
        if not self.hashes:
            return sha256().digest()
        root = self.hashes[-HASH_SIZE:]
        for end in range(len(self.hashes) - HASH_SIZE, 0, -HASH_SIZE):
            root = sha256(b"\x01" + self.hashes[end - HASH_SIZE : end] + root).digest()
        return root
