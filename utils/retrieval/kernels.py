"""Kernels of exact search on binary codes.

They read codes as *words*, laid out word-major, unsigned [W, N] of 16, 32 or 64 bits (``hamming.prepare``): the items
that a vector register takes at once lie beside each other, whatever the length of a code.

A search reads the database once. The question asked of nearly every item is only whether it lies within the distance
that still matters, and 64 items answer it together: XOR, popcount, add, compare, one bit each (``near``). The few that
do are candidates, and each one tightens the distance for those behind it.
"""
import numpy as np

from utils.retrieval.compiled import kernel, part_of_kernel
from utils.retrieval.vectors import GROUP, lowest, near, popcount

ALL = ~np.uint64(0)  # the mask of 64 items
_TILE = 1 << 16  # bytes of the database that the queries of a block meet in turn, while they are in the nearest caches


# top k --------------------------------------------------------------------------------------
@kernel
def search(codes, database, allowed, begin, end, offset, found, distance, position):
    """Merge items begin .. end - 1 of a piece of the database into the results of all queries.

    Args:
        codes: words [Q, W]; database: words [W, n]; allowed: a bit per item, uint64 [ceil(n / 64)], or empty for all.
        begin: a multiple of 64. offset: position of the piece's first item in the whole database.
        found: int64 [Q], how many results there are; distance: int32 [Q, k], position: int64 [Q, k]. The results of
            earlier pieces are read and replaced; their order is distance, then position.
    """
    words, queries, k = database.shape[0], distance.shape[0], distance.shape[1]
    farthest = words * database.itemsize * 8
    tile = max(GROUP, _TILE // (words * database.itemsize) // GROUP * GROUP)
    room = k + min(k + GROUP, end - begin)  # from time to time only k candidates are kept
    near_distance, near_position = np.empty((queries, room), np.uint16), np.empty((queries, room), np.int64)
    histogram = np.zeros((queries, farthest + 1), np.int64)
    state = np.empty((queries, 3), np.int64)
    for q in range(queries):
        state[q, 0] = state[q, 1] = found[q]
        state[q, 2] = distance[q, k - 1] if found[q] == k else farthest
        for i in range(found[q]):
            near_distance[q, i], near_position[q, i] = distance[q, i], position[q, i]
            histogram[q, distance[q, i]] += 1
    for start in range(begin, end, tile):
        for q in range(queries):
            _scan(codes[q], database, allowed, start, min(start + tile, end), offset, k, near_distance[q],
                  near_position[q], histogram[q], state[q])
    for q in range(queries):
        _finish(near_distance[q], near_position[q], histogram[q], state[q], distance[q], position[q])
        found[q] = min(k, state[q, 1])


# The state of a query: number of candidates; how many of them lie within the bound; the bound, which is the distance of
# the k-th candidate, or the largest distance there is while there are fewer.
@kernel
def _scan(code, database, allowed, start, stop, offset, k, near_distance, near_position, histogram, state):
    """Items start .. stop - 1: an item is a candidate if it may stand among the first k.

    Ties stand behind earlier items, so once there are k within the bound, an item must lie nearer than that.
    """
    count, inside, bound = state[0], state[1], state[2]
    limit = bound - 1 if inside >= k else bound
    for group in range(start, stop, GROUP):
        if limit < 0:
            break
        mask = _inside(code, database, allowed, group, stop, limit)
        while mask:
            item = group + lowest(mask)
            mask &= mask - np.uint64(1)
            d = distance_of(code, database, item)
            if d > limit:
                continue
            if count == near_distance.shape[0]:
                histogram[bound] -= inside - k
                inside = count = k
                _compact(bound, histogram[bound], near_distance, near_position)
            near_distance[count] = d
            near_position[count] = offset + item
            histogram[d] += 1
            count += 1
            inside += 1
            if inside >= k:
                while inside - histogram[bound] >= k:
                    inside -= histogram[bound]
                    bound -= 1
                limit = bound - 1
    state[0], state[1], state[2] = count, inside, bound


@part_of_kernel
def _inside(code, database, allowed, group, stop, limit):
    """Mask of the items from ``group`` on, at most 64 and before ``stop``, that are allowed and within the limit."""
    mask = ALL
    if allowed.shape[0]:
        mask = allowed[group // GROUP]
    if mask and group + GROUP <= stop:
        mask &= near(code, database, group, limit)
    elif mask:
        for i in range(GROUP):
            if group + i >= stop or distance_of(code, database, group + i) > limit:
                mask &= ~(np.uint64(1) << np.uint64(i))
    return mask


@part_of_kernel
def distance_of(code, database, item):
    """Hamming distance of one item."""
    total = 0
    for w in range(database.shape[0]):
        total += popcount(code[w] ^ database[w, item])
    return total


@part_of_kernel
def _compact(bound, ties, near_distance, near_position):
    """Keep the candidates nearer than the bound and the first ``ties`` at it."""
    kept = 0
    for i in range(near_distance.shape[0]):
        d = near_distance[i]
        if d < bound or d == bound and ties > 0:
            ties -= d == bound
            near_distance[kept], near_position[kept] = d, near_position[i]
            kept += 1


@part_of_kernel
def _finish(near_distance, near_position, histogram, state, distance, position):
    """Counting sort of the candidates, in which equal distances stand in the order of their positions."""
    bound, place = state[2], 0
    for d in range(bound + 1):
        histogram[d], place = place, place + histogram[d]
    for i in range(state[0]):
        d = near_distance[i]
        if d <= bound and histogram[d] < distance.shape[0]:
            distance[histogram[d]], position[histogram[d]] = d, near_position[i]
            histogram[d] += 1


# all within a radius ------------------------------------------------------------------------
@kernel
def count_within(codes, database, allowed, radius, found):
    """Add to ``found`` int64 [Q] how many allowed items of a piece lie within the radius (arguments as ``search``)."""
    for q in range(codes.shape[0]):
        for group in range(0, database.shape[1], GROUP):
            found[q] += popcount(_inside(codes[q], database, allowed, group, database.shape[1], radius))


@kernel
def fill_within(codes, database, allowed, radius, offset, place, distance, position):
    """Append these items to int32 ``distance`` and int64 ``position``, from ``place`` int64 [Q] on, which moves on."""
    for q in range(codes.shape[0]):
        for group in range(0, database.shape[1], GROUP):
            mask = _inside(codes[q], database, allowed, group, database.shape[1], radius)
            while mask:
                item = group + lowest(mask)
                mask &= mask - np.uint64(1)
                distance[place[q]] = distance_of(codes[q], database, item)
                position[place[q]] = offset + item
                place[q] += 1


@kernel
def sort_within(start, radius, distance, position):
    """Sort what was appended, each query's in the order of positions, by distance: a stable counting sort.

    Args:
        start: int64 [Q + 1], the bounds of each query in ``distance`` and ``position``.
    """
    place = np.empty(radius + 2, np.int64)
    for q in range(start.shape[0] - 1):
        old_distance, old_position = distance[start[q]:start[q + 1]].copy(), position[start[q]:start[q + 1]].copy()
        place[:] = 0
        for d in old_distance:
            place[d + 1] += 1
        place[0] = start[q]
        for d in range(radius):
            place[d + 1] += place[d]
        for i in range(old_distance.shape[0]):
            d = old_distance[i]
            distance[place[d]], position[place[d]] = d, old_position[i]
            place[d] += 1


# all distances ------------------------------------------------------------------------------
@kernel
def all_distances(codes, database, out):
    """Distances of all queries to all items of a piece; fills ``out`` uint16 [Q, n]."""
    words, n = database.shape
    tile = max(GROUP, _TILE // (words * database.itemsize))
    for start in range(0, n, tile):
        for q in range(codes.shape[0]):
            row = out[q, start:start + tile]
            row[:] = 0
            for w in range(words):
                word, items = codes[q, w], database[w, start:start + tile]
                for i in range(row.shape[0]):
                    row[i] += popcount(word ^ items[i])
