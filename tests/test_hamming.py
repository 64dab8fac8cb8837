"""Packing, distances and exact top-k against plain numpy."""
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import utils.cpu
from utils.errors import InputError
from utils.retrieval import hamming

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
@given(st.integers(0, 99), st.integers(1, 9), st.integers(1, 40), st.sampled_from([1, 7, 12, 64, 65, 200, 1024]))
def test_distances_equal_a_count_of_differing_signs(seed, q, n, bits):
    query, database = signs(seed, q, bits), signs(seed + 1, n, bits)
    query[0] = -database[0]  # the largest distance
    found = hamming.distances(hamming.pack(query), hamming.pack(database))
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, naive_distances(query, database))


@quick
@given(st.integers(0, 99), st.integers(1, 9), st.integers(1, 60), st.integers(1, 20), st.integers(0, 70))
def test_topk_is_a_stable_sort(seed, q, n, bits, k):
    query, database = signs(seed, q, bits), signs(seed + 1, n, bits)  # few bits: nearly everything ties
    distance, position = hamming.topk(hamming.pack(query), hamming.pack(database), k)
    expected = naive_distances(query, database)
    order = np.argsort(expected, axis=1, kind="stable")[:, :k or n]
    assert distance.dtype == np.int32 and position.dtype == np.int64
    np.testing.assert_array_equal(position, order)
    np.testing.assert_array_equal(distance, np.take_along_axis(expected, order, 1))


def test_topk_over_several_tiles_and_prepared_words():
    query, database = signs(0, 40, 24), signs(1, 3 * hamming.TILE + 5, 24)
    a, b = hamming.pack(query), hamming.pack(database)
    expected = naive_distances(query, database)
    order = np.argsort(expected, axis=1, kind="stable")
    for target in (b, hamming.prepare(b)):
        np.testing.assert_array_equal(hamming.distances(a, target), expected)
        for k in (1, 100, 2000, 0):
            np.testing.assert_array_equal(hamming.topk(a, target, k)[1], order[:, :k or None])


@quick
@given(st.integers(0, 99), st.integers(1, 5), st.integers(1, 300), st.integers(1, 20), st.integers(0, 70),
       st.sampled_from([0, 0.1, 0.5, 1]), st.booleans())
def test_a_filter_is_a_search_of_the_allowed_items(seed, q, n, bits, k, share, as_positions):
    query, database = signs(seed, q, bits), signs(seed + 1, n, bits)
    rng = np.random.default_rng(seed)
    mask = rng.random(n) < share
    allowed = rng.permutation(np.flatnonzero(mask)) if as_positions else mask
    distance, position = hamming.topk(hamming.pack(query), hamming.pack(database), k, allowed)
    expected = naive_distances(query, database)[:, mask]
    order = np.argsort(expected, axis=1, kind="stable")[:, :k or n]
    np.testing.assert_array_equal(position, np.flatnonzero(mask)[order])
    np.testing.assert_array_equal(distance, np.take_along_axis(expected, order, 1))


@quick
@given(st.integers(0, 99), st.integers(1, 5), st.integers(1, 300), st.integers(1, 20), st.integers(0, 25),
       st.sampled_from([None, 0, 0.3, 1]))
def test_within_finds_every_item_of_the_ball(seed, q, n, bits, radius, share):
    query, database = signs(seed, q, bits), signs(seed + 1, n, bits)
    mask = None if share is None else np.random.default_rng(seed).random(n) < share
    start, distance, position = hamming.within(hamming.pack(query), hamming.pack(database), radius, mask)
    assert start.dtype == position.dtype == np.int64 and distance.dtype == np.int32 and len(start) == q + 1
    for i, row in enumerate(naive_distances(query, database)):
        order = np.argsort(row, kind="stable")
        order = [j for j in order if row[j] <= radius and (mask is None or mask[j])]
        np.testing.assert_array_equal(position[start[i]:start[i + 1]], order)
        np.testing.assert_array_equal(distance[start[i]:start[i + 1]], row[order])
    assert start[-1] == len(position)


@quick
@given(st.integers(0, 99), st.integers(1, 9), st.integers(1, 20))
def test_zero_padding_leaves_distances_unchanged(seed, nb, extra):
    data = np.random.default_rng(seed).integers(0, 256, (30, nb), np.uint8)
    longer = np.pad(data, ((0, 0), (0, extra)))
    np.testing.assert_array_equal(hamming.distances(data[:5], data), hamming.distances(longer[:5], longer))


def test_views_that_are_not_contiguous():
    data = np.random.default_rng(0).integers(0, 256, (60, 16), np.uint8)
    view = data[::3, ::2]
    np.testing.assert_array_equal(hamming.distances(view, view), hamming.distances(view.copy(), view.copy()))


def test_result_does_not_depend_on_threads(monkeypatch):
    data = np.random.default_rng(0).integers(0, 256, (500, 2), np.uint8)
    results = []
    for threads in (1, 2, 7):
        monkeypatch.setattr(hamming, "threads", lambda: threads)
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


SEARCH = "import numpy as np; from utils.retrieval import hamming; x = np.arange(256, dtype=np.uint8)[:, None]; " \
         "print(hamming.topk(x[:1], x, 3)[1].tolist())"


def copy_of_utils(folder):
    os.makedirs(folder / "utils" / "retrieval")
    for name in ("__init__.py", "cpu.py", "errors.py", "retrieval/__init__.py", "retrieval/hamming.py"):
        shutil.copy(os.path.join(ROOT, "utils", name), folder / "utils" / name)


def test_runs_where_no_cache_folder_can_be_written(tmp_path):
    copy_of_utils(tmp_path)
    (tmp_path / "utils" / "retrieval" / "__pycache__").write_text("a file where the folder should be")
    env = {**os.environ, "HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null", "PYTHONDONTWRITEBYTECODE": "1"}
    env.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run([sys.executable, "-c", SEARCH], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[[0, 1, 2]]"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits of POSIX systems")
def test_runs_when_the_cache_cannot_be_saved(tmp_path):
    copy_of_utils(tmp_path)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); "  # as a full disk
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", limit + SEARCH], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[[0, 1, 2]]"


def test_import_is_lean():
    code = "import sys, utils.retrieval.hamming, utils.retrieval.codes; " \
           "print([m for m in ('paddle', 'matplotlib', 'cv2', 'PIL') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
