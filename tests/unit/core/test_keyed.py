from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire_agent.core.keyed import NOWHERE, KeyedRows, joined
from podwire_agent.core.table import Words, hash_words
from podwire_agent.statements import WIRE

pytestmark = pytest.mark.unit

ROW = np.dtype([("a", "u4"), ("b", "u4"), ("count", "u8")])


def weak(words: Words, seed: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """Few different hashes under the first seeds."""
    hashes = hash_words(words, seed)
    return hashes % np.uint64(5) if seed < 3 else hashes


identities = st.tuples(st.integers(0, 3), st.integers(0, 3))


@given(st.lists(st.tuples(st.lists(identities, max_size=8), st.sets(identities, max_size=3)), max_size=8))
def test_rows_are_found_by_their_identity_whatever_collides(
    steps: list[tuple[list[tuple[int, int]], set[tuple[int, int]]]],
) -> None:
    keyed = KeyedRows(ROW, 2, limit=9, seed=0, word_hash=weak)
    model: dict[tuple[int, int], int] = {}
    for added, dropped in steps:
        words = np.array(added, np.uint32).reshape(len(added), 2)
        slots, fresh = keyed.ensure(words)
        assert keyed.rows["count"][fresh].tolist() == [0] * len(fresh)
        for identity, slot in zip(added, slots.tolist(), strict=True):
            if identity not in model and len(model) < 9:
                model[identity] = 0
            assert (slot == NOWHERE) == (identity not in model)
            if slot != NOWHERE:
                keyed.rows["count"][slot] += 1
                model[identity] += 1
        gone = np.array([(int(row["a"]), int(row["b"])) in dropped for row in keyed.rows], np.bool_)
        assert keyed.drop(gone) == len(model.keys() & dropped)
        model = {identity: count for identity, count in model.items() if identity not in dropped}
        assert {(int(row["a"]), int(row["b"])): int(row["count"]) for row in keyed.rows} == model
        every = np.array([(a, b) for a in range(4) for b in range(4)], np.uint32)
        found = [
            tuple(words)
            for words, slot in zip(every.tolist(), keyed.find(every).tolist(), strict=True)
            if slot != NOWHERE
        ]
        assert set(found) == set(model)


def test_rows_that_are_joined_keep_the_byte_order_of_their_ports() -> None:
    one = np.zeros(1, WIRE)
    one["src_port"] = 80
    both = joined([one, one], WIRE)
    assert both.dtype == WIRE
    assert both.tobytes() == one.tobytes() * 2
