"""The Merkle tree: vectors that others published, a naive reading of the RFC, and proofs of which no changed one passes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

import merkle_oracle as oracle
from ctxlog.core.digests import prefixed
from ctxlog.core.merkle import (
    EMPTY_ROOT,
    CompactRange,
    leaf_data,
    leaf_hash,
    node_hash,
    peaks_of,
    root_of_peaks,
)
from ctxlog.core.proofs import (
    ConsistencyProof,
    InclusionProof,
    check_consistency,
    check_inclusion,
    prove_consistency,
    prove_inclusion,
)
from ctxlog.errors import InvalidInputError, ProofError

SIZE = 130
LEAVES = [b"leaf %d" % number for number in range(SIZE)]

VECTOR_LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
VECTOR_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
"""The test data of Certificate Transparency (RFC 6962) that its implementations share: roots of the first 1 … 8 of the leaves."""


def node(level: int, index: int) -> bytes:
    """A tree's node, by the oracle."""
    return _node(level, index)


@cache
def _node(level: int, index: int) -> bytes:
    return oracle.mth(LEAVES[index << level : (index + 1) << level])


@cache
def root(size: int) -> bytes:
    return oracle.mth(LEAVES[:size])


def test_roots_are_those_of_the_published_vectors() -> None:
    tree = CompactRange()
    assert tree.root() == EMPTY_ROOT
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    for leaf, expected in zip(VECTOR_LEAVES, VECTOR_ROOTS, strict=True):
        tree.append(leaf_hash(leaf))
        assert tree.root().hex() == expected


def test_proofs_are_those_of_the_published_vectors() -> None:
    """Inclusion of leaf 5 in 8 and of leaf 2 in 3, consistency from 6 to 8 and from 2 to 5: RFC 6962's test data."""

    def vector_node(level: int, index: int) -> bytes:
        return oracle.mth(VECTOR_LEAVES[index << level : (index + 1) << level])

    def hexes(path: tuple[bytes, ...]) -> list[str]:
        return [part.hex() for part in path]

    assert hexes(prove_inclusion(5, 8, vector_node).path) == [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]
    assert hexes(prove_inclusion(2, 3, vector_node).path) == ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]
    assert hexes(prove_consistency(6, 8, vector_node).path) == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]
    assert hexes(prove_consistency(2, 5, vector_node).path) == [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ]


def test_a_growing_tree_has_at_each_size_the_root_of_the_definition() -> None:
    tree = CompactRange()
    for size, leaf in enumerate(LEAVES, 1):
        completed = tree.append(leaf_hash(leaf))
        assert completed == [node(level, (size >> level) - 1) for level in range(len(completed))]
        assert size % (1 << len(completed) - 1) == 0
        assert size % (1 << len(completed)) != 0
        assert (tree.size, tree.root()) == (size, root(size))
        assert list(tree.peaks) == peaks_of(size, node)
        assert root_of_peaks(tree.peaks) == root(size)
        assert CompactRange(size, tree.peaks).root() == root(size)


def test_a_tree_is_not_gone_on_with_from_other_peaks() -> None:
    with pytest.raises(ValueError, match="2 peaks, not 1"):
        CompactRange(3, [b"x" * 32])


def test_the_proof_of_each_leaf_at_each_size_is_that_of_the_definition_and_holds() -> None:
    for size in range(1, SIZE + 1):
        for index in range(size):
            proof = prove_inclusion(index, size, node)
            if size <= 40 or index in (0, 1, size // 2, size - 1):
                assert list(proof.path) == oracle.path(index, LEAVES[:size])
            check_inclusion(proof, leaf_hash(LEAVES[index]), root(size))


def test_the_proof_between_any_two_sizes_is_that_of_the_definition_and_holds() -> None:
    for new in range(SIZE + 1):
        for old in range(new + 1):
            proof = prove_consistency(old, new, node)
            if 0 < old < new and (new <= 40 or old in (1, new // 2, new - 1)):
                assert list(proof.path) == oracle.proof(old, LEAVES[:new])
            check_consistency(proof, root(old), root(new))


def test_another_implementation_accepts_our_proofs_and_refuses_changed_ones() -> None:
    tlog = pytest.importorskip("tlog_scales.tlog", reason="tlog-scales is not installed: `make install`")
    dice = random.Random(6962)
    for size in range(1, SIZE + 1):
        for index in {0, size - 1, dice.randrange(size)}:
            path = list(prove_inclusion(index, size, node).path)
            tlog.InclusionProof(index, size, path).check(leaf_hash(LEAVES[index]), root(size))
            with pytest.raises(tlog.InclusionProofInvalid):
                tlog.InclusionProof(index, size, path).check(leaf_hash(b"another"), root(size))
        old = dice.randrange(size + 1)
        path = list(prove_consistency(old, size, node).path)
        tlog.ConsistencyProof(old, size, path).check(root(old), root(size))
        with pytest.raises(tlog.ConsistencyProofInvalid):
            tlog.ConsistencyProof(old, size, path).check(flipped(root(old), 7), root(size))


def flipped(data: bytes, bit: int) -> bytes:
    return bytes(byte ^ (1 << bit % 8 if place == bit // 8 else 0) for place, byte in enumerate(data))


def changed_paths(path: tuple[bytes, ...], dice: random.Random) -> Iterator[tuple[bytes, ...]]:
    """A path with a bit flipped, a hash left out, doubled, swapped, added, cut."""
    for place in range(len(path)):
        yield (*path[:place], flipped(path[place], dice.randrange(256)), *path[place + 1 :])
        yield (*path[:place], *path[place + 1 :])
        yield (*path[:place], path[place], *path[place:])
        yield (*path[:place], path[place][:-1], *path[place + 1 :])
        if place and path[place - 1] != path[place]:
            yield (*path[: place - 1], path[place], path[place - 1], *path[place + 1 :])
    yield (*path, dice.randbytes(32))
    yield (dice.randbytes(32), *path)


def test_no_changed_proof_of_inclusion_passes() -> None:
    dice = random.Random(9162)
    for size in range(1, SIZE + 1):
        for index in {0, size - 1, dice.randrange(size), dice.randrange(size)}:
            proof, leaf = prove_inclusion(index, size, node), leaf_hash(LEAVES[index])
            changed = [(proof._replace(path=path), leaf, root(size)) for path in changed_paths(proof.path, dice)]
            changed += [(proof, flipped(leaf, dice.randrange(256)), root(size)), (proof, LEAVES[index], root(size))]
            changed += [(proof, leaf, flipped(root(size), dice.randrange(256)))]
            changed += [(proof, leaf, root(other)) for other in (size - 1, size + 1) if other <= SIZE]
            changed += [(proof._replace(leaf=other), leaf, root(size)) for other in {*range(-1, size + 2)} - {index}]
            # Of other sizes, those where the way to the root turns elsewhere. (Beside the others a path leads to the same root:
            # which size a root has, says whoever signed it.)
            changed += [(proof._replace(size=other), leaf, root(size)) for other in (0, index, 2 * size + 2, 4 * size + 4)]
            for case in changed:
                with pytest.raises(ProofError):
                    check_inclusion(*case)


def test_no_changed_proof_of_consistency_passes() -> None:
    dice = random.Random(9162)
    for new in range(2, SIZE + 1):
        for old in {1, new - 1, dice.randrange(1, new), dice.randrange(1, new)}:
            proof = prove_consistency(old, new, node)
            changed = [(proof._replace(path=path), root(old), root(new)) for path in changed_paths(proof.path, dice)]
            changed += [
                (proof._replace(path=()), root(old), root(new)),
                (proof, flipped(root(old), dice.randrange(256)), root(new)),
                (proof, root(old), flipped(root(new), dice.randrange(256))),
                (proof, root(new), root(old)),
                (proof._replace(old_size=0), root(old), root(new)),
                (proof._replace(old_size=new), root(old), root(new)),
                (proof._replace(old_size=new + 1), root(old), root(new)),
                (proof._replace(old_size=-1), root(old), root(new)),
                (proof._replace(new_size=4 * new), root(old), root(new)),
            ]
            for case in changed:
                with pytest.raises(ProofError):
                    check_consistency(*case)


def test_trees_that_need_no_proof_are_compared_all_the_same() -> None:
    nothing: tuple[bytes, ...] = ()
    check_consistency(ConsistencyProof(0, 5, nothing), EMPTY_ROOT, root(5))
    check_consistency(ConsistencyProof(5, 5, nothing), root(5), root(5))
    check_consistency(ConsistencyProof(0, 0, nothing), EMPTY_ROOT, EMPTY_ROOT)
    for proof, old, new in (
        (ConsistencyProof(0, 5, nothing), root(1), root(5)),
        (ConsistencyProof(5, 5, nothing), root(4), root(5)),
        (ConsistencyProof(0, 0, nothing), EMPTY_ROOT, root(1)),
        (ConsistencyProof(0, 5, (root(5),)), EMPTY_ROOT, root(5)),
        (ConsistencyProof(5, 5, (root(5),)), root(5), root(5)),
    ):
        with pytest.raises(ProofError):
            check_consistency(proof, old, new)


@pytest.mark.parametrize(
    "proof",
    [
        InclusionProof(0, 2**70, ()),
        InclusionProof(0, 2, (b"x" * 32,) * 65),
        InclusionProof(0, 2, ("x" * 32,)),  # type: ignore[arg-type]
        InclusionProof(0.0, 2, (b"x" * 32,)),  # type: ignore[arg-type]
    ],
    ids=["size", "path", "text", "fraction"],
)
def test_what_is_no_proof_is_refused_before_it_is_used(proof: InclusionProof) -> None:
    with pytest.raises(ProofError):
        check_inclusion(proof, b"x" * 32, b"x" * 32)


def test_what_there_is_not_cannot_be_proved() -> None:
    for index, size in ((0, 0), (3, 3), (-1, 3)):
        with pytest.raises(InvalidInputError):
            prove_inclusion(index, size, node)
    for old, new in ((4, 3), (-1, 3)):
        with pytest.raises(InvalidInputError):
            prove_consistency(old, new, node)


@given(
    offset=st.integers(0, 2**63 - 1),
    recorded_at=st.integers(-(2**63), 2**63 - 1),
    origin=st.none() | st.text(max_size=20),
    digest=st.binary(min_size=32, max_size=32),
)
def test_a_leaf_holds_offset_time_origin_and_digest(offset: int, recorded_at: int, origin: str | None, digest: bytes) -> None:
    data = leaf_data(offset, recorded_at, origin, digest)
    assert data[:8] == offset.to_bytes(8, "big")
    assert int.from_bytes(data[8:16], "big", signed=True) == recorded_at
    assert data[16:] == prefixed(None if origin is None else origin.encode()) + digest


def test_a_leaf_is_not_taken_for_a_node() -> None:
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    assert leaf_hash(left + right) != node_hash(left, right)
