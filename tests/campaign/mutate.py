"""Seeded changes of files: damage of bytes, foreign payloads, and values that no writer of ours would write."""
import copy
import io
import json
import pickle
import re
import struct
import zipfile

import numpy as np

# numbers that sizes, offsets and counts are read as
NUMBERS = (0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff, 1 << 40, (1 << 63) - 1, 1 << 63,
           (1 << 64) - 1)
# values in place of those of a JSON or YAML tree
VALUES = (None, True, False, -1, 0, 1, 1 << 31, 10 ** 7, 1 << 63, 10 ** 30, 0.5, 1e308, float("nan"), float("inf"), "",
          " ", "1", "x" * 100_000, "\ud800", "\x00", "a\nb\x1b[31m", "../../../etc/passwd", "/etc/passwd", "inference",
          "2020-13-45", [], {}, [[]], [None], ["a"], [16, 32], {"a": 1}, {"": {}})
# words in place of those of a text that people write
HALF = "\ud800".encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")
WORDS = ("", "-1", "0", "1" * 5000, "1e999", "nan", "null", "true", "~", "[", "]" * 50, "{", "}", "[" * 5000,
         "{a: " * 300, '{"a":' * 3000, "- " * 2000, "&a", "*a", "!!binary", "!!int x", "? ", "|", ">", "%", "@", "`",
         "\x00", "\x1b[31m", "\ufeff", "\u2028", HALF, "\\ud800", '"', "'", ",", ":", "#", "\t", "\r\n", "/etc/passwd",
         "../../etc/passwd", "2020-13-45", "0x1p9", "0o17", "1:30:00", "x" * 70_000)


# payloads -----------------------------------------------------------------------------------------
class _Call:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        import os
        return os.mkdir, (self.canary,)


def payloads(canary):
    """dict name -> bytes of files that make the folder ``canary`` where they are executed."""
    call = pickle.dumps(_Call(canary), 2)
    path = json.dumps(canary)
    objects = io.BytesIO()
    np.save(objects, np.array([_Call(canary)], object), allow_pickle=True)
    found = {"pickle": call, "pickle of protocol 0": pickle.dumps({"model": _Call(canary)}, 0),
             "pickle of protocol 4": pickle.dumps({"model": _Call(canary)}, 4),
             "npy": objects.getvalue(),
             "yaml": f"method: !!python/object/apply:os.mkdir [{path}]\n".encode(),
             "yaml, new": f"!!python/object/new:os.mkdir [{path}]\n".encode(),
             "python": f"__import__('os').mkdir({path})\n".encode(),
             "bomb": b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
                 f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n".encode() for i in range(11))}
    for name, member, data in (("torch", "archive/data.pkl", call), ("npz", "codes.npy", found["npy"]),
                               ("npz of features", "image.npy", found["npy"])):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr(zipfile.ZipInfo(member), data)  # by name it would hold the time: another input every run
        found[name] = out.getvalue()
    return found


# bytes --------------------------------------------------------------------------------------------
def _place(data, rng, most=200):
    """A random piece of ``data``: (first, length)."""
    first = rng.randrange(len(data) + 1)
    return first, min(rng.choice((1, 2, 4, 8, rng.randrange(1, most))), len(data) - first)


def cut(data, rng):
    return data[:rng.randrange(len(data) + 1)]


def flip(data, rng):
    """One bit, as a disk or a cable changes it."""
    copy_, at = bytearray(data), rng.randrange(len(data))
    copy_[at] ^= 1 << rng.randrange(8)
    return bytes(copy_)


def change(data, rng):
    copy_ = bytearray(data)
    for _ in range(rng.choice((1, 2, 5, 20))):
        copy_[rng.randrange(len(copy_))] = rng.randrange(256)
    return bytes(copy_)


def drop(data, rng):
    first, length = _place(data, rng)
    return data[:first] + data[first + length:]


def insert(data, rng):
    first, length = _place(data, rng)
    return data[:first] + rng.randbytes(length) + data[first:]


def repeat(data, rng):
    first, length = _place(data, rng, 5000)
    return data[:first] + data[first:first + length] * rng.choice((2, 3, 50)) + data[first + length:]


def swap(data, rng):
    a, b, c = sorted(rng.randrange(len(data) + 1) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def blank(data, rng):
    """A hole, as a file system leaves it after a crash."""
    first, length = _place(data, rng, 5000)
    return data[:first] + bytes(length) + data[first + length:]


def number(data, rng):
    """A size, offset or count of another value."""
    kind = rng.choice(("B", "<H", ">H", "<I", ">I", "<Q", ">Q"))
    packed = struct.pack(kind, rng.choice(NUMBERS) & ((1 << 8 * struct.calcsize(kind)) - 1))
    at = rng.randrange(min(len(data), 4096) if rng.random() < .5 else len(data))
    return data[:at] + packed + data[at + len(packed):]


def rubbish(data, rng):
    return data + rng.randbytes(rng.choice((1, 8, 5000)))


def double(data, rng):
    return data + data


DAMAGE = (cut, flip, flip, change, change, drop, insert, repeat, swap, blank, number, number, rubbish, double)


def word(data, rng):
    """A word of a text becomes another, or is joined by one."""
    text = data.decode("utf-8", "surrogateescape")
    found = list(re.finditer(r"[^\s,:{}\[\]\"']+|[\s,:{}\[\]\"']", text))
    if not found:
        return data + b"0"
    match, new = rng.choice(found), rng.choice(WORDS)
    start = match.start() if rng.random() < .8 else match.end()
    return (text[:start] + new + text[match.end():]).encode("utf-8", "surrogateescape")


def foreign(data, rng, canary):
    """A payload: the whole file, or somewhere in it."""
    payload = rng.choice(sorted(payloads(canary).items()))[1]
    if rng.random() < .6:
        return payload
    at = rng.choice((0, len(data), rng.randrange(len(data) + 1)))
    return data[:at] + payload + data[at + (len(payload) if rng.random() < .5 else 0):]


def damaged(data, rng, canary, text):
    """The bytes of a file after one change; of a ``text`` words change too."""
    if rng.random() < .05:
        return foreign(data, rng, canary)
    if text and rng.random() < .6:
        return word(data, rng)
    return rng.choice(DAMAGE)(data, rng) if data else insert(data, rng)


# values -------------------------------------------------------------------------------------------
def _holders(tree):
    """All dicts and lists of a tree that are not empty."""
    found, todo = [], [tree]
    while todo:
        one = todo.pop()
        if isinstance(one, (dict, list)) and one:
            found.append(one)
            todo += list(one.values() if isinstance(one, dict) else one)
    return found


def other_value(tree, rng):
    """A copy of a tree of plain values in which one is another, is gone or has another name."""
    tree = copy.deepcopy(tree)
    holder = rng.choice(_holders(tree))
    key = rng.choice(sorted(holder, key=str)) if isinstance(holder, dict) else rng.randrange(len(holder))
    how = rng.random()
    if how < .1:
        del holder[key]
    elif how < .15 and isinstance(holder, dict):
        holder[rng.choice(("", "x", "\ud800", "../x"))] = holder.pop(key)
    elif how < .2:
        deep = holder[key]
        for _ in range(rng.choice((3, 300))):
            deep = [deep]
        holder[key] = deep
    else:
        holder[key] = rng.choice(VALUES)
    return tree


def other_array(arrays, rng):
    """A copy of a dict of arrays in which one is another, is gone or has another name."""
    arrays = dict(arrays)
    name = rng.choice(sorted(arrays))
    array = np.asarray(arrays[name])
    how = rng.randrange(8)
    if how == 0:
        del arrays[name]
    elif how == 1:
        arrays[rng.choice(("", "x", "codes", "a/b"))] = arrays.pop(name)
    elif how == 2:
        arrays[name] = array.reshape(-1)[:rng.randrange(array.size + 1)]
    elif how == 3:
        arrays[name] = array.astype(rng.choice(("f4", "f8", "u1", "i8", "?", "U2", "f2", "c8")))
    elif how == 4:
        arrays[name] = array[None] if rng.random() < .5 else array.T
    elif how == 5 and array.dtype.kind == "f":
        arrays[name] = np.full_like(array, rng.choice((np.nan, np.inf, 1e4)))
    elif how == 6:
        arrays[name] = np.zeros(rng.choice(((), (0,), (3, 0), (2, 2, 2))), array.dtype)
    else:
        flat = array.copy().reshape(-1)
        if flat.size:
            flat.view("u1")[rng.randrange(flat.nbytes)] ^= 1 << rng.randrange(8)
        arrays[name] = flat.reshape(array.shape)
    return arrays
