"""Asymmetric ranking: the query stays relaxed (real numbers), the database is binary; score = <q, b>, b of -1 and +1.

It refines a Hamming ranking and is reported beside it, never in its place. Source: the asymmetric distances of
Gordo et al., "Asymmetric Distances for Binary Embeddings", PAMI 2014, in their simplest form.

A score is a sum in float64 of float32 values: exact unless the values of a code differ by more than about 2 ** 18 in
size. So it does not depend on the order of the sum, and equal codes always tie.
"""
import numpy as np

from utils.errors import InputError
from utils.retrieval.hamming import check_codes, unpack


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
    relaxed = check_relaxed(relaxed, database)
    position = np.asarray(position)
    if position.ndim != 2 or position.dtype.kind not in "iu" or len(position) != len(relaxed):
        raise InputError(f"positions to refine must be whole numbers [{len(relaxed)}, k], got {position.dtype} "
                         f"{list(position.shape)}")
    if position.size and (position.min() < 0 or position.max() >= len(database)):
        raise InputError(f"positions to refine must lie from 0 to {len(database) - 1}, found {position.min()} to "
                         f"{position.max()}")
    score, order = np.empty(position.shape), np.empty(position.shape, np.int64)
    for q, (code, row) in enumerate(zip(relaxed, position)):
        found = unpack(database[row], len(code)) @ code
        order[q] = np.lexsort((row, -found))
        score[q] = found[order[q]]
    return score, order


def check_relaxed(relaxed, database):
    """Relaxed query codes as float64 [Q, bits], or InputError where they do not fit the packed codes ``database``."""
    relaxed = np.asarray(relaxed)
    if relaxed.ndim != 2 or relaxed.dtype.kind != "f":
        raise InputError(f"relaxed query codes must be real numbers [queries, bits], got {relaxed.dtype} "
                         f"{list(relaxed.shape)}")
    check_codes(database, relaxed.shape[1], "database codes")
    if not np.isfinite(relaxed).all():
        raise InputError("relaxed query codes hold NaN or infinite values: the network's output is broken")
    return relaxed.astype(np.float64)
