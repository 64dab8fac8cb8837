"""Ranking metrics on packed codes: exact, deterministic in their ties, and independent of the number of threads.

Order: Hamming distance ascending, ties by database position ("stable"). Because a database that is ordered by class
makes that order partial, the value expected over random tie orders and the extremes over all tie orders are reported
beside it. They follow from two counts per query and distance, items n_d and relevant items r_d, without a ranking.

Average precision (AP) is the mean, over some relevant items, of (relevant items up to there) / (position). Three
definitions circulate; ``ap`` names one:

- ``hits``: over the relevant items within the first K positions, divided by their number (paddle_hashnet,
  DeepHash-pytorch, DHN_PyTorch, WCH, DJSRH, thuml);
- ``min``: the same sum divided by min(K, R), R = relevant items in the database;
- ``first_hits``: over the first min(K, R) relevant items of the whole ranking (the DCMH line).

A query whose sum is empty counts as 0 (``no_hit="zero"``) or is left out of the mean (``"skip"``, thuml).

The counting passes are numba kernels.
"""
import numpy as np

from utils.errors import InputError
from utils.retrieval.compiled import blocks, kernel, spread
from utils.retrieval.hamming import check_codes, to_words
from utils.retrieval.kernels import popcount

AP = ("hits", "min", "first_hits")
NO_HIT = ("zero", "skip")
_HITS, _MIN, _FIRST_HITS = range(3)
TIES = "stable (database order)"
TILE = 1024  # items at a time: codes, labels and distances of a tile stay in the first-level cache
_CHUNK = 1024  # queries whose distance counts are held at once
_GROUP = 16  # queries that a tile of the database meets in turn


# what the user reads ------------------------------------------------------------------------
def evaluate(query, database, query_labels, database_labels, bits, topk=0, ap="hits", no_hit="zero"):
    """Mean average precision and its companions.

    Args:
        query, database: packed codes, uint8 [Q, nb] and [N, nb].
        query_labels, database_labels: 0/1 multi-hot [Q, C] and [N, C]; two items are relevant to each other when they
            share a label.
        bits: code length.
        topk: K; 0 means the whole database.
        ap: ``hits``, ``min`` or ``first_hits`` (see the module).
        no_hit: ``zero`` or ``skip``.

    Returns:
        dict, ready for JSON:
        ``mAP`` with the stable tie order; ``mAP_expected``, the exact mean over all tie orders (McSherry & Najork 2008,
        extended to the cut at K); ``mAP_worst`` and ``mAP_best``, the extremes over all tie orders;
        ``mAP_irrelevant_first`` and ``mAP_relevant_first``, those two tie orders (at a cut K and over the hits they
        need not be the extremes); ``P@K``, ``R@K``: hits within K divided by K and by R, mean over all queries
        (K = N where topk is 0; R@K is 0 for a query without relevant items); ``P@H<=2``: precision within Hamming
        radius 2, 0 for an empty ball; ``queries``, ``items``, ``queries_without_relevant``, ``queries_without_hit``;
        ``definition``: name, K, denominator, ties, no_hit.
        With ``no_hit="skip"`` the tie figures are None when the tie order decides which queries have a hit.

    Raises:
        InputError: shapes or types that do not fit, an empty side, labels missing, topk < 0, an unknown name.
    """
    if ap not in AP or no_hit not in NO_HIT:
        raise InputError(f"unknown AP definition ap={ap!r}, no_hit={no_hit!r}; use ap of {AP}, no_hit of {NO_HIT}")
    if isinstance(topk, bool) or not isinstance(topk, (int, np.integer)) or topk < 0:
        raise InputError(f"topk must be a whole number from 0 (the whole database) on, got {topk!r}")
    data = _check(query, database, query_labels, database_labels, bits)
    items = len(database)
    k = int(topk) or items
    values, hits, inside, relevant, lowest, highest = [], [], [], [], [], []
    for part in _chunks(data, bits, k, AP.index(ap), np.array([k])):
        n_d, r_d = part["items"], part["relevant"]
        ties, bounds = _tie_values(n_d, r_d, k, ap)
        values.append(np.column_stack([part["ap"], ties]))
        hits.append(part["hits"][:, 0])
        ball, found = n_d[:, :3].sum(1), r_d[:, :3].sum(1)
        inside.append(found / np.maximum(ball, 1))
        relevant.append(r_d.sum(1))
        lowest.append(bounds[:, 0])
        highest.append(bounds[:, 1])
    values = np.concatenate(values)
    hits, inside, relevant, lowest, highest = map(np.concatenate, (hits, inside, relevant, lowest, highest))
    counted = relevant if ap == "first_hits" else hits
    means = _mean(values[:, 0], counted, no_hit), *(
        None if no_hit == "skip" and ((lowest == 0) & (highest > 0)).any() else _mean(column, highest, no_hit)
        for column in values[:, 1:].T)
    names = "mAP", "mAP_expected", "mAP_worst", "mAP_best", "mAP_irrelevant_first", "mAP_relevant_first"
    return {**dict(zip(names, means)),
            "P@K": float((hits / k).mean()),
            "R@K": float((hits / np.maximum(relevant, 1)).mean()),
            "P@H<=2": float(inside.mean()),
            "queries": len(query), "items": items,
            "queries_without_relevant": int((relevant == 0).sum()),
            "queries_without_hit": int((counted == 0).sum()),
            "definition": {"name": f"mAP@{topk if topk else 'all'}", "K": int(topk), "denominator": ap,
                           "ties": TIES, "no_hit": no_hit}}


def format_line(result):
    """The result of ``evaluate`` as one line of text."""
    definition = result["definition"]
    text = f"{definition['name']} {result['mAP']:.4f}"
    if result["mAP_expected"] is not None:
        text += (f" (over tie orders: mean {result['mAP_expected']:.4f}, "
                 f"{result['mAP_worst']:.4f} to {result['mAP_best']:.4f})")
    k = definition["K"] or result["items"]
    return (f"{text}  P@{k} {result['P@K']:.4f}  R@{k} {result['R@K']:.4f}  P@H<=2 {result['P@H<=2']:.4f}  "
            f"[AP over {definition['denominator']}, ties {definition['ties']}, no hit: {definition['no_hit']}; "
            f"{result['queries']} queries, {result['items']} items]")


def curves(query, database, query_labels, database_labels, bits, ranks=None):
    """Precision and recall by rank and by Hamming radius.

    Args:
        ranks: positions N of the P@N and R@N curves, whole numbers >= 1; by default about 100 from 1 to the size of
            the database, evenly spaced on a logarithmic scale. Beyond the database P@N still divides by N.
        The other arguments as in ``evaluate``.

    Returns:
        dict of two dicts of equally long lists:
        ``rank``: ``rank``, ``precision``, ``recall``: means over all queries, stable ties;
        ``radius``: ``radius`` 0..bits, ``precision``, ``recall``: means over all queries (an empty ball and a query
        without relevant items count 0); ``precision_found``, ``recall_found``: means over the queries with a relevant
        item in the ball, 0 where there is none (the curve of DHN_PyTorch).

    Raises:
        InputError: as ``evaluate``, or ranks that are not whole numbers >= 1.
    """
    data = _check(query, database, query_labels, database_labels, bits)
    if ranks is None:
        ranks = np.unique(np.round(np.geomspace(1, len(database), 100)).astype(np.int64))
    ranks = np.asarray(ranks)
    if ranks.ndim != 1 or not ranks.size or ranks.dtype.kind not in "iu" or (ranks < 1).any():
        raise InputError(f"ranks must be a list of whole numbers from 1 on, got {ranks.tolist()!r}")
    order = np.argsort(ranks, kind="stable")
    by_rank, by_radius, found = np.zeros((2, len(ranks))), np.zeros((2, bits + 1)), np.zeros(bits + 1)
    for part in _chunks(data, bits, 0, _HITS, ranks[order]):
        hits = np.empty_like(part["hits"])
        hits[:, order] = part["hits"]
        n_d, r_d = part["items"].cumsum(1), part["relevant"].cumsum(1)
        relevant = np.maximum(r_d[:, -1:], 1)
        by_rank += (hits / ranks).sum(0), (hits / relevant).sum(0)
        by_radius += (r_d / np.maximum(n_d, 1)).sum(0), (r_d / relevant).sum(0)
        found += (r_d > 0).sum(0)
    queries = len(query)
    with_hit = by_radius / np.maximum(found, 1)
    return {"rank": {"rank": ranks.tolist(), "precision": (by_rank[0] / queries).tolist(),
                     "recall": (by_rank[1] / queries).tolist()},
            "radius": {"radius": list(range(bits + 1)), "precision": (by_radius[0] / queries).tolist(),
                       "recall": (by_radius[1] / queries).tolist(), "precision_found": with_hit[0].tolist(),
                       "recall_found": with_hit[1].tolist()}}


# checks and bookkeeping ---------------------------------------------------------------------
def _check(query, database, query_labels, database_labels, bits):
    """Words of codes and labels, all uint64 [W, rows]: query, database, query labels, database labels."""
    for name, codes in ("query", query), ("database", database):
        check_codes(codes, bits, f"{name} codes")
        if not len(codes):
            raise InputError(f"the {name} is empty: nothing to evaluate")
    words = [to_words(query), to_words(database)]
    for name, labels, codes in ("query", query_labels, query), ("database", database_labels, database):
        if labels is None:
            raise InputError(f"the {name} has no labels: relevance, and so mAP, is not defined without them")
        labels = np.asarray(labels)
        if labels.ndim != 2 or labels.dtype.kind not in "biu" or not labels.shape[1]:
            raise InputError(f"{name} labels must be 0/1 integers [items, classes], got {labels.dtype} "
                             f"{list(labels.shape)}")
        if len(labels) != len(codes):
            raise InputError(f"the {name} has {len(codes)} codes but {len(labels)} rows of labels")
        if labels.dtype.kind != "b" and (labels.min() < 0 or labels.max() > 1):
            raise InputError(f"{name} labels must be 0 or 1, found {labels.min()} to {labels.max()}")
        words.append(to_words(np.packbits(labels, axis=1)))
    if np.shape(query_labels)[1] != np.shape(database_labels)[1]:
        raise InputError(f"query labels have {np.shape(query_labels)[1]} classes, database labels "
                         f"{np.shape(database_labels)[1]}")
    return words


def _chunks(data, bits, k, mode, ranks):
    """Rank the queries, a chunk at a time: dicts of ``ap`` float64 [q], ``hits`` int64 [q, len(ranks)],
    ``items`` and ``relevant`` int64 [q, bits + 1] by distance. k = 0 computes no AP; ``ranks`` ascend.
    """
    query, database, query_labels, database_labels = data
    for start in range(0, query.shape[1], _CHUNK):
        stop = min(start + _CHUNK, query.shape[1])
        codes = np.ascontiguousarray(query[:, start:stop].T)
        labels = np.ascontiguousarray(query_labels[:, start:stop].T)
        q = stop - start
        out = {"ap": np.zeros(q), "hits": np.zeros((q, len(ranks)), np.int64),
               "items": np.zeros((q, bits + 1), np.int64), "relevant": np.zeros((q, bits + 1), np.int64)}
        spread(lambda rows: _rank(codes, database, labels, database_labels, rows.start, rows.stop, k, mode, ranks,
                                  out["ap"], out["hits"], out["items"], out["relevant"]), blocks(q))
        yield out


def _tie_values(items, relevant, k, ap):
    """Tie-order values of each query, float64 [q, 5] in the order of ``evaluate``, and [q, 2] fewest, most hits."""
    values, bounds = np.zeros((len(items), 5)), np.zeros((len(items), 2), np.int64)
    inverse = 1 / np.arange(1, items[0].sum() + 1)
    # Partial sums of 1/t to twice the working precision: differences of distant neighbours cancel otherwise.
    high = np.concatenate([[0.0], np.cumsum(inverse)])
    step = high[1:] - high[:-1]
    low = np.concatenate([[0.0], np.cumsum((high[:-1] - (high[1:] - step)) + (inverse - step))])
    spread(lambda rows: _ties(items, relevant, rows.start, rows.stop, k, AP.index(ap), high, low, values, bounds),
           blocks(len(items)))
    return values, bounds


def _mean(ap, hits, no_hit):
    """Mean AP over all queries, or over those with a hit (0 when there is none)."""
    if no_hit == "skip":
        ap = ap[hits > 0]
    return float(ap.mean()) if len(ap) else 0.0


# kernels: ranking ---------------------------------------------------------------------------
@kernel
def _rank(query, database, query_labels, database_labels, first, last, k, mode, ranks, ap, hits_at, items, relevant):
    """Fill the outputs of the queries first..last - 1. A tile of the database serves _GROUP of them while it is hot."""
    n = database.shape[1]
    bins = items.shape[1]
    group = min(_GROUP, last - first)
    key = np.empty((group, n), np.uint16)  # 2 * distance + (1 if relevant)
    histogram = np.empty((group, 2 * bins), np.int64)
    near = np.empty(n, np.uint16)
    ranked = np.empty(n, np.uint8)
    offset = np.empty(bins, np.int64)
    for begin in range(first, last, group):
        end = min(begin + group, last)
        histogram[:] = 0
        for start in range(0, n, TILE):
            stop = min(start + TILE, n)
            for q in range(begin, end):
                tile, row = key[q - begin, start:stop], histogram[q - begin]
                _keys(query[q], database, query_labels[q], database_labels, start, tile)
                for i in range(stop - start):
                    row[tile[i]] += 1
        for q in range(begin, end):
            total = 0
            for d in range(bins):
                relevant[q, d] = histogram[q - begin, 2 * d + 1]
                items[q, d] = histogram[q - begin, 2 * d] + relevant[q, d]
                total += relevant[q, d]
            # The ranking is needed down to distance ``cut``: by position, or (first_hits) by relevant items.
            depth = min(n, ranks[-1] if mode == _FIRST_HITS else max(k, ranks[-1]))
            wanted = min(k, total) if mode == _FIRST_HITS else 0
            cut, seen, found = 0, 0, 0
            while True:
                offset[cut] = seen
                seen += items[q, cut]
                found += relevant[q, cut]
                if seen >= depth and found >= wanted:
                    break
                cut += 1
            _counting_sort(key[q - begin], 2 * cut + 1, offset, near, ranked)
            if mode == _FIRST_HITS:
                ap[q] = _average_precision(ranked[:seen], wanted, wanted)
            else:
                ap[q] = _average_precision(ranked[:min(k, n)], total, 0 if mode == _HITS else min(k, total))
            _hits_at(ranked, ranks, hits_at[q])


@kernel
def _counting_sort(key, limit, offset, near, ranked):
    """Relevance in ranking order, uint8, of the items with key <= limit; ``offset`` holds the start of each distance.

    They are first picked into ``near``, without a branch: which items are near is unpredictable.
    """
    picked = np.uint64(0)
    for i in range(key.shape[0]):
        near[picked] = key[i]
        picked += np.uint64(key[i] <= limit)
    for i in range(picked):
        d = near[i] >> 1
        ranked[offset[d]] = near[i] & 1
        offset[d] += 1


@kernel
def _keys(code, database, labels, database_labels, start, out):
    """2 * distance + (1 if a label is shared) of one query and the items from ``start`` on; fills ``out`` uint16 [n].

    One pass takes the first word of the codes and two label words: nearly always that is everything, as a query has
    few labels. What is left over is added by further passes.
    """
    n = out.shape[0]
    first, second = 0, 0  # label words with a label of the query
    for w in range(labels.shape[0] - 1, -1, -1):
        if labels[w]:
            first, second = w, first
    code_word, label_word, other_word = code[0], labels[first], labels[second]
    code_row = database[0, start:start + n]
    label_row, other_row = database_labels[first, start:start + n], database_labels[second, start:start + n]
    for i in range(n):
        shared = (label_word & label_row[i]) | (other_word & other_row[i])
        out[i] = 2 * popcount(code_word ^ code_row[i]) + (shared != 0)
    for w in range(1, code.shape[0]):
        code_word, code_row = code[w], database[w, start:start + n]
        for i in range(n):
            out[i] += 2 * popcount(code_word ^ code_row[i])
    for w in range(max(first, second) + 1, labels.shape[0]):
        if labels[w]:
            label_word, label_row = labels[w], database_labels[w, start:start + n]
            for i in range(n):
                out[i] |= (label_word & label_row[i]) != 0


@kernel
def _average_precision(ranked, wanted, denominator):
    """Sum of precision at the first ``wanted`` hits of ``ranked``, over ``denominator`` or (0) over the hits met."""
    hits, total = 0, 0.0
    for t in range(ranked.shape[0]):
        if hits == wanted:
            break
        hits += ranked[t]
        total += ranked[t] * (hits / (t + 1))  # no branch: whether a place is a hit is unpredictable
    return total / (denominator if denominator else hits) if hits else 0.0


@kernel
def _hits_at(ranked, ranks, out):
    """Hits within each of the ascending ``ranks``."""
    hits, done = 0, 0
    for j in range(ranks.shape[0]):
        stop = min(ranks[j], ranked.shape[0])
        for t in range(done, stop):
            hits += ranked[t]
        done = stop
        out[j] = hits


# kernels: tie orders ------------------------------------------------------------------------
# Notation: a group is the n items at one distance, r of them relevant; before it stand ``before`` items with ``hits``
# relevant ones. Only the first m positions of the group (or its first m relevant items) may count.
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
def _ties(items, relevant, first, last, k, mode, high, low, values, bounds):
    """Fill ``values`` [q, 5] (expected, worst, best, irrelevant first, relevant first) and ``bounds`` [q, 2]."""
    for q in range(first, last):
        total = relevant[q].sum()
        end = min(k, total if mode == _FIRST_HITS else items[q].sum())
        hits, before, d = 0, 0, 0
        expected, worst, best = 0.0, 0.0, 0.0
        # groups that count as a whole
        while d < items.shape[1]:
            n, r = items[q, d], relevant[q, d]
            if (hits + r if mode == _FIRST_HITS else before + n) > end:
                break
            expected += _at_random(hits, before, n, r, n, high, low)
            worst += _in_a_row(hits, before + n - r, r, high, low)
            best += _in_a_row(hits, before, r, high, low)
            hits, before, d = hits + r, before + n, d + 1
        bounds[q] = hits
        m = end - (hits if mode == _FIRST_HITS else before)
        if m and mode == _FIRST_HITS:
            expected += _cut_at_hits(hits, before, n, r, m)
            worst += _in_a_row(hits, before + n - r, m, high, low)
            best += _in_a_row(hits, before, m, high, low)
            hits += m
            bounds[q] = hits
        elif m:
            fewest, most = max(0, m - (n - r)), min(m, r)
            bounds[q, 0] += fewest
            bounds[q, 1] += most
            if mode == _MIN:
                expected += _at_random(hits, before, n, r, m, high, low)
                worst += _in_a_row(hits, before + m - fewest, fewest, high, low)
                best += _in_a_row(hits, before, most, high, low)
            else:
                values[q, 0] = _cut_over_hits(expected, hits, before, n, r, m, high, low)
                values[q, 1], values[q, 2] = 1.0, 0.0
                for h in range(fewest, most + 1):
                    down, up = 0.0, 0.0
                    if hits + h:
                        down = (worst + _in_a_row(hits, before + m - h, h, high, low)) / (hits + h)
                        up = (best + _in_a_row(hits, before, h, high, low)) / (hits + h)
                    values[q, 1] = min(values[q, 1], down)
                    values[q, 2] = max(values[q, 2], up)
                    if h == fewest:
                        values[q, 3] = down
                    values[q, 4] = up
                continue
        denominator = hits if mode == _HITS else min(k, total)
        if denominator:
            values[q, 0] = expected / denominator
            values[q, 1] = values[q, 3] = worst / denominator
            values[q, 2] = values[q, 4] = best / denominator
