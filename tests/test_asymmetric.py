"""Asymmetric ranking against a plain product."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.errors import InputError
from utils.retrieval.asymmetric import refine
from utils.retrieval.hamming import pack, topk, unpack

quick = settings(max_examples=60, deadline=None)


def case(seed, queries, items, bits):
    rng = np.random.default_rng(seed)
    relaxed = np.tanh(rng.standard_normal((queries, bits))).astype(np.float32)
    return relaxed, pack(rng.standard_normal((items, bits)))


@quick
@given(st.integers(0, 99), st.integers(1, 5), st.integers(1, 200), st.integers(1, 140), st.integers(1, 50))
def test_refine_is_a_stable_sort_by_score(seed, queries, items, bits, k):
    relaxed, database = case(seed, queries, items, bits)
    position = topk(pack(relaxed), database, k)[1]
    score, order = refine(relaxed, database, position)
    assert score.dtype == np.float64 and order.dtype == np.int64
    every = relaxed.astype(np.float64) @ unpack(database, bits).T.astype(np.float64)
    for q, row in enumerate(position):
        expected = sorted(row.tolist(), key=lambda i: (-every[q, i], i))
        np.testing.assert_allclose(score[q], every[q, expected], rtol=0, atol=1e-12)
        new = row[order[q]]
        np.testing.assert_allclose(every[q, new], every[q, expected], rtol=0, atol=1e-12)
        assert sorted(new) == sorted(row)


def test_equal_scores_stand_in_database_order():
    relaxed = np.array([[0.5, -0.25, 1.0]], np.float32)
    database = pack(np.array([[1, 1, 1], [1, -1, 1], [1, 1, 1], [-1, -1, -1], [1, -1, 1]]))
    score, order = refine(relaxed, database, np.array([[4, 3, 2, 1, 0]]))
    np.testing.assert_array_equal(np.array([4, 3, 2, 1, 0])[order[0]], [1, 4, 0, 2, 3])
    np.testing.assert_array_equal(score, [[1.75, 1.75, 1.25, 1.25, -1.25]])


good = case(0, 2, 9, 12)


@pytest.mark.parametrize("relaxed, database, position, words", [
    (good[0][:, :4], good[1], [[0], [1]], "not a code of 4 bits"),
    (good[0][0], good[1], [[0], [1]], "real numbers"),
    (good[0].astype(int), good[1], [[0], [1]], "real numbers"),
    (good[0] * np.nan, good[1], [[0], [1]], "NaN"),
    (good[0] * np.inf, good[1], [[0], [1]], "NaN"),
    (good[0], good[1], [[0]], "[2, k]"),
    (good[0], good[1], [[0.0], [1.0]], "[2, k]"),
    (good[0], good[1], [[0], [9]], "found 0 to 9"),
    (good[0], good[1], [[-1], [8]], "found -1 to 8"),
])
def test_bad_input_is_one_clear_line(relaxed, database, position, words):
    with pytest.raises(InputError) as error:
        refine(relaxed, database, np.array(position))
    assert words in str(error.value) and "\n" not in str(error.value)
