"""Packing, distances and exact top-k against plain numpy."""
import os
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import utils.cpu
from utils.errors import InputError
from utils.retrieval import compiled, hamming

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
quick = settings(max_examples=60, deadline=None)


def signs(seed, n, bits):
    return np.random.default_rng(seed).choice(np.array([-1, 1], np.int8), (n, bits))


def naive_distances(query, database):
    return (query[:, None, :] != database[None, :, :]).sum(2)


@quick
@given(st.integers(0, 99), st.integers(1, 20), st.integers(1, 300))
def test_pack_and_unpack_are_inverse(seed, n, bits):
    x = signs(seed, n, bits)
    packed = hamming.pack(x)
    assert packed.dtype == np.uint8 and packed.shape == (n, -(-bits // 8))
    np.testing.assert_array_equal(hamming.unpack(packed, bits), x)
    np.testing.assert_array_equal(packed, np.packbits(x > 0, axis=1))


def test_zero_and_minus_zero_count_as_plus():
    x = np.array([[0.0, -0.0, -1e-30, 1e-30, -np.inf, np.inf]], np.float32)
    np.testing.assert_array_equal(hamming.unpack(hamming.pack(x), 6), [[1, 1, -1, 1, -1, 1]])


def ranking(query, database, k, mask=None):
    """(distance, position) of the first k allowed items by a stable sort; k = 0 means all."""
    position = np.arange(database.shape[0]) if mask is None else np.flatnonzero(mask)
    found = naive_distances(query, database[position])
    order = np.argsort(found, axis=1, kind="stable")[:, :k or len(position)]
    return np.take_along_axis(found, order, 1), position[order]


def same(found, expected):
    assert found[0].dtype == np.int32 and found[1].dtype == np.int64
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


@quick
@given(st.integers(0, 99), st.integers(1, 9), st.integers(1, 30))
def test_bits_are_understood_or_refused(seed, n, bits):
    x = np.random.default_rng(seed).random((n, bits)) < 0.5
    expected = np.packbits(x, axis=1)
    for dtype in (bool, np.uint8, np.uint64):
        np.testing.assert_array_equal(hamming.pack(x.astype(dtype)), expected)
    for dtype in (np.int8, np.int64, np.float32):
        for signs in (np.where(x, 1, -1), np.ones_like(x), -np.ones_like(x, int)):
            np.testing.assert_array_equal(hamming.pack(signs.astype(dtype)), np.packbits(signs > 0, axis=1))
        if x.any() and not x.all():  # by their sign all bits would be 1
            with pytest.raises(InputError, match="astype"):
                hamming.pack(x.astype(dtype))
    with pytest.raises(InputError, match="astype"):
        hamming.pack(np.zeros((n, bits), int))
    np.testing.assert_array_equal(hamming.pack(np.zeros((n, bits))), hamming.pack(np.ones((n, bits))))


@quick
@given(st.integers(0, 99), st.integers(1, 9), st.integers(1, 40), st.integers(1, 1024))
def test_distances_equal_a_count_of_differing_signs(seed, q, n, bits):
    query, database = signs(seed, q, bits), signs(seed + 1, n, bits)
    query[0] = -database[0]  # the largest distance
    a, b = hamming.pack(query), hamming.pack(database)
    for found in (hamming.distances(a, b), hamming.distances(a, hamming.prepare(b))):
        assert found.dtype == np.uint16
        np.testing.assert_array_equal(found, naive_distances(query, database))


@quick
@given(st.integers(0, 99), st.integers(1, 9), st.integers(1, 200), st.integers(1, 1024), st.integers(0, 210))
def test_topk_is_a_stable_sort(seed, q, n, bits, k):
    query, database = signs(seed, q, bits), signs(seed + 1, n, bits)
    database[n // 2:] = database[:n - n // 2]  # every code twice
    query[0] = -database[0]
    a, b = hamming.pack(query), hamming.pack(database)
    same(hamming.topk(a, b, k), ranking(query, database, k))
    for words in (hamming.prepare(b), hamming.to_words(b), hamming.to_words(b, np.uint16)):
        same(hamming.topk(a, words, k), ranking(query, database, k))


@quick
@given(st.integers(0, 99), st.integers(1, 9), st.integers(1, 300), st.integers(1, 5), st.integers(0, 300))
def test_topk_where_nearly_everything_ties(seed, q, n, bits, k):
    query, database = signs(seed, q, bits), signs(seed + 1, n, bits)
    same(hamming.topk(hamming.pack(query), hamming.pack(database), k), ranking(query, database, k))


@quick
@given(st.integers(0, 99), st.integers(1, 5), st.integers(1, 300), st.integers(1, 70), st.integers(0, 70),
       st.sampled_from([0, 0.02, 0.1, 0.5, 1]), st.booleans())
def test_a_filter_is_a_search_of_the_allowed_items(seed, q, n, bits, k, share, as_positions):
    query, database = signs(seed, q, bits), signs(seed + 1, n, bits)
    rng = np.random.default_rng(seed)
    mask = rng.random(n) < share
    allowed = rng.permutation(np.flatnonzero(mask)) if as_positions else mask
    found = hamming.topk(hamming.pack(query), hamming.pack(database), k, allowed)
    same(found, ranking(query, database, k, mask))


@quick
@given(st.integers(0, 99), st.integers(1, 5), st.integers(1, 300), st.integers(1, 70), st.integers(0, 80),
       st.sampled_from([None, 0, 0.3, 1]))
def test_within_finds_every_item_of_the_ball(seed, q, n, bits, radius, share):
    query, database = signs(seed, q, bits), signs(seed + 1, n, bits)
    mask = None if share is None else np.random.default_rng(seed).random(n) < share
    start, distance, position = hamming.within(hamming.pack(query), hamming.pack(database), radius, mask)
    assert start.dtype == position.dtype == np.int64 and distance.dtype == np.int32
    every, order = ranking(query, database, 0, mask)
    np.testing.assert_array_equal(start, np.concatenate([[0], (every <= radius).sum(1).cumsum()]))
    np.testing.assert_array_equal(distance, every[every <= radius])
    np.testing.assert_array_equal(position, order[every <= radius])


def large_case(bits, n):
    """Codes in clusters, as learned ones are: queries near a few items, far from the rest, many ties."""
    rng = np.random.default_rng(bits)
    centres = rng.choice(np.array([-1, 1], np.int8), (20, bits))
    database = centres[rng.integers(0, 20, n)]
    database = np.where(rng.random((n, bits)) < 0.1, -database, database)
    query = np.where(rng.random((12, bits)) < 0.1, -centres[:12], centres[:12])
    return query, database


@pytest.mark.parametrize("bits, n", [(16, 70001), (24, 33000), (48, 11000), (64, 8500), (128, 4300), (700, 1300)])
def test_several_tiles_pieces_and_parts(bits, n, monkeypatch):
    query, database = large_case(bits, n)
    a, b = hamming.pack(query), hamming.pack(database)
    every, order = ranking(query, database, 0)
    near = every <= bits // 8
    mask = np.random.default_rng(0).random(n) < 0.2

    def check(target):
        for k in (1, 10, 1000, n):
            same(hamming.topk(a, target, k), (every[:, :k], order[:, :k]))
            same(hamming.topk(a[:1], target, k), (every[:1, :k], order[:1, :k]))
        same(hamming.topk(a, target, 50, mask), ranking(query, database, 50, mask))
        start, distance, position = hamming.within(a, target, bits // 8)
        np.testing.assert_array_equal(position, order[near])
        np.testing.assert_array_equal(distance, every[near])

    check(b)
    check(hamming.prepare(b))
    monkeypatch.setattr(hamming, "_PIECE", 1024)
    monkeypatch.setattr(hamming, "_ROWS", 100)
    check(b)
    monkeypatch.setattr(hamming, "_PART", 1)  # several threads share the items of a query
    monkeypatch.setattr(compiled, "threads", lambda: 5)
    check(b)
    check(hamming.prepare(b))


def test_more_copies_of_the_query_than_asked_for():
    database = np.zeros((5000, 8), np.uint8)
    database[:7] = 255
    distance, position = hamming.topk(database[7:8], database, 20)
    assert not distance.any() and position.tolist() == [list(range(7, 27))]


@pytest.mark.parametrize("nb", [6, 8, 16])
def test_a_file_of_codes_is_searched_in_place(nb, tmp_path):
    n = 1_500_000
    codes = np.random.default_rng(0).integers(0, 256, (n, nb), np.uint8)
    codes.tofile(tmp_path / "codes")
    mapped = np.memmap(tmp_path / "codes", np.uint8, "r", shape=(n, nb))
    hamming.topk(codes[:2], codes[:1000], 5)  # compiled
    tracemalloc.start()
    found = hamming.topk(codes[:2], mapped, 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.6 * codes.nbytes
    same(found, hamming.topk(codes[:2], codes, 5))


@quick
@given(st.integers(0, 99), st.integers(1, 9), st.integers(1, 20))
def test_zero_padding_leaves_distances_unchanged(seed, nb, extra):
    data = np.random.default_rng(seed).integers(0, 256, (30, nb), np.uint8)
    longer = np.pad(data, ((0, 0), (0, extra)))
    np.testing.assert_array_equal(hamming.distances(data[:5], data), hamming.distances(longer[:5], longer))


def test_views_that_are_not_contiguous():
    data = np.random.default_rng(0).integers(0, 256, (60, 16), np.uint8)
    odd = np.empty(60 * 16 + 1, np.uint8)[1:].reshape(60, 16)  # words that start at an odd address
    odd[:] = data
    for view in (data[::3, ::2], data.T[:, :16], odd, odd[:, :8], odd.reshape(120, 8)):
        whole = view.copy()
        np.testing.assert_array_equal(hamming.distances(view, view), hamming.distances(whole, whole))
        same(hamming.topk(view, view, 5), hamming.topk(whole, whole, 5))


def test_result_does_not_depend_on_threads(monkeypatch):
    data = np.random.default_rng(0).integers(0, 256, (500, 2), np.uint8)
    results = []
    for threads in (1, 2, 7):
        monkeypatch.setattr(compiled, "threads", lambda: threads)
        results.append(hamming.topk(data, data, 20))
    for distance, position in results[1:]:
        np.testing.assert_array_equal(distance, results[0][0])
        np.testing.assert_array_equal(position, results[0][1])


def test_several_threads_may_search_at_once():
    data = np.random.default_rng(0).integers(0, 256, (3000, 8), np.uint8)
    expected = hamming.topk(data[:50], data, 10)
    with ThreadPoolExecutor(8) as pool:
        for distance, position in pool.map(lambda _: hamming.topk(data[:50], data, 10), range(40)):
            np.testing.assert_array_equal(distance, expected[0])
            np.testing.assert_array_equal(position, expected[1])


def test_thread_count_follows_the_environment(monkeypatch):
    for value in ("1", "", "0", "many", "100000"):
        monkeypatch.setattr(utils.cpu, "USER_THREADS", value)
        assert 1 <= utils.cpu.threads() <= (1 if value == "1" else os.cpu_count())


@pytest.mark.parametrize("user", ["", "3"])
def test_children_see_the_threads_of_the_user_and_not_of_paddle(monkeypatch, user):
    monkeypatch.setattr(utils.cpu, "USER_THREADS", user)
    monkeypatch.setenv("OMP_NUM_THREADS", user or "1")
    utils.cpu.restore_threads()
    assert os.environ.get("OMP_NUM_THREADS", "") == user


ok = np.zeros((3, 4), np.uint8)


@pytest.mark.parametrize("call, words", [
    (lambda: hamming.pack(np.zeros(3)), "codes to pack"),
    (lambda: hamming.pack(np.zeros((3, 0))), "1..1024"),
    (lambda: hamming.pack(np.zeros((3, 1025))), "1..1024"),
    (lambda: hamming.pack(np.array([["a"]])), "codes to pack"),
    (lambda: hamming.pack(np.array([[1.0, np.nan]])), "NaN"),
    (lambda: hamming.pack(np.array([[1, 255]], np.uint8)), "found 255"),
    (lambda: hamming.pack(np.array([[1, 0, 1]])), "as -1 and +1"),
    (lambda: hamming.unpack(ok, 24), "not a code of 24 bits"),
    (lambda: hamming.unpack(ok, 33), "not a code of 33 bits"),
    (lambda: hamming.unpack(ok.astype(float), 32), "uint8"),
    (lambda: hamming.unpack(np.full((2, 2), 255, np.uint8), 12), "bits set behind"),
    (lambda: hamming.distances(ok, ok[:, :2]), "4 bytes, database codes 2"),
    (lambda: hamming.distances(np.zeros((3, 9), np.uint8), hamming.prepare(ok)), "1 words"),
    (lambda: hamming.distances(ok, hamming.prepare(ok).astype(np.uint16)), "1 words of 2 bytes"),
    (lambda: hamming.distances(ok[:0], ok), "nothing to compare"),
    (lambda: hamming.topk(ok, ok[:0], 3), "nothing to compare"),
    (lambda: hamming.topk(ok, ok, -1), "k must be"),
    (lambda: hamming.topk(ok, ok, 2.5), "k must be"),
    (lambda: hamming.topk(ok.tolist(), ok, 1), "list"),
    (lambda: hamming.topk(ok, ok, 1, np.ones(4, bool)), "4 entries, the database 3"),
    (lambda: hamming.topk(ok, ok, 1, [0, 3]), "found 0 to 3"),
    (lambda: hamming.topk(ok, ok, 1, [-1]), "found -1 to -1"),
    (lambda: hamming.topk(ok, ok, 1, [0.5]), "float64"),
    (lambda: hamming.within(ok, ok, -1), "radius"),
    (lambda: hamming.within(ok, ok, 1.5), "radius"),
    (lambda: hamming.within(ok, ok, True), "radius"),
    (lambda: hamming.topk(np.zeros((1, 129), np.uint8), np.zeros((1, 129), np.uint8), 1), "1024"),
])
def test_bad_input_is_one_clear_line(call, words):
    with pytest.raises(InputError) as error:
        call()
    assert words in str(error.value) and "\n" not in str(error.value)


def test_import_is_lean():
    code = "import sys, utils.retrieval.hamming, utils.retrieval.codes; " \
           "print([m for m in ('paddle', 'matplotlib', 'cv2', 'PIL') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
