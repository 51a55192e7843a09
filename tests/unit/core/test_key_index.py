from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podwire_agent.core.key_index import KeyIndex

words = st.sampled_from((0, 1, 2, 2**32, 2**63, 2**64 - 1))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(words, words, words), unique=True, max_size=60), st.lists(st.tuples(words, words, words)))
def test_each_key_is_found_at_its_row_and_no_other_is(
    keys: list[tuple[int, ...]], asked: list[tuple[int, ...]]
) -> None:
    index = KeyIndex(*np.array(keys, np.uint64).reshape(-1, 3).T)
    asked = asked + keys
    expected = [keys.index(each) if each in keys else -1 for each in asked]
    assert index.find(*np.array(asked, np.uint64).reshape(-1, 3).T).tolist() == expected


@pytest.mark.parametrize("count", [1, 1000, 50_000])
def test_neighbours_do_not_crowd(count: int) -> None:
    keys = np.arange(count, dtype=np.uint64) << np.uint64(40)
    index = KeyIndex(np.zeros(count, np.uint64), keys)
    assert (index.find(np.zeros(count, np.uint64), keys) == np.arange(count)).all()
