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

The counting passes are numba kernels: ``rank_kernels``, ``tie_kernels`` and, for relaxed queries, ``asymmetric``.
"""
import numpy as np

from utils.errors import InputError
from utils.retrieval.asymmetric import DEFINITION, rank_by_score, weights_of
from utils.retrieval.compiled import blocks, spread
from utils.retrieval.hamming import check_codes, to_words
from utils.retrieval.rank_kernels import HITS, rank
from utils.retrieval.tie_kernels import tie_orders

AP = ("hits", "min", "first_hits")  # in the order of the kernels
NO_HIT = ("zero", "skip")
TIES = "stable (database order)"
_CHUNK = 1024  # queries whose distance counts are held at once


# what the user reads ------------------------------------------------------------------------
def evaluate(query, database, query_labels, database_labels, bits, topk=0, ap="hits", no_hit="zero", relaxed=None):
    """Mean average precision and its companions.

    Args:
        query, database: packed codes, uint8 [Q, nb] and [N, nb].
        query_labels, database_labels: 0/1 multi-hot [Q, C] and [N, C]; two items are relevant to each other when they
            share a label.
        bits: code length.
        topk: K, or a list of them, which costs little more than one; 0 means the whole database.
        ap: ``hits``, ``min`` or ``first_hits`` (see the module).
        no_hit: ``zero`` or ``skip``.
        relaxed: the query codes before the sign, float [Q, bits], for ``mAP_asymmetric``.

    Returns:
        dict, ready for JSON (a list of them for a list ``topk``):
        ``mAP`` with the stable tie order; ``mAP_expected``, the exact mean over all tie orders (McSherry & Najork 2008,
        extended to the cut at K); ``mAP_worst`` and ``mAP_best``, the extremes over all tie orders;
        ``mAP_irrelevant_first`` and ``mAP_relevant_first``, those two tie orders (at a cut K and over the hits they
        need not be the extremes); ``P@K``, ``R@K``: hits within K divided by K and by R, mean over all queries
        (K = N where topk is 0; R@K is 0 for a query without relevant items); ``P@H<=2``: precision within Hamming
        radius 2, 0 for an empty ball; ``queries``, ``items``, ``queries_without_relevant``, ``queries_without_hit``;
        ``definition``: name, K, denominator, ties, no_hit.
        With ``no_hit="skip"`` the tie figures are None when the tie order decides which queries have a hit.
        Where ``relaxed`` is given also ``mAP_asymmetric``, with the same K, denominator and no_hit on the whole ranking
        by the asymmetric score, and ``definition["asymmetric"]``, which says what that is.

    Raises:
        InputError: shapes or types that do not fit, an empty side, labels missing, topk < 0, an unknown name, relaxed
            codes of other queries.
    """
    if ap not in AP or no_hit not in NO_HIT:
        raise InputError(f"unknown AP definition ap={ap!r}, no_hit={no_hit!r}; use ap of {AP}, no_hit of {NO_HIT}")
    each = topk if isinstance(topk, (list, tuple)) and topk else [topk]
    for k in each:
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 0:
            raise InputError(f"topk must be a whole number from 0 (the whole database) on, got {k!r}")
    data = _check(query, database, query_labels, database_labels, bits)
    weights = None if relaxed is None else _check_relaxed(relaxed, query, database)
    cuts = np.unique([int(k) or len(database) for k in each])
    parts = []
    for rows, found in _chunks(data, bits, cuts, AP.index(ap), cuts):
        parts.append({**found, "ties": _tie_values(found, len(database), cuts, AP.index(ap))})
        if weights is not None:
            parts[-1]["asymmetric"] = _asymmetric(weights[rows], database, data, rows, cuts, AP.index(ap))
    reports = []
    for k in each:
        column = int(np.searchsorted(cuts, int(k) or len(database)))
        reports.append(_report(int(k), column, parts, len(database), ap, no_hit))
    return reports if isinstance(topk, (list, tuple)) else reports[0]


def _report(topk, column, parts, items, ap, no_hit):
    """The result of ``evaluate`` for the K of a column of the figures of the queries."""
    def of(name):
        return np.concatenate([part[name][:, column] for part in parts])

    n_d, r_d = (np.concatenate([part[name] for part in parts]) for name in ("items", "relevant"))
    hits, relevant = of("hits"), np.concatenate([part["total"] for part in parts])
    ball, found = n_d[:, :3].sum(1), r_d[:, :3].sum(1)
    ties = of("ties")
    lowest, highest = ties[:, 5], ties[:, 6]  # hits
    counted = relevant if ap == "first_hits" else hits
    undecided = no_hit == "skip" and ((lowest == 0) & (highest > 0)).any()
    report = {"mAP": _mean(of("ap"), counted, no_hit)}
    for name, values in zip(("expected", "worst", "best", "irrelevant_first", "relevant_first"), ties.T):
        report[f"mAP_{name}"] = None if undecided else _mean(values, highest, no_hit)
    definition = {"name": f"mAP@{topk if topk else 'all'}", "K": topk, "denominator": ap, "ties": TIES,
                  "no_hit": no_hit}
    if "asymmetric" in parts[0]:
        report["mAP_asymmetric"] = _mean(of("asymmetric"), of("asymmetric"), no_hit)  # 0 only without a hit
        definition["asymmetric"] = DEFINITION
    return {**report,
            "P@K": float((hits / (topk or items)).mean()),
            "R@K": float((hits / np.maximum(relevant, 1)).mean()),
            "P@H<=2": float((found / np.maximum(ball, 1)).mean()),
            "queries": len(hits), "items": items,
            "queries_without_relevant": int((relevant == 0).sum()),
            "queries_without_hit": int((counted == 0).sum()),
            "definition": definition}


def format_line(result):
    """The result of ``evaluate`` as one line of text."""
    definition = result["definition"]
    text = f"{definition['name']} {result['mAP']:.4f}"
    if result["mAP_expected"] is not None:
        text += (f" (over tie orders: mean {result['mAP_expected']:.4f}, "
                 f"{result['mAP_worst']:.4f} to {result['mAP_best']:.4f})")
    if "mAP_asymmetric" in result:
        text += f"  asymmetric {result['mAP_asymmetric']:.4f}"
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
    for _, part in _chunks(data, bits, np.empty(0, np.int64), HITS, ranks[order].astype(np.int64), whole=True):
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
    """Codes and labels as 16-bit words: queries [Q, W], database [W, N], their labels [Q, W] and [W, N]."""
    for name, codes in ("query", query), ("database", database):
        check_codes(codes, bits, f"{name} codes")
        if not len(codes):
            raise InputError(f"the {name} is empty: nothing to evaluate")
    words = [np.ascontiguousarray(to_words(query, np.uint16).T), to_words(database, np.uint16)]
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
        words.append(to_words(np.packbits(labels, axis=1), np.uint16))
    words[2] = np.ascontiguousarray(words[2].T)
    if np.shape(query_labels)[1] != np.shape(database_labels)[1]:
        raise InputError(f"query labels have {np.shape(query_labels)[1]} classes, database labels "
                         f"{np.shape(database_labels)[1]}")
    return words


def _check_relaxed(relaxed, query, database):
    """``weights_of`` relaxed codes that belong to the packed query codes."""
    weights = weights_of(relaxed, database)
    if len(relaxed) != len(query) or (np.packbits(np.asarray(relaxed) >= 0, axis=1) != query).any():
        raise InputError(f"{len(relaxed)} relaxed codes are not those of the {len(query)} query codes: their signs "
                         "must be the same")
    return weights


def _chunks(data, bits, cuts, mode, ranks, whole=False):
    """Rank the queries, a chunk at a time.

    Args:
        cuts: K of each AP, ascending int64; mode: definition of AP. ranks: positions, ascending int64.
        whole: count at all distances.

    Yields:
        (slice of the queries, dict of ``ap`` float64 [q, len(cuts)], ``hits`` int64 [q, len(ranks)], ``items`` and
        ``relevant`` int64 [q, bits + 1] by distance, as far as needed, ``total`` int64 [q], relevant items in all).
    """
    codes, database, labels, database_labels = data
    for start in range(0, len(codes), _CHUNK):
        chunk = slice(start, min(start + _CHUNK, len(codes)))
        q = chunk.stop - start
        out = {"ap": np.zeros((q, len(cuts))), "hits": np.zeros((q, len(ranks)), np.int64),
               "items": np.zeros((q, bits + 1), np.int64), "relevant": np.zeros((q, bits + 1), np.int64),
               "total": np.zeros(q, np.int64)}
        spread(lambda rows: rank(codes[chunk][rows], database, labels[chunk][rows], database_labels, cuts, mode, ranks,
                                 whole, *(array[rows] for array in out.values())), blocks(q))
        yield chunk, out


def _asymmetric(weights, database, data, rows, cuts, mode):
    """Average precision of the asymmetric ranking of a chunk of the queries, float64 [q, len(cuts)]."""
    query, words, labels, database_labels = data[0][rows], data[1], data[2][rows], data[3]
    codes, ap = np.ascontiguousarray(database), np.zeros((len(weights), len(cuts)))
    spread(lambda part: rank_by_score(weights[part], codes, query[part], words, labels[part], database_labels, cuts,
                                      mode, ap[part]), blocks(len(weights)))
    return ap


def _tie_values(found, n, cuts, mode):
    """Tie-order values of each query, float64 [q, len(cuts), 7]: the five of ``evaluate``, fewest and most hits.

    Args:
        found: of ``_chunks``. n: items in the database.
    """
    items, relevant, total = found["items"], found["relevant"], found["total"]
    values = np.zeros((len(items), len(cuts), 7))
    inverse = 1 / np.arange(1, n + 1)
    # Partial sums of 1/t to twice the working precision: differences of distant neighbours cancel otherwise.
    high = np.concatenate([[0.0], np.cumsum(inverse)])
    step = high[1:] - high[:-1]
    low = np.concatenate([[0.0], np.cumsum((high[:-1] - (high[1:] - step)) + (inverse - step))])
    spread(lambda rows: tie_orders(items[rows], relevant[rows], total[rows], cuts, mode, high, low, values[rows]),
           blocks(len(items)))
    return values


def _mean(ap, hits, no_hit):
    """Mean AP over all queries, or over those with a hit (0 when there is none)."""
    if no_hit == "skip":
        ap = ap[hits > 0]
    return float(ap.mean()) if len(ap) else 0.0
