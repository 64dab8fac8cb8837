"""Near-duplicate groups of a collection: exact, by multi-index hashing.

Codes that differ in at most r of their bits agree in at least one of r + 1 parts of them (Norouzi et al., "Fast Exact
Search in Hamming Space with Multi-Index Hashing", PAMI 2014). So only codes that agree in a part are compared, part by
part; equal codes are taken together before. A group is a connected component: every pair within the radius is in one
group, and a group may hold pairs farther apart, which others join.
"""
import numpy as np

from utils.errors import InputError
from utils.retrieval.compiled import kernel
from utils.retrieval.hamming import check_codes
from utils.retrieval.vectors import popcount


def near_groups(codes, bits, radius):
    """Groups of items that are connected by steps of at most ``radius`` bits.

    Args:
        codes: packed codes uint8 [N, ceil(bits / 8)]. bits: code length. radius: from 0 on.

    Returns:
        list of int64 arrays, positions in ascending order: the groups of two items and more, ordered by their first.

    Raises:
        InputError: codes of another length, or a radius below 0.
    """
    check_codes(codes, bits)
    if radius < 0:
        raise InputError(f"the radius must be a whole number from 0 on, got {radius!r}")
    if not len(codes):
        return []
    words = np.pad(codes, ((0, 0), (0, -codes.shape[1] % 8))).view(np.uint64)  # [N, W]
    rows, member = _distinct(words)
    parent = np.arange(len(rows))
    if radius >= bits:
        parent[:] = 0
    elif radius:
        for keys in _keys(rows, bits, radius + 1):
            order = np.argsort(keys, kind="stable")
            _join(rows[order], keys[order], order, radius, parent)
    return _components(_roots(parent)[member])


def _distinct(words):
    """(distinct rows [M, W], int64 [N]: which of them each row is)."""
    if words.shape[1] == 1:
        rows, member = np.unique(words[:, 0], return_inverse=True)
        return rows[:, None], member
    whole = np.ascontiguousarray(words).view(np.dtype((np.void, 8 * words.shape[1])))[:, 0]
    _, first, member = np.unique(whole, return_index=True, return_inverse=True)
    return words[first], member


def _keys(rows, bits, parts):
    """Yield uint64 [M] for each part of the bits: equal where the part is equal (and hardly ever elsewhere)."""
    edges = [bits * part // parts for part in range(parts + 1)]
    for first, last in zip(edges, edges[1:]):
        mask = np.zeros(rows.shape[1] * 64, np.uint8)
        mask[first:last] = 1
        masks = np.packbits(mask).view(np.uint64)
        keys = np.zeros(len(rows), np.uint64)
        for column, part in zip(rows.T, masks):
            if part:  # a hash of several words; of one word a permutation of it
                keys = (keys ^ (column & part)) * np.uint64(0x9E3779B97F4A7C15)
                keys ^= keys >> np.uint64(29)
        yield keys


@kernel
def _join(rows, keys, order, radius, parent):
    """Unite all pairs within the radius that have equal keys. ``rows`` and ``keys`` are sorted by key."""
    start, count, width = 0, rows.shape[0], rows.shape[1]
    while start < count:
        stop = start + 1
        while stop < count and keys[stop] == keys[start]:
            stop += 1
        for i in range(start, stop):
            for j in range(i + 1, stop):
                distance = 0
                for w in range(width):
                    distance += popcount(rows[i, w] ^ rows[j, w])
                if distance <= radius:
                    a, b = order[i], order[j]
                    while parent[a] != a:
                        parent[a] = parent[parent[a]]
                        a = parent[a]
                    while parent[b] != b:
                        parent[b] = parent[parent[b]]
                        b = parent[b]
                    if a < b:
                        parent[b] = a
                    else:
                        parent[a] = b
        start = stop


def _roots(parent):
    """The root of every node."""
    while True:
        above = parent[parent]
        if np.array_equal(above, parent):
            return parent
        parent = above


def _components(root):
    """Positions of equal roots, where there are two and more."""
    order = np.argsort(root, kind="stable")
    edges = np.flatnonzero(np.diff(root[order])) + 1
    groups = [group for group in np.split(order, edges) if len(group) > 1]
    return sorted(groups, key=lambda group: group[0])
