"""Merkle proofs (RFC 9162, 2.1.3 and 2.1.4): that a leaf is in the tree under a root, and that one tree begins with another.

A proof is made from the nodes of a tree by whoever has them, and checked with nothing but SHA-256 by whoever has two roots, or a
leaf and a root. The checks follow the RFC step by step; what they refuse is a `ProofError` that says why.
"""

from __future__ import annotations

from typing import NamedTuple

from ctxlog.core.merkle import EMPTY_ROOT, HASH_BYTES, NodeSource, node_hash, subtree_root
from ctxlog.errors import InvalidInputError, ProofError

PATH_MAX = 64
"""Hashes in a path: a tree of 2^64 leaves has no longer one. A proof that names more is refused before it is read."""


class InclusionProof(NamedTuple):
    """That leaf number `leaf` is in a tree of `size` leaves: the hashes beside the way from the leaf up to the root."""

    leaf: int
    size: int
    path: tuple[bytes, ...]


class ConsistencyProof(NamedTuple):
    """That a tree of `new_size` leaves begins with the tree of `old_size` leaves."""

    old_size: int
    new_size: int
    path: tuple[bytes, ...]


def prove_inclusion(index: int, size: int, node: NodeSource) -> InclusionProof:
    """Make the proof for a leaf of a tree whose nodes `node` gives.

    Raises:
        InvalidInputError: The tree has no such leaf.
    """
    if not 0 <= index < size:
        raise InvalidInputError(f"leaf {index} of a tree of {size} leaves: there is none; nothing was proved")
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(subtree_root(middle, end, node))
            end = middle
        else:
            path.append(subtree_root(start, middle, node))
            start = middle
    return InclusionProof(index, size, tuple(reversed(path)))


def prove_consistency(old_size: int, new_size: int, node: NodeSource) -> ConsistencyProof:
    """Make the proof between two sizes of one tree whose nodes `node` gives.

    Raises:
        InvalidInputError: The sizes are not in order.
    """
    if not 0 <= old_size <= new_size:
        raise InvalidInputError(f"from {old_size} to {new_size} leaves: a tree does not shrink; nothing was proved")
    path: list[bytes] = []
    if 0 < old_size < new_size:
        start, end, whole = 0, new_size, True
        while end != old_size:
            middle = start + _split(end - start)
            if old_size <= middle:
                path.append(subtree_root(middle, end, node))
                end = middle
            else:
                path.append(subtree_root(start, middle, node))
                start, whole = middle, False
        if not whole:  # Otherwise the old root is what the path begins with, and who checks has it.
            path.append(subtree_root(start, end, node))
    return ConsistencyProof(old_size, new_size, tuple(reversed(path)))


def check_inclusion(proof: InclusionProof, leaf: bytes, root: bytes) -> None:
    """Check that the leaf with hash `leaf` is where the proof says, in the tree with this root.

    Raises:
        ProofError: It is not shown.
    """
    _check_shape("inclusion", proof.path, proof.leaf, proof.size)
    if not 0 <= proof.leaf < proof.size:
        raise ProofError("inclusion", f"leaf {proof.leaf} cannot be in a tree of {proof.size} leaves")
    place, last, found = proof.leaf, proof.size - 1, leaf
    for beside in proof.path:
        if last == 0:
            raise ProofError("inclusion", "the path is longer than the way to the root")
        if place & 1 or place == last:
            found = node_hash(beside, found)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            found = node_hash(found, beside)
        place, last = place >> 1, last >> 1
    if last != 0:
        raise ProofError("inclusion", "the path is shorter than the way to the root")
    if found != root:
        raise ProofError("inclusion", "it leads to another root")


def check_consistency(proof: ConsistencyProof, old_root: bytes, new_root: bytes) -> None:
    """Check that the tree with `new_root` begins with the tree with `old_root`.

    Raises:
        ProofError: It is not shown.
    """
    old_size, new_size, path = proof
    _check_shape("consistency", path, old_size, new_size)
    if not 0 <= old_size <= new_size:
        raise ProofError("consistency", f"a tree of {new_size} leaves cannot begin with one of {old_size}")
    if old_size in (0, new_size):
        # Nothing is to be shown, but that the root is the one that such a tree has.
        expected = EMPTY_ROOT if old_size == 0 else new_root
        if path or old_root != expected:
            raise ProofError("consistency", "the path is longer than it can be" if path else "the roots differ")
        if new_size == 0 and new_root != EMPTY_ROOT:
            raise ProofError("consistency", "the roots differ")
        return
    if not path:
        raise ProofError("consistency", "the path is empty")
    hashes = list(path)
    if old_size & (old_size - 1) == 0:
        hashes.insert(0, old_root)
    place, last = old_size - 1, new_size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    old_found = new_found = hashes[0]
    for beside in hashes[1:]:
        if last == 0:
            raise ProofError("consistency", "the path is longer than the way to the root")
        if place & 1 or place == last:
            old_found, new_found = node_hash(beside, old_found), node_hash(beside, new_found)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            new_found = node_hash(new_found, beside)
        place, last = place >> 1, last >> 1
    if last != 0:
        raise ProofError("consistency", "the path is shorter than the way to the root")
    if old_found != old_root:
        raise ProofError("consistency", "it leads to another root of the older tree")
    if new_found != new_root:
        raise ProofError("consistency", "it leads to another root of the newer tree")


def _split(size: int) -> int:
    """The largest power of two below `size`, which is above 1: so many leaves are on the left of the root."""
    return 1 << (size - 1).bit_length() - 1


def _check_shape(what: str, path: tuple[bytes, ...], *sizes: int) -> None:
    if len(path) > PATH_MAX or any(type(part) is not bytes or len(part) != HASH_BYTES for part in path):
        raise ProofError(what, f"expected at most {PATH_MAX} hashes of {HASH_BYTES} bytes")
    if any(type(size) is not int or size >= 1 << PATH_MAX for size in sizes):
        raise ProofError(what, "a size is no 64-bit number")
