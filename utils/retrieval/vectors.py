"""Instructions that numba does not offer: popcount, and vectors of 64 items at a time.

Vectors are written in LLVM's language, which splits them for narrower processors. Left to its own vectoriser, a mask
of 64 items takes a detour through memory and three times the instructions.
"""
import contextlib

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.extending import intrinsic

GROUP = 64  # items of a mask


@intrinsic
def popcount(typingctx, word):
    """Number of set bits of an unsigned word: LLVM's ctpop, one hardware instruction (or a vector of them)."""
    def generate(context, builder, signature, args):
        return context.cast(builder, builder.ctpop(args[0]), word, types.intp)
    return types.intp(word), generate


@intrinsic
def lowest(typingctx, mask):
    """Number of the lowest set bit of a uint64 other than 0."""
    def generate(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))
    return types.intp(types.uint64), generate


class _Vectors:
    """64 numbers as vectors of 512 bits, in LLVM's language."""

    def __init__(self, context, builder, number):
        self.context, self.builder = context, builder
        self.lanes, self.word = 512 // number.bitwidth, ir.IntType(number.bitwidth)
        self.type = ir.VectorType(self.word, self.lanes)

    def spread(self, value):
        """A value in all lanes."""
        one = self.builder.insert_element(ir.Constant(self.type, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
        return self.builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), None))

    def places(self, array_type, array, indices):
        """Where 64 neighbours of an array are, from ``indices`` on."""
        start = cgutils.get_item_pointer(self.context, self.builder, array_type, array, indices)
        start = self.builder.bitcast(start, self.type.as_pointer())
        return [self.builder.gep(start, [ir.Constant(ir.IntType(32), j)]) for j in range(GROUP // self.lanes)]

    def load(self, *place):
        """64 neighbours of an array as vectors; arguments as ``places``."""
        return [self.builder.load(place, align=self.word.width // 8) for place in self.places(*place)]

    def store(self, vectors, *place):
        """Write 64 neighbours of an array."""
        for vector, place in zip(vectors, self.places(*place)):
            self.builder.store(vector, place, align=self.word.width // 8)

    def popcount(self, vector):
        """Number of set bits of each lane."""
        function = ir.FunctionType(self.type, [self.type])
        name = f"llvm.ctpop.v{self.lanes}i{self.word.width}"
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, function, name), [vector])

    def over_words(self, words_type, words, rows_type, rows, start, combine, only_if=None):
        """Fold 64 neighbours of each row with the word of the query for it.

        Args:
            words, rows: [W] and [W, N], each preceded by its numba type. start: of the neighbours.
            combine: (total, word, neighbours) -> total, all vectors; the first total is 0.
            only_if: (word) -> a block of code for words that are worth it.
        """
        builder = self.builder
        totals = [cgutils.alloca_once_value(builder, ir.Constant(self.type, None)) for _ in range(GROUP // self.lanes)]
        with cgutils.for_range(builder, cgutils.unpack_tuple(builder, rows.shape)[0]) as loop:
            place = cgutils.get_item_pointer(self.context, builder, words_type, words, [loop.index])
            number = builder.load(place)
            with only_if(number) if only_if else contextlib.nullcontext():
                word = self.spread(number)
                for total, theirs in zip(totals, self.load(rows_type, rows, [loop.index, start])):
                    builder.store(combine(builder.load(total), word, theirs), total)
        return [builder.load(total) for total in totals]

    def distances(self, *arguments):
        """Hamming distances of 64 items; arguments as ``over_words``."""
        def add(total, ours, theirs):
            return self.builder.add(total, self.popcount(self.builder.xor(ours, theirs)))
        return self.over_words(*arguments, add)

    def in_common(self, *arguments):
        """Bits that 64 items have in common with the query; arguments as ``over_words``."""
        def add(total, ours, theirs):
            return self.builder.or_(total, self.builder.and_(ours, theirs))

        def not_zero(word):  # a query has few labels
            return self.builder.if_then(self.builder.icmp_unsigned("!=", word, ir.Constant(self.word, 0)))
        return self.over_words(*arguments, add, not_zero)

    def at_most(self, vectors, limit):
        """A bit for each of 64 numbers: whether it is at most ``limit`` (int64)."""
        limit = limit if self.word.width == 64 else self.builder.trunc(limit, self.word)
        limits, mask = self.spread(limit), ir.Constant(ir.IntType(64), 0)
        for j, vector in enumerate(vectors):
            bits = self.builder.bitcast(self.builder.icmp_unsigned("<=", vector, limits), ir.IntType(self.lanes))
            bits = self.builder.zext(bits, mask.type) if self.lanes < GROUP else bits
            mask = self.builder.or_(mask, self.builder.shl(bits, ir.Constant(mask.type, j * self.lanes)))
        return mask


@intrinsic
def at_most(typingctx, numbers, start, limit):
    """Which of the unsigned ``numbers`` start .. start + 63 are at most ``limit``: a bit each, the first one lowest."""
    def generate(context, builder, signature, args):
        vectors = _Vectors(context, builder, numbers.dtype)
        array = context.make_array(numbers)(context, builder, args[0])
        return vectors.at_most(vectors.load(numbers, array, [args[1]]), args[2])
    return types.uint64(numbers, types.intp, types.int64), generate


@intrinsic
def near(typingctx, code, database, start, limit):
    """Which of the items start .. start + 63 lie within ``limit`` of a query: a bit each, the first item lowest.

    Args:
        code: words of the query, [W].
        database: words [W, N] with N >= start + 64, contiguous.
        limit: 0 to 1024.
    """
    def generate(context, builder, signature, args):
        vectors = _Vectors(context, builder, database.dtype)
        query = context.make_array(code)(context, builder, args[0])
        items = context.make_array(database)(context, builder, args[1])
        return vectors.at_most(vectors.distances(code, query, database, items, args[2]), args[3])
    return types.uint64(code, database, types.intp, types.int64), generate


@intrinsic
def rank_keys(typingctx, code, database, labels, database_labels, start, out, place):
    """2 * distance + (1 if a label is shared) of the items start .. start + 63, into out[place .. place + 63].

    Args:
        code, labels: words of the query; database, database_labels: words [W, N], N >= start + 64. All of the type of
            ``out``.

    Returns:
        which of the items share a label: a bit each, the first item lowest.
    """
    def generate(context, builder, signature, args):
        vectors = _Vectors(context, builder, out.dtype)
        arrays = [context.make_array(kind)(context, builder, arg) for kind, arg in zip(signature.args, args)
                  if isinstance(kind, types.Array)]
        distances = vectors.distances(code, arrays[0], database, arrays[1], args[4])
        shared = vectors.in_common(labels, arrays[2], database_labels, arrays[3], args[4])
        zero = ir.Constant(vectors.type, None)
        odd = [builder.zext(builder.icmp_unsigned("!=", bits, zero), vectors.type) for bits in shared]
        keys = [builder.add(builder.add(distance, distance), one) for distance, one in zip(distances, odd)]
        vectors.store(keys, out, arrays[4], [args[6]])
        return builder.not_(vectors.at_most(shared, ir.Constant(ir.IntType(64), 0)))
    return types.uint64(code, database, labels, database_labels, types.intp, out, types.intp), generate
