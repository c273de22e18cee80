"""RFC 9162, section 2.1, a second time: the recursive definitions as they stand there, over the leaves in a list."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

Leaves = Sequence[bytes]


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _k(n: int) -> int:
    """The largest power of two smaller than n."""
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def mth(leaves: Leaves) -> bytes:
    """MTH(D[n]): section 2.1.1."""
    n = len(leaves)
    if n == 0:
        return _hash(b"")
    if n == 1:
        return _hash(b"\x00" + leaves[0])
    return _hash(b"\x01" + mth(leaves[: _k(n)]) + mth(leaves[_k(n) :]))


def path(m: int, leaves: Leaves) -> list[bytes]:
    """PATH(m, D[n]): section 2.1.3.1."""
    n = len(leaves)
    if n == 1:
        return []
    k = _k(n)
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def proof(m: int, leaves: Leaves) -> list[bytes]:
    """PROOF(m, D[n]): section 2.1.4.1; 0 < m < n."""
    return _subproof(m, leaves, True)


def _subproof(m: int, leaves: Leaves, whole: bool) -> list[bytes]:
    n = len(leaves)
    if m == n:
        return [] if whole else [mth(leaves)]
    k = _k(n)
    if m <= k:
        return [*_subproof(m, leaves[:k], whole), mth(leaves[k:])]
    return [*_subproof(m - k, leaves[k:], False), mth(leaves[:k])]
