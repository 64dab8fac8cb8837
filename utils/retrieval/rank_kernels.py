"""Kernels that rank a database for each query, and follow relevance down the ranking.

Codes and labels are 16-bit words, uint16 [W, N] (``hamming.to_words``), as the keys by which items are sorted: a key is
2 * distance + (1 if relevant). Queries are rows [Q, W]. Two items are relevant to each other when their labels have a
bit in common.

Only the head of a ranking is needed where K is small. A sample of the database tells how far that goes; were it
mistaken, the query would be ranked again as a whole.
"""
import math

import numpy as np

from utils.retrieval.compiled import kernel, part_of_kernel
from utils.retrieval.kernels import ALL, distance_of
from utils.retrieval.vectors import GROUP, at_most, lowest, popcount, rank_keys

HITS, MIN, FIRST_HITS = range(3)  # definitions of average precision: see metrics.py
_TILE = 1024  # items at a time: codes and labels of a tile stay in the first-level cache
_QUERIES = 16  # queries that a tile of the database meets in turn
_SAMPLE = 64  # groups of the sample


@kernel
def rank(query, database, query_labels, database_labels, cuts, mode, ranks, whole, ap, hits_at, items, relevant, total):
    """Rank the database for each query: distance ascending, ties by position.

    Args:
        cuts: K of each average precision, ascending; mode: HITS, MIN or FIRST_HITS. ranks: positions, ascending.
        whole: whether to count at all distances.
        ap: float64 [Q, len(cuts)], to be filled; hits_at: int64 [Q, len(ranks)], hits within each of ``ranks``;
            items, relevant: int64 [Q, bits + 1], items and relevant items at each distance that the ranking goes down
            to, at least to distance 2, and 0 beyond; total: int64 [Q], relevant items in the database.
    """
    n, farthest = database.shape[1], items.shape[1] - 1
    # The ranking is needed down to some position and (FIRST_HITS) number of relevant items.
    depth, wanted = ranks[-1] if ranks.shape[0] else 0, 0
    if cuts.shape[0] and mode == FIRST_HITS:
        wanted = cuts[-1]
    elif cuts.shape[0]:
        depth = max(depth, cuts[-1])
    depth = min(depth, n)
    keys = np.empty((_QUERIES, n + GROUP), np.uint16)
    counts = np.empty(2 * farthest + 2, np.uint32)
    limits, found = np.empty(_QUERIES, np.int64), np.empty(_QUERIES, np.int64)
    ranked = np.zeros(n + GROUP, np.uint8)
    total[:] = 0
    for first in range(0, query.shape[0], _QUERIES):
        last = min(first + _QUERIES, query.shape[0])
        for q in range(first, last):
            found[q - first] = 0
            limits[q - first] = farthest if whole else _limit(query[q], database, query_labels[q], database_labels,
                                                              depth, wanted, counts, keys[q - first])
        for start in range(0, n, _TILE):
            for q in range(first, last):
                collect(query[q], database, query_labels[q], database_labels, start, min(start + _TILE, n),
                         limits[q - first], keys[q - first], found[q - first:], total[q:])
        for q in range(first, last):
            i = q - first
            hits = _count(keys[i], found[i], counts, items[q], relevant[q])
            if found[i] < depth or hits < min(wanted, total[q]):  # the sample was mistaken
                found[i] = total[q] = 0
                collect(query[q], database, query_labels[q], database_labels, 0, n, farthest, keys[i], found[i:],
                         total[q:])
                _count(keys[i], found[i], counts, items[q], relevant[q])
            _sort(keys[i], found[i], items[q], ranked)
            average_precision(ranked, found[i], total[q], cuts, mode, ap[q])
            _hits_at(ranked[:found[i]], ranks, hits_at[q])


@part_of_kernel
def _limit(code, database, labels, database_labels, depth, wanted, counts, keys):
    """A distance within which the sample leads us to expect ``depth`` items and ``wanted`` relevant ones."""
    groups, farthest = database.shape[1] // GROUP, counts.shape[0] // 2 - 1
    if groups < 2 * _SAMPLE or 4 * depth > database.shape[1]:
        return farthest
    counts[:] = 0
    for i in range(_SAMPLE):
        rank_keys(code, database, labels, database_labels, i * groups // _SAMPLE * GROUP, keys, 0)
        for j in range(GROUP):
            counts[keys[j]] += 1
    share = _SAMPLE * GROUP / database.shape[1]
    depth_there = share * depth + 4 * math.sqrt(share * depth) + 8
    wanted_there = share * wanted + 4 * math.sqrt(share * wanted) + 8
    items, relevant = 0, 0
    for d in range(farthest):
        items += counts[2 * d] + counts[2 * d + 1]
        relevant += counts[2 * d + 1]
        if d >= 2 and items >= depth_there and (not wanted or relevant >= wanted_there):
            return d
    return farthest


@kernel
def collect(code, database, labels, database_labels, start, stop, limit, keys, found, total):
    """Append the keys of the items start .. stop - 1 that lie within the limit, in the order of their positions.

    Args:
        found: int64, the first of it is the number of keys. total: int64, to whose first the relevant items are added.
    """
    count, relevant = found[0], total[0]
    whole = start + (stop - start) // GROUP * GROUP
    for group in range(start, whole, GROUP):
        relevant += popcount(rank_keys(code, database, labels, database_labels, group, keys, count))
        mask = at_most(keys, count, 2 * limit + 1)
        if mask == ALL:
            count += GROUP
            continue
        first = count
        while mask:
            keys[count] = keys[first + lowest(mask)]
            mask &= mask - np.uint64(1)
            count += 1
    for i in range(whole, stop):
        shared = is_relevant(labels, database_labels, i)
        relevant += shared
        d = distance_of(code, database, i)
        if d <= limit:
            keys[count] = 2 * d + shared
            count += 1
    found[0], total[0] = count, relevant


@part_of_kernel
def is_relevant(labels, database_labels, item):
    """Whether an item shares a label with the query."""
    shared = labels[0] & database_labels[0, item]
    for w in range(1, labels.shape[0]):
        shared |= labels[w] & database_labels[w, item]
    return shared != 0


@kernel
def _count(keys, found, counts, items, relevant):
    """Items and relevant items by distance; returns the number of relevant ones."""
    counts[:] = 0
    for i in range(found):
        counts[keys[i]] += 1
    hits = 0
    for d in range(items.shape[0]):
        relevant[d] = counts[2 * d + 1]
        items[d] = counts[2 * d] + relevant[d]
        hits += relevant[d]
    return hits


@part_of_kernel
def _sort(keys, found, items, ranked):
    """Relevance in ranking order, into ``ranked`` uint8: a counting sort of the items found."""
    place = np.empty(items.shape[0], np.int64)  # of the next item at each distance
    length = 0
    for d in range(items.shape[0]):
        place[d], length = length, length + items[d]
    for i in range(found):
        d = keys[i] >> 1
        ranked[place[d]] = keys[i] & 1
        place[d] += 1


@kernel
def average_precision(ranked, length, relevant, cuts, mode, out):
    """Average precision of a ranking at each of the ascending ``cuts``.

    Args:
        ranked: relevance of the first ``length`` items, uint8, and room for 64 more.
        relevant: number of relevant items in the database.
        out: float64 [len(cuts)], to be filled.
    """
    hits, total, j = 0, 0.0, 0
    for group in range(0, length, GROUP):
        mask = ~at_most(ranked, group, 0)
        if group + GROUP > length:
            mask &= (np.uint64(1) << np.uint64(length - group)) - np.uint64(1)
        while mask:
            place = group + lowest(mask)
            mask &= mask - np.uint64(1)
            while j < cuts.shape[0] and (hits == min(cuts[j], relevant) if mode == FIRST_HITS else place >= cuts[j]):
                out[j] = _over(total, hits, relevant, cuts[j], mode)
                j += 1
            hits += 1
            total += hits / (place + 1)
    for i in range(j, cuts.shape[0]):
        out[i] = _over(total, hits, relevant, cuts[i], mode)


@part_of_kernel
def _over(total, hits, relevant, cut, mode):
    return total / (hits if mode == HITS else min(cut, relevant)) if hits else 0.0


@part_of_kernel
def _hits_at(ranked, ranks, out):
    """Hits within each of the ascending ``ranks``."""
    hits, done = 0, 0
    for j in range(ranks.shape[0]):
        stop = min(ranks[j], ranked.shape[0])
        for t in range(done, stop):
            hits += ranked[t]
        done = stop
        out[j] = hits
