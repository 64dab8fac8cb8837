"""Fixed binary targets, one row of +-1 a class: CSQ's hash centres, OrthoHash's codebook. numpy only.

Random rows come from the Generator that is passed in; nobody can draw the rows of another program's generator again,
so what counts is their distances: ``target_figures``.
"""
import numpy as np

_TRIES = 10_000  # rows looked at before the wanted distance is lowered (OrthoHash's public code)
_REDRAWS = 20    # draws of the balanced rows before one that is not good enough is taken (public codes of CSQ)


def hadamard_rows(bits, order="spread"):
    """The rows of the Sylvester Hadamard matrix, entry (-1)^popcount(i & j), then the negated rows.

    Any two rows are ``bits / 2`` apart, a row and its negation ``bits``. Taken in their own order, the first C rows
    know only the lowest ceil(log2 C) binary digits of a column's number: with fewer classes than bits, many bits are
    equal. ``spread`` puts the rows 1, 2, 4, 8, ... first, which tell all columns apart. Column 0 is +1 in every row;
    so that it is no constant bit, row 0 follows next, negated.

    Args:
        bits: a power of two.
        order: ``spread``, or ``rows`` for the matrix's own order (authors' code, DeepHash-pytorch).

    Returns:
        int8 [2 * bits, bits].
    """
    matrix = np.ones((1, 1), np.int8)
    while len(matrix) < bits:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    if order == "spread":
        powers = [1 << digit for digit in range(bits.bit_length() - 1)]
        rest = [row for row in range(1, bits) if row not in powers]
        matrix = np.concatenate([matrix[powers], -matrix[:1], matrix[rest]])
    return np.concatenate([matrix, -matrix])


def spread_rows(kept, count, draw, distance, step=1.0):
    """Append random rows that are far from each other, until there are ``count``.

    Args:
        kept: int8 [n, bits], rows that are there already.
        count: number of rows wanted.
        draw: callable number -> random rows int8 [number, bits].
        distance: a row is kept where it differs from every row before it in at least so many bits; after 10,000 rows
            this is lowered.
        step: by how much.

    Returns:
        int8 [count, bits].
    """
    rows = list(kept)
    while len(rows) < count:
        block = draw(_TRIES)
        nearest = _distances(block, np.array(rows)).min(axis=1) if rows else np.full(len(block), np.inf)
        at = 0
        while len(rows) < count:
            far = np.flatnonzero(nearest[at:] >= distance)
            if not len(far):
                break
            at += int(far[0])
            rows.append(block[at])
            nearest = np.minimum(nearest, _distances(block, block[at:at + 1])[:, 0])
            at += 1
        distance -= step
    return np.array(rows[:count])


def _distances(a, b):
    """Hamming distances float32 [len(a), len(b)] of rows of +-1."""
    return (a.shape[1] - a.astype("float32") @ b.astype("float32").T) / 2


def centres(bits, classes, rng, order="spread"):
    """CSQ's targets: Hadamard rows, then the negated rows, then balanced random rows.

    Where ``bits`` is no power of two all rows are random. Random rows have round(bits / 2) entries -1 and are more
    than bits / 4 from every other row where that can be reached, on average at least bits / 2.

    Args:
        bits: code length.
        classes: number of rows.
        rng: numpy Generator.
        order: see ``hadamard_rows``.

    Returns:
        int8 [classes, bits].
    """
    power = bits & (bits - 1) == 0
    fixed = hadamard_rows(bits, order)[:classes] if power else np.empty((0, bits), np.int8)
    if len(fixed) == classes:
        return fixed

    def balanced(number):
        rows = np.ones((number, bits), np.int8)
        rows[:, :round(bits / 2)] = -1
        return rng.permuted(rows, axis=1)

    best, best_rank = None, None
    for _ in range(_REDRAWS):
        rows = spread_rows(fixed, classes, balanced, bits // 4 + 1)
        figures = target_figures(rows)
        rank = figures["smallest"], min(figures["mean"], bits / 2)
        if best is None or rank > best_rank:
            best, best_rank = rows, rank
        if rank[0] > bits // 4 and rank[1] >= bits / 2:
            break
    return best


def codebook(bits, classes, rng, kind="bernoulli"):
    """OrthoHash's targets.

    Args:
        bits: code length.
        classes: number of rows.
        rng: numpy Generator.
        kind: ``bernoulli``: fair coins. ``maxhd``: coin rows kept where they are at least .61 bits from all earlier
            ones, lowered by .01 after 10,000 rows; in random order. ``hadamard``: as ``centres`` in the matrix's own
            order.

    Returns:
        int8 [classes, bits].
    """
    def coins(number):
        return (2 * rng.integers(0, 2, (number, bits), dtype=np.int8) - 1).astype(np.int8)

    if kind == "bernoulli":
        return coins(classes)
    if kind == "hadamard":
        return centres(bits, classes, rng, "rows")
    return rng.permutation(spread_rows(np.empty((0, bits), np.int8), classes, coins, 0.61 * bits, 0.01 * bits))


def target_figures(targets):
    """What tells good targets from bad ones.

    Args:
        targets: +-1, [C, bits].

    Returns:
        dict: ``smallest`` and ``mean`` distance of two rows (``bits`` where there is one row only); ``constant``
        bits, the same in all rows; ``repeated`` bits that are equal, or opposite, to an earlier bit that varies.
    """
    targets = np.asarray(targets, dtype="float32")
    classes, bits = targets.shape
    pairs = _distances(targets, targets)[np.triu_indices(classes, 1)] if classes > 1 else np.array([bits])
    columns = (targets * targets[:1]).T  # bits that are opposite in all rows become equal
    varying = columns[(columns != 1).any(axis=1)]
    return {"smallest": int(pairs.min()), "mean": float(pairs.mean(dtype="float64")),
            "constant": bits - len(varying), "repeated": len(varying) - len(np.unique(varying, axis=0))}


def describe_targets(targets, wanted=0):
    """``target_figures`` as a line for the log; says so where rows are nearer than ``wanted`` bits."""
    figures, (classes, bits) = target_figures(targets), targets.shape
    line = (f"targets: {classes} classes, {bits} bits, distance at least {figures['smallest']}, mean "
            f"{figures['mean']:.1f}; {figures['constant']} constant bits, {figures['repeated']} that repeat others")
    if not figures["smallest"]:
        return line + "; classes with equal targets cannot be told apart: use more bits"
    return line + (f"; no rows at least {wanted} bits apart were found" if figures["smallest"] < wanted else "")
