"""The Merkle tree over a partition's records, as RFC 9162 (section 2.1) defines it: leaves, nodes, roots.

Pure: the same records give the same root on every machine. A tree only grows at its right edge, so its root needs no more than
the complete subtrees that its size is the sum of: the compact range. Proofs are in `core.proofs`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ctxlog.core.digests import prefixed, sha256

HASH_BYTES = 32

EMPTY_ROOT = sha256(b"").digest()
"""Root of the tree without leaves."""

NodeSource = Callable[[int, int], bytes]
"""Gives the hash of a complete subtree by its level (0 is a leaf) and its number among those of that level, from the left."""


def leaf_data(offset: int, recorded_at: int, origin: str | None, digest: bytes) -> bytes:
    """What a record is in the tree: offset and log time (ms) as 8 bytes big-endian each, P(origin or null), record digest.

    Raises:
        OverflowError: Offset or time are no 64-bit numbers.
    """
    times = offset.to_bytes(8, "big", signed=True) + recorded_at.to_bytes(8, "big", signed=True)
    return times + prefixed(None if origin is None else origin.encode()) + digest


def leaf_hash(data: bytes) -> bytes:
    """Hash of a leaf, 32 bytes. The prefix keeps a leaf from being taken for a node."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of a node over its two children."""
    return sha256(b"\x01" + left + right).digest()


def peak_levels(size: int) -> list[int]:
    """Levels of the complete subtrees that a tree of `size` leaves is made of, from the left: the bits of its size."""
    return [level for level in range(size.bit_length() - 1, -1, -1) if size >> level & 1]


def peaks_of(size: int, node: NodeSource) -> list[bytes]:
    """Hashes of those subtrees."""
    found, start = [], 0
    for level in peak_levels(size):
        found.append(node(level, start >> level))
        start += 1 << level
    return found


def root_of_peaks(peaks: Sequence[bytes]) -> bytes:
    """Root of the tree that these subtrees make."""
    if not peaks:
        return EMPTY_ROOT
    root = peaks[-1]
    for peak in reversed(peaks[:-1]):
        root = node_hash(peak, root)
    return root


def subtree_root(start: int, end: int, node: NodeSource) -> bytes:
    """Root over the leaves at `start` <= index < `end`, where `start` is a multiple of the power of two that holds the range."""
    return root_of_peaks(peaks_of(end - start, lambda level, index: node(level, (start >> level) + index)))


class CompactRange:
    """A tree that grows: the peaks of what was appended so far, from which its root follows at any time.

    Args:
        size: Number of leaves that are there already.
        peaks: Their peaks, as `peaks_of` gives them.

    Attributes:
        size: Number of leaves.
    """

    __slots__ = ("_peaks", "size")

    def __init__(self, size: int = 0, peaks: Sequence[bytes] = ()) -> None:
        if len(peaks) != size.bit_count():
            raise ValueError(f"a tree of {size} leaves has {size.bit_count()} peaks, not {len(peaks)}")
        self.size = size
        self._peaks = list(peaks)

    @property
    def peaks(self) -> tuple[bytes, ...]:
        """Hashes of its complete subtrees, from the left."""
        return tuple(self._peaks)

    def append(self, leaf: bytes) -> list[bytes]:
        """Append the hash of a leaf. Gives the nodes that it completes, from level 0 up: the leaf itself, its parent …"""
        peaks, size = self._peaks, self.size
        completed = [leaf]
        while size & 1:
            leaf = node_hash(peaks.pop(), leaf)
            completed.append(leaf)
            size >>= 1
        peaks.append(leaf)
        self.size += 1
        return completed

    def root(self) -> bytes:
        """Root of the tree as it is."""
        return root_of_peaks(self._peaks)
