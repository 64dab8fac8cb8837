"""Binary codes: packing, Hamming distances, exact top-k. Needs numpy and numba only; deployment imports it.

A packed code is uint8 [N, ceil(bits / 8)] in the order of ``numpy.packbits``; unused bits of the last byte are zero,
which leaves distances unchanged.

The kernels work on 64-bit *words*, laid out word-major (uint64 [W, N]): the inner loop over the items is then
contiguous for every code length, and LLVM turns it into vector instructions. Kernels hold no lock of the interpreter;
``in_blocks`` spreads queries over plain threads, because numba's own parallel loops are neither safe to enter from
several threads of a service nor safe to fork beside, and take seconds to compile.
"""
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
from numba.core import types
from numba.core.extending import intrinsic

from utils.cpu import threads
from utils.errors import InputError

MAX_BITS = 1024
TILE = 1024  # items at a time: codes, labels and distances of a tile stay in the first-level cache
BLOCK = 64  # queries that a thread takes at once


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
        raise InputError(f"{name} must be packed codes, uint8 [items, bytes], got {kind}; see utils.retrieval.hamming.pack")
    if packed.shape[1] * 8 > MAX_BITS:
        raise InputError(f"{name} have {packed.shape[1]} bytes each; the longest code is {MAX_BITS} bits")
    if bits is None:
        return
    if not 1 <= bits <= MAX_BITS or packed.shape[1] != (bits + 7) // 8:
        raise InputError(f"{name} have {packed.shape[1]} bytes each, which is not a code of {bits} bits")
    if bits % 8 and (packed[:, -1] & (0xff >> bits % 8)).any():
        raise InputError(f"{name} have bits set behind bit {bits}: they were made with another code length")


def prepare(packed):
    """Packed rows uint8 [N, nb] as the words that the kernels read: uint64 [ceil(nb / 8), N], zero padded.

    ``distances``, ``topk`` and ``within`` take a database in this form too: an index prepares it once. For 8-byte rows
    this is a view.
    """
    n, nb = packed.shape
    if nb % 8:
        packed = np.pad(packed, ((0, 0), (0, -nb % 8)))
    return np.ascontiguousarray(np.ascontiguousarray(packed).view(np.uint64).T)


# kernels ------------------------------------------------------------------------------------
@intrinsic
def popcount(typingctx, word):
    """Number of set bits of a uint64: LLVM's ctpop, one hardware instruction (or a vector of them)."""
    def generate(context, builder, signature, args):
        return builder.ctpop(args[0])
    return types.uint64(types.uint64), generate


def kernel(function):
    """Compile without the interpreter's lock; keep the machine code on disk where a folder can be written."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # read-only installation and no writable home: compile once a process
        return numba.njit(nogil=True)(function)


@kernel
def tile_distances(query, database, start, out):
    """Distances of one query (words uint64 [W]) to the items from ``start`` on; fills ``out`` uint16 [n]."""
    n = out.shape[0]
    word = query[0]
    row = database[0, start:start + n]
    for i in range(n):
        out[i] = popcount(word ^ row[i])
    for w in range(1, query.shape[0]):
        word = query[w]
        row = database[w, start:start + n]
        for i in range(n):
            out[i] += popcount(word ^ row[i])


@kernel
def _distances(query, database, first, last, out):
    n = database.shape[1]
    for q in range(first, last):
        for start in range(0, n, TILE):
            stop = min(start + TILE, n)
            tile_distances(query[:, q].copy(), database, start, out[q, start:stop])


@kernel
def _topk(query, database, first, last, k, distance, position):
    words, n = database.shape
    found = np.empty(n, np.uint16)
    histogram = np.empty(words * 64 + 1, np.int64)
    offset = np.empty(words * 64 + 1, np.int64)
    for q in range(first, last):
        code = query[:, q].copy()
        histogram[:] = 0
        for start in range(0, n, TILE):
            stop = min(start + TILE, n)
            tile_distances(code, database, start, found[start:stop])
            for i in range(start, stop):
                histogram[found[i]] += 1
        # counting sort: where each distance starts in the ranking, and the last distance that is needed
        cut, total = 0, 0
        while True:
            offset[cut] = total
            total += histogram[cut]
            if total >= k:
                break
            cut += 1
        for i in range(n):
            d = found[i]
            if d <= cut:
                place = offset[d]
                if place < k:
                    distance[q, place] = d
                    position[q, place] = i
                    offset[d] = place + 1


# calls --------------------------------------------------------------------------------------
def call(function, *arguments):
    """Call a kernel. A cache file that cannot be written (full disk) must not fail the computation.

    numba keeps the compiled kernel when saving it fails, and raises; so each kernel below this one fails at most once.
    """
    for _ in range(20):
        try:
            return function(*arguments)
        except OSError:
            pass
    return function(*arguments)


def in_blocks(function, n):
    """``function(first, last)`` for consecutive blocks of ``range(n)``, on several threads where that helps."""
    workers = min(threads(), n)
    block = max(1, min(BLOCK, n // (4 * max(workers, 1))))
    blocks = [(first, min(first + block, n)) for first in range(0, n, block)]
    if workers <= 1:
        for first, last in blocks:
            function(first, last)
        return
    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(function, first, last) for first, last in blocks]:
            done.result()


def _both_words(query, database):
    """Query and database as words; ``database`` may be words already."""
    check_codes(query, name="query codes")
    if isinstance(database, np.ndarray) and database.dtype == np.uint64 and database.ndim == 2:
        words = database
        if words.shape[0] != (query.shape[1] + 7) // 8:
            raise InputError(f"query codes have {query.shape[1]} bytes, database codes {words.shape[0]} words of 8")
    else:
        check_codes(database, name="database codes")
        if query.shape[1] != database.shape[1]:
            raise InputError(f"query codes have {query.shape[1]} bytes, database codes {database.shape[1]}: "
                             "they come from different code lengths")
        words = prepare(database)
    if not query.shape[0] or not words.shape[1]:
        raise InputError(f"nothing to compare: {query.shape[0]} query and {words.shape[1]} database codes")
    return prepare(query), words


def distances(query, database):
    """All Hamming distances.

    Args:
        query: packed codes uint8 [Q, nb].
        database: packed codes uint8 [N, nb], or their ``prepare``.

    Returns:
        uint16 [Q, N].

    Raises:
        InputError: other types, different widths, or nothing to compare.
    """
    query, database = _both_words(query, database)
    out = np.empty((query.shape[1], database.shape[1]), np.uint16)
    in_blocks(lambda first, last: call(_distances, query, database, first, last, out), query.shape[1])
    return out


def topk(query, database, k, allowed=None):
    """The ``k`` nearest items of each query: distance ascending, ties by database position.

    The order is that of a stable sort of the distances (a counting sort that keeps database order).

    Args:
        query: packed codes uint8 [Q, nb].
        database: packed codes uint8 [N, nb], or what ``prepare`` made of them (an index prepares them once).
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
    query, database = _both_words(query, database)
    positions = _positions(allowed, database.shape[1])
    if positions is not None:
        database = np.ascontiguousarray(database[:, positions])
    shape = (query.shape[1], min(int(k) or database.shape[1], database.shape[1]))
    distance, position = np.empty(shape, np.int32), np.empty(shape, np.int64)
    if shape[1]:
        in_blocks(lambda first, last: call(_topk, query, database, first, last, shape[1], distance, position), shape[0])
    return distance, position if positions is None else positions[position]


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
    distance, position = topk(query, database, 0, allowed)
    near = distance <= radius
    return np.concatenate([[0], near.sum(1).cumsum()]), distance[near], position[near]


def _positions(allowed, items):
    """Ascending positions of the items that ``allowed`` names; None for all."""
    if allowed is None:
        return None
    allowed = np.asarray(allowed)
    if allowed.ndim != 1 or allowed.dtype.kind not in "biu" and allowed.size:
        raise InputError(f"allowed items must be a mask or whole positions, got {allowed.dtype} {list(allowed.shape)}")
    if allowed.dtype.kind == "b":
        if len(allowed) != items:
            raise InputError(f"the mask of allowed items has {len(allowed)} entries, the database {items}")
        return np.flatnonzero(allowed)
    if allowed.size and (allowed.min() < 0 or allowed.max() >= items):
        raise InputError(f"allowed positions must lie from 0 to {items - 1}, found {allowed.min()} to {allowed.max()}")
    return np.unique(allowed).astype(np.int64)
