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
from utils.retrieval.rank_kernels import FIRST_HITS, average_precision, is_relevant
from utils.retrieval.vectors import GROUP

DEFINITION = "score <relaxed query, code of -1 and +1>, descending, ties by database position"
_RUN = 16  # items that an insertion sort is good for


def refine(relaxed, database, position):
    """New order of found items by the asymmetric score.

    Args:
        relaxed: query codes before the sign, float [Q, bits].
        database: packed codes uint8 [N, nb].
        position: database positions of the items found, int [Q, k]: the second result of ``hamming.topk``.

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
    codes, score = database[position], np.empty(position.shape)
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
def rank_by_score(weights, codes, query_labels, database_labels, cuts, mode, ap):
    """Average precision of the whole ranking by score, for each query.

    Args:
        weights: of ``weights_of``; codes: packed codes uint8 [N, nb]; the others as in ``rank_kernels.rank``.
    """
    n = codes.shape[0]
    table = np.empty((codes.shape[1], 256))
    score, best = np.empty(n), np.empty((2, n))
    relevant, ranked = np.empty(n, np.uint8), np.zeros((2, n + GROUP), np.uint8)
    place = np.empty(min(1 << 18, 16 + n // 4), np.int64)
    for q in range(weights.shape[0]):
        _fill_table(weights[q], table)
        total, high, low = 0, -math.inf, math.inf
        for i in range(n):
            score[i] = _score(table, codes[i])
            high, low = max(high, score[i]), min(low, score[i])
            relevant[i] = is_relevant(query_labels[q], database_labels, i)
            total += relevant[i]
        depth = n if mode == FIRST_HITS else min(n, cuts[-1])
        length = _sort(score, high, low, relevant, depth, place, best, ranked)
        average_precision(ranked[0], length, total, cuts, mode, ap[q])


@part_of_kernel
def _sort(score, high, low, relevant, depth, place, best, ranked):
    """Put the items with the best scores into ``best[0]`` and ``ranked[0]``, at least ``depth``; returns how many.

    A bucket sort by score; what meets in a bucket is sorted by merging. Both keep the order of equal scores.
    """
    last = place.shape[0] - 1
    scale = last / (high - low) if high > low else 0.0
    place[:] = 0
    for i in range(score.shape[0]):
        place[int((high - score[i]) * scale)] += 1
    length, cut = 0, -1
    while length < depth:
        cut += 1
        place[cut], length = length, length + place[cut]
    for i in range(score.shape[0]):
        bucket = int((high - score[i]) * scale)
        if bucket <= cut:
            best[0, place[bucket]], ranked[0, place[bucket]] = score[i], relevant[i]
            place[bucket] += 1
    start = 0
    for bucket in range(cut + 1):
        _merge_sort(best, ranked, start, place[bucket])
        start = place[bucket]
    return length


@kernel
def _merge_sort(best, ranked, start, stop):
    """Sort best[0] and with it ranked[0] from start to stop - 1, descending, stable; best[1], ranked[1] are room."""
    for first in range(start, stop, _RUN):
        for i in range(first + 1, min(first + _RUN, stop)):
            score, relevant, j = best[0, i], ranked[0, i], i
            while j > first and best[0, j - 1] < score:
                best[0, j], ranked[0, j] = best[0, j - 1], ranked[0, j - 1]
                j -= 1
            best[0, j], ranked[0, j] = score, relevant
    width = _RUN
    while width < stop - start:
        for first in range(start, stop, 2 * width):
            middle, end = min(first + width, stop), min(first + 2 * width, stop)
            i, j = first, middle
            for t in range(first, end):
                if j == end or i < middle and best[0, i] >= best[0, j]:
                    best[1, t], ranked[1, t] = best[0, i], ranked[0, i]
                    i += 1
                else:
                    best[1, t], ranked[1, t] = best[0, j], ranked[0, j]
                    j += 1
        for t in range(start, stop):
            best[0, t], ranked[0, t] = best[1, t], ranked[1, t]
        width *= 2
