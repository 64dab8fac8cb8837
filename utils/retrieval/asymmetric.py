"""Asymmetric ranking: the query stays relaxed (real numbers), the database is binary; score = <q, b>, b of -1 and +1.

It refines a Hamming ranking and is reported beside it, never in its place. Source: the asymmetric distances of
Gordo et al., "Asymmetric Distances for Binary Embeddings", PAMI 2014, in their simplest form.

A score is a sum in float64 of float32 values: exact unless the values of a code differ by more than about 2 ** 18 in
size. So it does not depend on the order of the sum, and equal codes always tie.
"""
import math

import numpy as np

from utils.errors import InputError
from utils.retrieval.compiled import blocks, kernel, part_of_kernel, spread
from utils.retrieval.hamming import check_codes
from utils.retrieval.rank_kernels import FIRST_HITS, average_precision, collect
from utils.retrieval.vectors import GROUP

DEFINITION = "score <relaxed query, code of -1 and +1>, descending, ties by database position"
_BUCKET = 4096  # items of a bucket, about
_RUN = 16  # items that an insertion sort is good for


def refine(relaxed, database, position, kept=None):
    """New order of found items by the asymmetric score, or by the product of the relaxed codes of both sides.

    Args:
        relaxed: query codes before the sign, float [Q, bits].
        database: packed codes uint8 [N, nb].
        position: database positions of the items found, int [Q, k]: the second result of ``hamming.topk``.
        kept: the database's relaxed codes, float [N, bits]: they take the place of the signs in the score.

    Returns:
        (score float64 [Q, k], order int64 [Q, k]): the score descending, ties by database position;
        ``np.take_along_axis(position, order, 1)`` are the items in the new order.

    Raises:
        InputError: shapes or types that do not fit, values that are not finite.
    """
    weights = weights_of(relaxed, database)
    position = np.asarray(position)
    if position.ndim != 2 or position.dtype.kind not in "iu" or len(position) != len(weights):
        raise InputError(f"positions to refine must be whole numbers [{len(weights)}, k], got {position.dtype} "
                         f"{list(position.shape)}")
    if position.size and (position.min() < 0 or position.max() >= len(database)):
        raise InputError(f"positions to refine must lie from 0 to {len(database) - 1}, found {position.min()} to "
                         f"{position.max()}")
    score = np.empty(position.shape)
    if kept is not None:
        weights = weights[:, :kept.shape[1]]
        for q, places in enumerate(position):  # a sum and no matrix product, which adds in another order by its size
            score[q] = (kept[places].astype(np.float64) * weights[q]).sum(1)
    else:
        codes = database[position]
        spread(lambda rows: scores(weights[rows], codes[rows], score[rows]), blocks(len(weights)))
    order = np.lexsort((position, -score))
    return np.take_along_axis(score, order, 1), order


def weights_of(relaxed, database):
    """Relaxed query codes as float64 [Q, 8 nb], zero padded, or InputError where they do not fit the packed codes."""
    relaxed = np.asarray(relaxed)
    if relaxed.ndim != 2 or relaxed.dtype.kind != "f":
        raise InputError(f"relaxed query codes must be real numbers [queries, bits], got {relaxed.dtype} "
                         f"{list(relaxed.shape)}")
    check_codes(database, relaxed.shape[1], "database codes")
    if not np.isfinite(relaxed).all():
        raise InputError("relaxed query codes hold NaN or infinite values: the network's output is broken")
    return np.pad(relaxed.astype(np.float64), ((0, 0), (0, -relaxed.shape[1] % 8)))


# kernels ------------------------------------------------------------------------------------
@part_of_kernel
def _fill_table(weights, table):
    """What each value of each byte of a code adds to the score; ``table`` float64 [nb, 256]."""
    for b in range(table.shape[0]):
        for value in range(256):
            total = 0.0
            for j in range(8):
                total += weights[8 * b + j] if value >> (7 - j) & 1 else -weights[8 * b + j]
            table[b, value] = total


@part_of_kernel
def _score(table, code):
    total = 0.0
    for b in range(table.shape[0]):
        total += table[b, code[b]]
    return total


@kernel
def scores(weights, codes, out):
    """Scores of found items: codes uint8 [Q, k, nb] -> ``out`` float64 [Q, k]."""
    table = np.empty((codes.shape[2], 256))
    for q in range(codes.shape[0]):
        _fill_table(weights[q], table)
        for i in range(codes.shape[1]):
            out[q, i] = _score(table, codes[q, i])


@kernel
def rank_by_score(weights, codes, query, database, query_labels, database_labels, cuts, mode, ap):
    """Average precision of the whole ranking by score, for each query.

    Args:
        weights: of ``weights_of``; codes: packed codes uint8 [N, nb]; the others as in ``rank_kernels.rank``.
    """
    n = codes.shape[0]
    table = np.empty((codes.shape[1], 256))
    keys, found, total = np.empty(n + GROUP, np.uint16), np.empty(1, np.int64), np.empty(1, np.int64)
    score, relevant = np.empty((3, n)), np.zeros((3, n + GROUP), np.uint8)
    place = np.empty(n // _BUCKET + 1, np.int64)
    for q in range(weights.shape[0]):
        found[0] = total[0] = 0
        collect(query[q], database, query_labels[q], database_labels, 0, n, 8 * codes.shape[1], keys, found, total)
        _fill_table(weights[q], table)
        for i in range(n):
            score[0, i], relevant[0, i] = _score(table, codes[i]), keys[i] & 1
        depth = n if mode == FIRST_HITS else min(n, cuts[-1])
        length = _sort(score, relevant, depth, place)
        average_precision(relevant[2], length, total[0], cuts, mode, ap[q])


@part_of_kernel
def _sort(score, relevant, depth, place):
    """Sort score[0] and with it relevant[0], descending and stable, into score[2] and relevant[2]: at least ``depth``.

    A bucket sort, and for each bucket another one, whose buckets hold a few items and are sorted by merging: each stays
    in the nearest caches. score[1] and relevant[1] are room. Returns how many items were sorted.
    """
    n = score.shape[1]
    fine = np.empty(2 * _BUCKET, np.int64)
    buckets, length = _into_buckets(score[0], relevant[0], n, depth, place, place.shape[0], score[1], relevant[1])
    start = 0
    for bucket in range(buckets):
        stop = place[bucket]
        count = stop - start
        inner, _ = _into_buckets(score[1, start:stop], relevant[1, start:stop], count, count, fine,
                                 min(count + 1, fine.shape[0]), score[2, start:stop], relevant[2, start:stop])
        first = 0
        for i in range(inner):
            if fine[i] - first > _RUN:
                _merge_sort(score[1:, start:stop], relevant[1:, start:stop], first, fine[i])
            first = fine[i]
        _insertion_sort(score[2], relevant[2], start, stop)
        start = stop
    return length


@kernel
def _into_buckets(score, relevant, count, depth, place, buckets, to_score, to_relevant):
    """Move the items with the best scores, at least ``depth``, into buckets of equal width, which keep their order.

    Returns:
        (number of buckets that are needed, number of items in them); ``place`` holds the end of each.
    """
    high, low = -math.inf, math.inf
    for i in range(count):
        high, low = max(high, score[i]), min(low, score[i])
    scale = (buckets - 1) / (high - low) if high > low else 0.0
    for b in range(buckets):
        place[b] = 0
    for i in range(count):
        place[int((high - score[i]) * scale)] += 1
    needed, length = 0, 0
    while length < depth:
        place[needed], length = length, length + place[needed]
        needed += 1
    for i in range(count):
        b = int((high - score[i]) * scale)
        if b < needed:
            to_score[place[b]], to_relevant[place[b]] = score[i], relevant[i]
            place[b] += 1
    return needed, length


@kernel
def _insertion_sort(score, relevant, start, stop):
    """Sort from start to stop - 1, descending and stable, where nothing is far from its place."""
    for i in range(start + 1, stop):
        value, mark, j = score[i], relevant[i], i
        while j > start and score[j - 1] < value:
            score[j], relevant[j] = score[j - 1], relevant[j - 1]
            j -= 1
        score[j], relevant[j] = value, mark


@kernel
def _merge_sort(score, relevant, start, stop):
    """Sort score[1] and with it relevant[1] from start to stop - 1, descending and stable; the first rows are room."""
    for first in range(start, stop, _RUN):
        _insertion_sort(score[1], relevant[1], first, min(first + _RUN, stop))
    width = _RUN
    while width < stop - start:
        for first in range(start, stop, 2 * width):
            middle, end = min(first + width, stop), min(first + 2 * width, stop)
            i, j = first, middle
            for t in range(first, end):
                if j == end or i < middle and score[1, i] >= score[1, j]:
                    score[0, t], relevant[0, t] = score[1, i], relevant[1, i]
                    i += 1
                else:
                    score[0, t], relevant[0, t] = score[1, j], relevant[1, j]
                    j += 1
        for t in range(start, stop):
            score[1, t], relevant[1, t] = score[0, t], relevant[0, t]
        width *= 2
