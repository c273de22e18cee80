"""Packed numbers are those that a dict would have, whatever the ids look like."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxlog.projection import packed
from ctxlog.projection.packed import Packed

# Few of each half, so that many begin alike and many are the same.
HALVES = st.sampled_from((0, 1, 2**63, 2**64 - 1))
UUIDS = st.builds(lambda high, low: str(UUID(int=high << 64 | low)), HALVES, HALVES)
OTHERS = st.one_of(
    st.text(max_size=3),
    UUIDS.map(str.upper),
    UUIDS.map(lambda text: text.replace("-", "")),
    UUIDS.map(lambda text: text + "\n"),
    UUIDS.map(lambda text: text.replace("0", "\N{ARABIC-INDIC DIGIT ZERO}")),
)


@given(
    prefix=st.sampled_from(("", "call:")),
    steps=st.lists(st.tuples(st.sampled_from(("", "call:")), UUIDS | OTHERS, st.integers(-1, 2**62)), max_size=60),
    begun=st.integers(0, 60),
    recent=st.sampled_from((0, 1, 5, 1000)),
)
def test_packed_numbers_are_those_of_a_dict(prefix: str, steps: list[tuple[str, str, int]], begun: int, recent: int) -> None:
    expected = {before + text: value for before, text, value in steps[:begun]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "RECENT_MIN", recent)
        found = Packed(expected, prefix)
        for before, text, value in steps[begun:]:
            expected[before + text] = found[before + text] = value
        asked = {one + text for before, text, _ in steps for one in ("", "call:", before)} | {"", "call:"}
        assert {text: found.get(text) for text in asked} == {text: expected.get(text) for text in asked}
        assert [text in found for text in sorted(asked)] == [text in expected for text in sorted(asked)]
        assert len(found) >= len(expected)
        for text, value in expected.items():
            assert found[text] == value
        with pytest.raises(KeyError):
            found["not there"]


def test_what_is_packed_takes_a_few_bytes_an_id() -> None:
    found = Packed({str(UUID(int=number * 2**70 + number)): number for number in range(20_000)})
    assert sum(column.itemsize * len(column) for column in (found._high, found._low, found._values)) == 24 * 20_000
    assert not found._recent
