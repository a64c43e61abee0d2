"""The Merkle tree: known answers, and a plain implementation of RFC 6962's words."""

from hashlib import sha256
from random import Random

import pytest

from custody.audit.merkle import Tree

# The leaves and roots by which the implementations of certificate transparency are tested
# (google/certificate-transparency, merkletree/merkle_tree_test.cc).
INPUTS = [
    bytes.fromhex(leaf)
    for leaf in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def leaves_of(inputs: list[bytes]) -> list[bytes]:
    return [sha256(b"\x00" + one).digest() for one in inputs]


def naive(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    return sha256(b"\x01" + naive(leaves[:half]) + naive(leaves[half:])).digest()


@pytest.mark.parametrize("size", range(len(ROOTS)))
def test_known_roots(size: int) -> None:
    tree = Tree().extended(b"".join(leaves_of(INPUTS[:size])))
    assert (tree.size, tree.root.hex()) == (size, ROOTS[size])


def test_every_size_is_as_the_rfc_has_it_in_whatever_steps_it_grew() -> None:
    chance = Random(17)  # noqa: S311 - nothing secret
    leaves = leaves_of([b"%d" % one for one in range(130)])
    for size in range(len(leaves) + 1):
        tree, done = Tree(), 0
        while done < size:
            step = chance.randint(1, size - done)
            tree = tree.extended(b"".join(leaves[done : done + step]))
            done += step
            assert tree == Tree.of(done, tree.hashes)
            assert tree.extended(b"") == tree
        assert tree == Tree().extended(b"".join(leaves[:size]))
        assert tree.root == naive(leaves[:size])


def test_its_hashes_are_the_roots_of_whole_subtrees_the_largest_first() -> None:
    leaves = leaves_of([b"%d" % one for one in range(13)])
    tree = Tree().extended(b"".join(leaves))
    assert tree.hashes == naive(leaves[:8]) + naive(leaves[8:12]) + leaves[12]


@pytest.mark.parametrize(
    ("size", "length"), [(0, 32), (1, 0), (1, 31), (1, 64), (3, 32), (-1, 0), (-1, 32)]
)
def test_what_is_no_tree_is_refused(size: int, length: int) -> None:
    with pytest.raises(ValueError, match="one hash for each bit"):
        Tree.of(size, bytes(length))


def test_what_is_no_hash_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Tree().extended(bytes(33))
