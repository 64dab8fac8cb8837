"""Pickles of strangers, read as arrays and plain values: nothing in them is ever executed.

Python's own unpickler calls what a file names, fills its memo up to any index that a file names, and hashes any key.
This one is a small machine for the two dozen instructions that writers of arrays use (protocols 2 to 5). It makes None,
numbers, texts, bytes, tuples, lists, dicts and ``Array``; a global name means one of the functions here or of the
caller, and every other name is refused. What a file costs is bounded by its own size:

* a length is compared with the bytes that are left before anything is made of it;
* at most ``MOST_STEPS`` instructions (1,000 arrays take some 30,000);
* what is made anew from texts and bytes is at most four times the file;
* keys are texts or small integers, so no hash is slow and none collides on purpose.
"""
import gc
import math
import re
import struct

import numpy as np

MOST_STEPS = 1_000_000
MOST_AXES = 32
_LARGEST_KEY = 1 << 31
_LONGEST_NUMBER = 64   # bytes; torch's magic number has 10
_LONGEST_NAME = 200
_MOST_ARGUMENTS = 16


class PickleError(ValueError):
    """Why a pickle is refused."""


def is_shape(value):
    """Is this a tuple of a few integers of 0 or more?"""
    return type(value) is tuple and len(value) <= MOST_AXES and all(type(size) is int and size >= 0 for size in value)


class Array:
    """Stands for a numpy.ndarray; ``array`` is it, read-only, once its bytes were seen."""

    __slots__ = ("array",)

    def __init__(self):
        self.array = None

    def build(self, state):
        """numpy's (version, shape, dtype, Fortran order, bytes); the bytes must be as many as the shape needs."""
        _, shape, dtype, fortran, data = state
        if type(dtype) is not Dtype or type(data) is not bytes or not is_shape(shape):
            raise PickleError("an array of another form")
        kind = dtype.numpy()
        if math.prod(shape) * kind.itemsize != len(data):
            raise PickleError(f"an array of shape {shape} with {len(data)} bytes")
        self.array = np.frombuffer(data, kind).reshape(shape, order="F" if fortran else "C")


class Dtype:
    """Stands for the numpy.dtype of a plain number."""

    __slots__ = ("kind", "order")

    def __init__(self, kind, *_):
        if type(kind) is not str or not re.fullmatch(r"[fiub]\d{1,2}", kind):
            raise PickleError(f"an array of type {kind[:20]}" if type(kind) is str else "an array of no type")
        self.kind, self.order = kind, "<"

    def build(self, state):
        """numpy's (version, byte order, ...)."""
        self.order = ">" if state[1] == ">" else "<"

    def numpy(self):
        """The numpy.dtype."""
        return np.dtype(self.order + self.kind)


class Function:
    """What a global name stands for; it looks at types first: hashing or printing nested values may never end."""

    __slots__ = ("call",)

    def __init__(self, call):
        self.call = call


def _same_tuple(*arguments):
    """tuple(x) and torch.Size(x) of what already is a tuple: copies nothing."""
    value, = arguments or ((),)
    if type(value) is not tuple:
        raise PickleError("a tuple of something else")
    return value


def _from_buffer(data, dtype, shape, order):
    """numpy's arrays in protocol 5."""
    array = Array()
    array.build((1, shape, dtype, order == "F", data))
    return array


def _scalar(dtype, data):
    """numpy's way to write one number."""
    if type(dtype) is not Dtype:
        raise PickleError("a number of no type")
    if type(data) is str:
        data = data.encode("latin1") if len(data) <= _LONGEST_NUMBER else b""
    return np.frombuffer(data, dtype.numpy(), 1)[0].item()


# settings and counters that training scripts store beside the weights; nobody asks for them here
_IGNORED = Function(lambda *_: {})
_NAMES = {("numpy", "ndarray"): None, ("numpy", "dtype"): Function(Dtype),
          ("builtins", "tuple"): Function(_same_tuple), ("__builtin__", "tuple"): Function(_same_tuple),
          ("builtins", "bytes"): Function(lambda: b""), ("__builtin__", "bytes"): Function(lambda: b""),
          ("torch", "Size"): Function(_same_tuple),
          ("argparse", "Namespace"): _IGNORED, ("collections", "Counter"): _IGNORED}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _NAMES[_module, "_reconstruct"] = Function(lambda *_: Array())
    _NAMES[_module, "scalar"] = Function(_scalar)
for _module in ("numpy.core.numeric", "numpy._core.numeric"):
    _NAMES[_module, "_frombuffer"] = Function(_from_buffer)


def load(data, start=0, names=None, persistent=None):
    """One pickle.

    Args:
        data: bytes.
        start: where it begins in them.
        names: dict (module, name) -> ``Function`` or a plain value, beyond numpy's arrays and OrderedDict.
        persistent: function of a persistent id (torch's storages); None refuses them.

    Returns:
        (value, position behind the pickle).

    Raises:
        PickleError: damaged, too large for its size, or not made of arrays and plain values only.
    """
    machine = _Machine(data, start, names or {}, persistent)
    collecting = gc.isenabled()
    gc.disable()   # a million small values would be searched for cycles again and again
    try:
        return machine.run(), machine.at
    except PickleError:
        raise
    except (IndexError, struct.error) as error:
        raise PickleError("it ends early or is damaged") from error
    except Exception as error:   # wrong types in wrong places, from the few functions that a name may stand for
        raise PickleError(f"it is damaged ({type(error).__name__})") from error
    finally:
        if collecting:
            gc.enable()


class _Machine:
    """The instructions, one method each; ``stack`` holds values, ``marks`` the heights at which MARK stood."""

    def __init__(self, data, start, names, persistent):
        self.data, self.view, self.at = data, memoryview(data), start
        self.names = {**_NAMES, ("_codecs", "encode"): Function(self.encode),
                      ("collections", "OrderedDict"): Function(self.ordered_dict), **names}
        self.persistent = persistent
        self.stack, self.marks, self.memo = [], [], {}
        self.allowance = 4 * len(data)   # bytes that may still be made anew

    def run(self):
        data, steps = self.data, _STEPS
        for _ in range(MOST_STEPS):
            code = data[self.at]
            self.at += 1
            if code == 0x2E:   # STOP
                value, = self.stack
                return value
            step = steps.get(code)
            if step is None:
                raise PickleError(f"it has the instruction {bytes([code])!r}, which no file of arrays needs")
            step(self)
        raise PickleError(f"it has more than {MOST_STEPS:,} instructions")

    # bytes of the file ----------------------------------------------------------------------
    def take(self, count):
        end = self.at + count
        if end > len(self.data):
            raise PickleError("it ends early")
        part = self.view[self.at:end]
        self.at = end
        return part

    def number(self, form):
        value, = form.unpack_from(self.data, self.at)
        self.at += form.size
        return value

    def line(self):
        end = self.data.find(b"\n", self.at, self.at + _LONGEST_NAME)
        if end < 0:
            raise PickleError("a name without end")
        text = self.data[self.at:end].decode("ascii")
        self.at = end + 1
        return text

    def spend(self, count):
        self.allowance -= count
        if self.allowance < 0:
            raise PickleError("it makes more of its bytes than four times its size")

    # the stack ------------------------------------------------------------------------------
    def above_mark(self):
        height = self.marks.pop()
        values = self.stack[height:]
        del self.stack[height:]
        return values

    def pop(self, count=None):
        if len(self.stack) - (self.marks[-1] if self.marks else 0) < (count or 1):
            raise PickleError("it takes values that are not there")
        if count is None:
            return self.stack.pop()
        values = self.stack[-count:]
        del self.stack[-count:]
        return values

    def top(self, kind):
        if type(self.stack[-1]) is not kind:
            raise PickleError(f"it fills something that is no {kind.__name__}")
        return self.stack[-1]

    def remember(self, index):
        self.memo[index] = self.stack[-1]

    def recall(self, index):
        if index not in self.memo:
            raise PickleError("it recalls what it never made")
        self.stack.append(self.memo[index])

    def add(self, values):
        self.top(list).extend(values)

    def put_items(self, values):
        into = self.top(dict)
        for key, value in zip(values[::2], values[1::2]):
            if not (type(key) is str or type(key) is int and -_LARGEST_KEY <= key < _LARGEST_KEY):
                if type(key) is not bytes:
                    raise PickleError("a dictionary key that is no text")
                self.spend(len(key))
                key = key.decode("latin1")
            into[key] = value

    # names and what they stand for ------------------------------------------------------------
    def push_name(self, module, name):
        if type(module) is not str or type(name) is not str:
            raise PickleError("a name that is no text")
        if (module, name) not in self.names:
            raise PickleError(f"it asks for {module[:_LONGEST_NAME]}.{name[:_LONGEST_NAME]}")
        self.stack.append(self.names[module, name])

    def call(self):
        function, arguments = self.pop(2)
        if type(function) is not Function or type(arguments) is not tuple or len(arguments) > _MOST_ARGUMENTS:
            raise PickleError("it calls something that is no function")
        self.stack.append(function.call(*arguments))

    def build(self):
        state = self.pop()
        target = self.stack[-1]
        if type(target) is dict:   # attributes of an OrderedDict (torch's _metadata) are dropped
            return
        if type(target) is Array and type(state) is tuple and type(state[-1]) is str:
            state = (*state[:-1], self.encode(state[-1], "latin1"))
        if not hasattr(target, "build"):
            raise PickleError("it sets the state of something that has none")
        target.build(state)

    def encode(self, text, coding):
        """_codecs.encode, by which protocol 2 writes bytes."""
        if type(text) is not str or coding != "latin1":
            raise PickleError("an unknown text coding")
        self.spend(len(text))
        return text.encode("latin1")

    def ordered_dict(self, pairs=()):
        """collections.OrderedDict; Python 2 passes its items."""
        self.spend(16 * len(pairs))
        self.stack.append({})
        self.put_items([part for key, value in pairs for part in (key, value)])
        return self.stack.pop()

    def storage(self):
        if self.persistent is None:
            raise PickleError("it asks for a storage")
        self.stack.append(self.persistent(self.pop()))

    def long(self, count):
        if not 0 <= count <= _LONGEST_NUMBER:
            raise PickleError(f"a number of {count} bytes")
        self.stack.append(int.from_bytes(self.take(count), "little", signed=True))

    def text(self, count):
        self.stack.append(str(self.take(count), "utf-8", "surrogatepass"))


_U8, _U16, _I32, _U32, _U64, _F64 = (struct.Struct(form) for form in ("B", "<H", "<i", "<I", "<Q", ">d"))
_STEPS = {code[0]: step for code, step in {
    b"\x80": lambda m: m.take(1),   # PROTO
    b"\x95": lambda m: m.take(8),   # FRAME: a hint for buffering
    b"(": lambda m: m.marks.append(len(m.stack)),
    b"0": lambda m: m.pop(),
    b"1": lambda m: m.above_mark(),   # POP_MARK
    b"N": lambda m: m.stack.append(None),
    b"\x88": lambda m: m.stack.append(True),
    b"\x89": lambda m: m.stack.append(False),
    b"J": lambda m: m.stack.append(m.number(_I32)),
    b"K": lambda m: m.stack.append(m.number(_U8)),
    b"M": lambda m: m.stack.append(m.number(_U16)),
    b"\x8a": lambda m: m.long(m.number(_U8)),
    b"\x8b": lambda m: m.long(m.number(_I32)),
    b"G": lambda m: m.stack.append(m.number(_F64)),
    b"X": lambda m: m.text(m.number(_U32)),
    b"\x8c": lambda m: m.text(m.number(_U8)),
    b"\x8d": lambda m: m.text(m.number(_U64)),
    b"U": lambda m: m.stack.append(str(m.take(m.number(_U8)), "latin1")),
    b"T": lambda m: m.stack.append(str(m.take(m.number(_U32)), "latin1")),
    b"C": lambda m: m.stack.append(bytes(m.take(m.number(_U8)))),
    b"B": lambda m: m.stack.append(bytes(m.take(m.number(_U32)))),
    b"\x8e": lambda m: m.stack.append(bytes(m.take(m.number(_U64)))),
    b"\x96": lambda m: m.stack.append(bytes(m.take(m.number(_U64)))),   # BYTEARRAY8
    b"\x98": lambda m: None,   # READONLY_BUFFER
    b")": lambda m: m.stack.append(()),
    b"t": lambda m: m.stack.append(tuple(m.above_mark())),
    b"\x85": lambda m: m.stack.append(tuple(m.pop(1))),
    b"\x86": lambda m: m.stack.append(tuple(m.pop(2))),
    b"\x87": lambda m: m.stack.append(tuple(m.pop(3))),
    b"]": lambda m: m.stack.append([]),
    b"a": lambda m: m.add([m.pop()]),
    b"e": lambda m: m.add(m.above_mark()),
    b"}": lambda m: m.stack.append({}),
    b"s": lambda m: m.put_items(m.pop(2)),
    b"u": lambda m: m.put_items(m.above_mark()),
    b"q": lambda m: m.remember(m.number(_U8)),
    b"r": lambda m: m.remember(m.number(_U32)),
    b"\x94": lambda m: m.remember(len(m.memo)),   # MEMOIZE
    b"h": lambda m: m.recall(m.number(_U8)),
    b"j": lambda m: m.recall(m.number(_U32)),
    b"c": lambda m: m.push_name(m.line(), m.line()),
    b"\x93": lambda m: m.push_name(*m.pop(2)),
    b"R": lambda m: m.call(),
    b"\x81": lambda m: m.call(),   # NEWOBJ
    b"b": lambda m: m.build(),
    b"Q": lambda m: m.storage(),
}.items()}
