"""Binary codes: packing, Hamming distances, exact top-k. Needs numpy and numba only; deployment imports it.

A packed code is uint8 [N, ceil(bits / 8)] in the order of ``numpy.packbits``; unused bits of the last byte are zero,
which leaves distances unchanged.

A search compares every item with every query (``kernels``) and is exact. It reads the database a piece at a time, so a
memory-mapped array of codes may be larger than the memory.
"""
import itertools

import numpy as np

from utils.errors import InputError
from utils.retrieval import compiled, kernels
from utils.retrieval.compiled import blocks, spread
from utils.retrieval.vectors import GROUP

MAX_BITS = 1024
_ROWS = 1 << 13  # rows that are laid out as words at once
_PIECE = 1 << 18  # items of codes that were not prepared, which a search lays out at once
_CANDIDATES = 1 << 19  # candidates of the queries that a thread takes at once: 5 MB
_PART = 1 << 22  # bytes of codes that are worth another thread, where there are fewer queries than threads


# packing ------------------------------------------------------------------------------------
def pack(x):
    """Codes as numbers -> packed codes: a bit is 1 where ``x >= 0`` (so sign(0) = +1); booleans are bits already.

    0 and 1 as numbers are bits where the type has no sign. In other types they are refused: by their sign all of them
    would be 1, and a guess by their values would depend on the other rows.

    Args:
        x: [N, bits], 1 <= bits <= 1024: relaxed codes, -1 and +1 (real or integer), or bits (bool, unsigned 0 and 1).

    Returns:
        uint8 [N, ceil(bits / 8)].

    Raises:
        InputError: not a 2-D array of numbers, NaN, more than 1024 bits, unsigned numbers above 1, or nothing but 0
            and 1 in a type that has a sign.
    """
    x = np.asarray(x)
    if x.ndim != 2 or x.dtype.kind not in "fiub" or not 1 <= x.shape[1] <= MAX_BITS:
        raise InputError(f"codes to pack must be numbers [items, 1..{MAX_BITS}], got {x.dtype} {list(x.shape)}")
    if x.dtype.kind == "f" and np.isnan(x).any():
        raise InputError("codes to pack hold NaN: the network's output is broken; look at the training log")
    if x.dtype.kind == "u" and x.max(initial=0) > 1:
        raise InputError(f"codes to pack are {x.dtype}, which has no -1, so they must be bits, 0 and 1; found "
                         f"{x.max()}. Are they packed already?")
    if x.dtype.kind in "ub":
        return np.packbits(x, axis=1)
    signs = x >= 0
    if signs.all():
        zero = x == 0
        # zeros alone: real ones are what a network gives that has learned nothing
        if zero.any() and (zero | (x == 1)).all() and not (x.dtype.kind == "f" and zero.all()):
            raise InputError("codes to pack are 0 and 1, whose signs are all +1: give bits as booleans "
                             "(x.astype(bool)), or signs as -1 and +1")
    return np.packbits(signs, axis=1)


def unpack(packed, bits):
    """Packed codes uint8 [N, ceil(bits / 8)] -> int8 [N, bits] of -1 and +1."""
    check_codes(packed, bits)
    return np.unpackbits(packed, axis=1, count=bits).astype(np.int8) * 2 - 1


def check_codes(packed, bits=None, name="codes"):
    """Raise InputError unless ``packed`` is uint8 [N, nb], of ``bits`` bits (if given) with zero padding."""
    if not isinstance(packed, np.ndarray) or packed.dtype != np.uint8 or packed.ndim != 2 or not packed.shape[1]:
        kind = f"{packed.dtype} {list(packed.shape)}" if isinstance(packed, np.ndarray) else type(packed).__name__
        raise InputError(f"{name} must be packed codes, uint8 [items, bytes], got {kind}; see "
                         "utils.retrieval.hamming.pack")
    if packed.shape[1] * 8 > MAX_BITS:
        raise InputError(f"{name} have {packed.shape[1]} bytes each; the longest code is {MAX_BITS} bits")
    if bits is None:
        return
    if not 1 <= bits <= MAX_BITS or packed.shape[1] != (bits + 7) // 8:
        raise InputError(f"{name} have {packed.shape[1]} bytes each, which is not a code of {bits} bits")
    if bits % 8 and (packed[:, -1] & (0xff >> bits % 8)).any():
        raise InputError(f"{name} have bits set behind bit {bits}: they were made with another code length")


# words --------------------------------------------------------------------------------------
def prepare(packed):
    """Packed codes in the layout that a search reads. An index does this once.

    Args:
        packed: uint8 [N, nb].

    Returns:
        Words, unsigned [W, N], of the widest type of 64, 32 and 16 bits that divides a row (nb bytes and, where nb is
        odd, one of zeros). Where a row is one word this is a view of ``packed``, else it takes as much memory again.
    """
    check_codes(packed)
    return to_words(packed, _word(packed.shape[1]))


def to_words(packed, word=np.uint64):
    """Packed rows uint8 [N, nb] as words [W, N] of an unsigned type, zero padded; a view where a row is one word."""
    n, nb = packed.shape
    size = np.dtype(word).itemsize
    if _is_view(packed, size):
        return packed.view(word).T
    words = np.empty((-(-nb // size), n), word)
    for start in range(0, n, _ROWS):  # rows and their words stay in the nearest caches
        rows = packed[start:start + _ROWS]
        if nb % size:
            rows = np.pad(rows, ((0, 0), (0, -nb % size)))
        words[:, start:start + _ROWS] = np.ascontiguousarray(rows).view(word).T
    return words


def _word(nb):
    """The type of the words of a row of ``nb`` bytes."""
    return np.uint64 if nb % 8 in (0, 7) else np.uint32 if nb % 4 in (0, 3) else np.uint16


def _is_view(packed, size):
    return packed.shape[1] == size and packed.flags.c_contiguous and packed.ctypes.data % size == 0


# search -------------------------------------------------------------------------------------
def distances(query, database):
    """All Hamming distances.

    Args:
        query: packed codes uint8 [Q, nb].
        database: packed codes uint8 [N, nb], or what ``prepare`` made of them.

    Returns:
        uint16 [Q, N].

    Raises:
        InputError: other types, different widths, or nothing to compare.
    """
    codes, items = _operands(query, database)
    out = np.empty((len(codes), items), np.uint16)
    for offset, words in _pieces(database):
        part = out[:, offset:offset + words.shape[1]]
        spread(lambda rows: kernels.all_distances(codes[rows], words, part[rows]), blocks(len(codes)))
    return out


def topk(query, database, k, allowed=None):
    """The ``k`` nearest items of each query: distance ascending, ties by database position.

    The order is that of a stable sort of the distances.

    Args:
        query: packed codes uint8 [Q, nb].
        database: packed codes uint8 [N, nb], also memory-mapped, or what ``prepare`` made of them.
        k: number of items; 0 or more than there are means all.
        allowed: which items may be found: bool [N], or int positions in any order. All by default.

    Returns:
        (distance int32 [Q, k], position int64 [Q, k]) with at most as many columns as items are allowed.

    Raises:
        InputError: other types, different widths, nothing to compare, k < 0, a mask of another length, positions
            outside the database.
    """
    if not isinstance(k, (int, np.integer)) or k < 0:
        raise InputError(f"k must be a whole number from 0 (all) on, got {k!r}")
    codes, items = _operands(query, database)
    allowed, available = _allowed(allowed, items)
    k = min(int(k) or available, available)
    parts = _parts(codes, items, k)
    shape = parts, len(codes), k
    found, distance, position = np.zeros(shape[:2], np.int64), np.empty(shape, np.int32), np.empty(shape, np.int64)
    for offset, words in _pieces(database, k) if k else ():
        n = words.shape[1]
        edges = [min(n, -(-n // GROUP) * i // parts * GROUP) for i in range(parts + 1)]
        bits = allowed[offset // GROUP:]
        rows = blocks(len(codes), _CANDIDATES // (k + min(k, n))) if parts == 1 else [slice(None)]
        spread(lambda job: kernels.search(codes[job[1]], words, bits, edges[job[0]], edges[job[0] + 1], offset,
                                          *(array[job] for array in (found, distance, position))),
               list(itertools.product(range(parts), rows)))
    return (distance[0], position[0]) if parts == 1 else _merge(found, distance, position)


def within(query, database, radius, allowed=None):
    """All items within a Hamming radius of each query: distance ascending, ties by database position.

    Args:
        query, database, allowed: as for ``topk``.
        radius: largest distance, inclusive.

    Returns:
        (start int64 [Q + 1], distance int32 [M], position int64 [M]): the items of query ``q`` are
        ``start[q]:start[q + 1]``.

    Raises:
        InputError: as ``topk``, or radius < 0.
    """
    if isinstance(radius, bool) or not isinstance(radius, (int, np.integer)) or radius < 0:
        raise InputError(f"the radius must be a whole number from 0 on, got {radius!r}")
    codes, items = _operands(query, database)
    allowed, _ = _allowed(allowed, items)
    radius = min(int(radius), MAX_BITS)
    start, jobs = np.zeros(len(codes) + 1, np.int64), blocks(len(codes))
    for offset, words in _pieces(database):
        bits = allowed[offset // GROUP:]
        spread(lambda rows: kernels.count_within(codes[rows], words, bits, radius, start[1:][rows]), jobs)
    np.cumsum(start, out=start)
    distance, position, place = np.empty(start[-1], np.int32), np.empty(start[-1], np.int64), start[:-1].copy()
    for offset, words in _pieces(database):
        bits = allowed[offset // GROUP:]
        spread(lambda rows: kernels.fill_within(codes[rows], words, bits, radius, offset, place[rows], distance,
                                                position), jobs)
    spread(lambda rows: kernels.sort_within(start[rows.start:rows.stop + 1], radius, distance, position), jobs)
    return start, distance, position


def _operands(query, database):
    """Query codes as words [Q, W], and the number of items of ``database``, which may be words already."""
    check_codes(query, name="query codes")
    nb, word = query.shape[1], _word(query.shape[1])
    if isinstance(database, np.ndarray) and database.ndim == 2 and database.dtype in (np.uint16, np.uint32, np.uint64):
        (words, items), word = database.shape, database.dtype
        if words != -(-nb // word.itemsize):
            raise InputError(f"query codes have {nb} bytes, database codes {words} words of {word.itemsize} bytes: "
                             "they come from different code lengths")
    else:
        check_codes(database, name="database codes")
        items = len(database)
        if nb != database.shape[1]:
            raise InputError(f"query codes have {nb} bytes, database codes {database.shape[1]}: "
                             "they come from different code lengths")
    if not len(query) or not items:
        raise InputError(f"nothing to compare: {len(query)} query and {items} database codes")
    return _read_only(np.ascontiguousarray(to_words(query, word).T)), items


def _pieces(database, least=0):
    """Yield (position of the first item, words) of consecutive pieces; the whole where that takes no copy."""
    if database.dtype != np.uint8:
        yield 0, _read_only(np.ascontiguousarray(database))
        return
    items, nb = database.shape
    step = items if _is_view(database, np.dtype(_word(nb)).itemsize) else max(_PIECE, least)
    step += -step % GROUP
    for start in range(0, items, step):
        yield start, _read_only(prepare(database[start:start + step]))


def _read_only(array):
    """A view that cannot be written: numba compiles a kernel anew for every kind of array."""
    view = array.view(np.ndarray)
    view.flags.writeable = False
    return view


def _allowed(allowed, items):
    """(a bit per item, uint64 [ceil(items / 64)], or empty for all; the number of items that ``allowed`` names)."""
    if allowed is None:
        return _read_only(np.empty(0, np.uint64)), items
    allowed = np.asarray(allowed)
    if allowed.ndim != 1 or allowed.dtype.kind not in "biu" and allowed.size:
        raise InputError(f"allowed items must be a mask or whole positions, got {allowed.dtype} {list(allowed.shape)}")
    if allowed.dtype.kind != "b":
        if allowed.size and (allowed.min() < 0 or allowed.max() >= items):
            raise InputError(f"allowed positions must lie from 0 to {items - 1}, found {allowed.min()} to "
                             f"{allowed.max()}")
        positions, allowed = allowed.astype(np.int64), np.zeros(items, bool)
        allowed[positions] = True
    if len(allowed) != items:
        raise InputError(f"the mask of allowed items has {len(allowed)} entries, the database {items}")
    bits = np.zeros(-(-items // 64) * 8, np.uint8)
    bits[:-(-items // 8)] = np.packbits(allowed, bitorder="little")
    return _read_only(bits.view("<u8").astype(np.uint64, copy=False)), int(np.count_nonzero(allowed))


def _parts(codes, items, k):
    """Into how many parts to divide the database, so that a few queries use all threads too."""
    if len(codes) >= compiled.threads() or 16 * k > items:
        return 1
    return max(1, min(compiled.threads() // len(codes), items * codes.shape[1] * codes.itemsize // _PART))


def _merge(found, distance, position):
    """One ranking of those of the parts [P, Q, k]."""
    k = distance.shape[2]
    best = np.empty(distance.shape[1:], np.int32), np.empty(distance.shape[1:], np.int64)
    for q in range(distance.shape[1]):
        near, at = (np.concatenate([part[q, :n] for part, n in zip(values, found[:, q])])
                    for values in (distance, position))
        order = np.lexsort((at, near))[:k]
        best[0][q], best[1][q] = near[order], at[order]
    return best
