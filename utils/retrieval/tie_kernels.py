"""Kernels that average over all orders of the ties of a ranking, from two counts per distance: no ranking is needed.

Notation: a group is the n items at one distance, r of them relevant; before it stand ``before`` items with ``hits``
relevant ones. Only the first m positions of the group (or its first m relevant items) may count.
"""
import numpy as np

from utils.retrieval.compiled import kernel, part_of_kernel
from utils.retrieval.rank_kernels import FIRST_HITS, HITS


@kernel
def _harmonic(high, low, first, last):
    """Sum of 1/t for t = first + 1 .. last."""
    return (high[last] - high[first]) + (low[last] - low[first])


@kernel
def _in_a_row(hits, before, m, high, low):
    """Sum of precision at m relevant items that stand at positions before + 1 .. before + m."""
    return m + (hits - before) * _harmonic(high, low, before, before + m)


@kernel
def _at_random(hits, before, n, r, m, high, low):
    """Expected sum of precision at the relevant items within the first m positions of a group in random order.

    A position is relevant with probability r/n, and then each one before it with (r-1)/(n-1) (McSherry & Najork).
    """
    if r == 0 or m == 0:
        return 0.0
    near = _harmonic(high, low, before, before + m)
    slope = (r - 1) / (n - 1) if n > 1 else 0.0
    return r / n * ((hits + 1) * near + slope * (m - (before + 1) * near))


@kernel
def _cut_over_hits(total, hits, before, n, r, m, high, low):
    """Expected AP over the hits when K cuts a group: ``total`` is the expected sum before the group.

    The number h of hits among the first m positions is hypergeometric; given h, their order is uniform again. The
    weights run outward from the mode and are normalised at the end: no factorials, no overflow.
    """
    fewest, most = max(0, m - (n - r)), min(m, r)
    weight = np.zeros(most - fewest + 1)
    mode = min(max((m + 1) * (r + 1) // (n + 2), fewest), most)
    weight[mode - fewest] = 1.0
    for h in range(mode, most):
        weight[h + 1 - fewest] = weight[h - fewest] * ((r - h) * (m - h) / ((h + 1) * (n - r - m + h + 1)))
    for h in range(mode, fewest, -1):
        weight[h - 1 - fewest] = weight[h - fewest] * (h * (n - r - m + h) / ((r - h + 1) * (m - h + 1)))
    value = 0.0
    for h in range(fewest, most + 1):
        if hits + h and weight[h - fewest] > 1e-40:
            value += weight[h - fewest] * (total + _at_random(hits, before, m, h, m, high, low)) / (hits + h)
    return value / weight.sum()


@kernel
def _not_yet(n, r, m):
    """P(fewer than m relevant items among the first t), t = 0..n, of n items in random order with r >= m relevant.

    The position of the m-th one is negative hypergeometric; weights run outward from its mode.
    """
    weight = np.zeros(n + 2)
    last = n - r + m
    mode = min(max((m - 1) * n // (r - 1) + 1, m), last) if r > 1 else m
    weight[mode] = 1.0
    for t in range(mode, last):
        weight[t + 1] = weight[t] * (t / (t - m + 1)) * ((n - t - (r - m)) / (n - t))
    for t in range(mode - 1, m - 1, -1):
        weight[t] = weight[t + 1] * ((t - m + 1) / t) * ((n - t) / (n - t - (r - m)))
    for t in range(n, -1, -1):  # weight[t] becomes the weight of positions >= t
        weight[t] += weight[t + 1]
    return weight[1:] / weight[0]


@kernel
def _cut_at_hits(hits, before, n, r, m):
    """Expected sum of precision at the first m < r relevant items of a group in random order.

    The item at place s counts when it is relevant and X < m of the s - 1 before it are:
    r/n * E[(hits + 1 + X) [X < m]], X hypergeometric. E[X [X < m]] is a smaller case of the same tail.
    """
    tail = _not_yet(n - 1, r - 1, m)
    smaller = _not_yet(n - 2, r - 2, m - 1) if m > 1 else tail
    total = 0.0
    for s in range(1, n + 1):
        value = (hits + 1) * tail[s - 1]
        if m > 1 and s > 1:
            value += (s - 1) * (r - 1) / (n - 1) * smaller[s - 2]
        total += value / (before + s)
    return total * r / n


@kernel
def tie_orders(items, relevant, total, cuts, mode, high, low, values):
    """Tie-order values of each query at each K.

    Args:
        items, relevant: int64 [Q, bits + 1], items and relevant items at each distance that is needed;
            total: int64 [Q], relevant items at all distances. cuts: K, int64.
        mode: definition of average precision. high, low: partial sums of 1/t (``_harmonic``).
        values: float64 [Q, len(cuts), 7], to be filled: average precision expected, worst, best, with irrelevant and
            with relevant items first; fewest and most hits that count.
    """
    for q in range(items.shape[0]):
        for j in range(cuts.shape[0]):
            _tie_orders(items[q], relevant[q], total[q], cuts[j], mode, high, low, values[q, j])


@part_of_kernel
def _tie_orders(items, relevant, total, k, mode, high, low, values):
    end = min(k, total if mode == FIRST_HITS else high.shape[0] - 1)
    hits, before, d, n, r = 0, 0, 0, 0, 0
    expected, worst, best = 0.0, 0.0, 0.0
    while d < items.shape[0]:  # groups that count as a whole
        n, r = items[d], relevant[d]
        if (hits + r if mode == FIRST_HITS else before + n) > end:
            break
        expected += _at_random(hits, before, n, r, n, high, low)
        worst += _in_a_row(hits, before + n - r, r, high, low)
        best += _in_a_row(hits, before, r, high, low)
        hits, before, d = hits + r, before + n, d + 1
    values[5] = values[6] = hits
    m = end - (hits if mode == FIRST_HITS else before)
    if m and mode == FIRST_HITS:
        expected += _cut_at_hits(hits, before, n, r, m)
        worst += _in_a_row(hits, before + n - r, m, high, low)
        best += _in_a_row(hits, before, m, high, low)
        hits += m
        values[5] = values[6] = hits
    elif m:
        fewest, most = max(0, m - (n - r)), min(m, r)
        values[5] += fewest
        values[6] += most
        if mode == HITS:
            values[0] = _cut_over_hits(expected, hits, before, n, r, m, high, low)
            _bounds_over_hits(worst, best, hits, before, m, fewest, most, high, low, values)
            return
        expected += _at_random(hits, before, n, r, m, high, low)
        worst += _in_a_row(hits, before + m - fewest, fewest, high, low)
        best += _in_a_row(hits, before, most, high, low)
    denominator = hits if mode == HITS else min(k, total)
    if denominator:
        values[0] = expected / denominator
        values[1] = values[3] = worst / denominator
        values[2] = values[4] = best / denominator


@part_of_kernel
def _bounds_over_hits(worst, best, hits, before, m, fewest, most, high, low, values):
    """Extremes of AP over the hits where K cuts a group: over the number h of hits among its first m positions."""
    values[1], values[2] = 1.0, 0.0
    for h in range(fewest, most + 1):
        down, up = 0.0, 0.0
        if hits + h:
            down = (worst + _in_a_row(hits, before + m - h, h, high, low)) / (hits + h)
            up = (best + _in_a_row(hits, before, h, high, low)) / (hits + h)
        values[1] = min(values[1], down)
        values[2] = max(values[2], up)
        if h == fewest:
            values[3] = down
        values[4] = up
