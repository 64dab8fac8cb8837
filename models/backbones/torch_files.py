"""torch's two file layouts, the zip of today and the row of pickles before 1.6, as trees of arrays."""
import math
import struct

import numpy as np

from models.backbones.array_files import plain_numbers, stored_numbers
from utils.safe_pickle import Function, PickleError, is_shape, load

MAGIC = 0x1950a86a20f9469cfc6c
_KINDS = {"Double": "f8", "Float": "f4", "Half": "f2", "BFloat16": "bf16", "Long": "i8", "Int": "i4", "Short": "i2",
          "Char": "i1", "Byte": "u1", "Bool": "?"}


class _Storage:
    """One storage of a file; ``flat`` is filled when its bytes are found."""

    __slots__ = ("kind", "count", "flat")

    def __init__(self, kind, count):
        self.kind, self.count, self.flat = kind, count, None

    @property
    def nbytes(self):
        return self.count * stored_numbers(self.kind).itemsize


class Tensor:
    """A view of a storage: offset, sizes and strides in elements."""

    __slots__ = ("storage", "offset", "size", "stride")

    def __init__(self, storage, offset, size, stride, *_):
        if type(storage) is not _Storage or type(offset) is not int or offset < 0 \
                or not is_shape(size) or not is_shape(stride) or len(size) != len(stride):
            raise PickleError("a tensor of another form")
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def build(self, state):
        """Attributes of a parameter: not asked for."""

    @property
    def array(self):
        """The tensor as a view, read-only. Raises ValueError where it has more elements than its storage."""
        flat = self.storage.flat
        if 0 in self.size:
            return np.zeros(self.size, flat.dtype)
        last = self.offset + sum((count - 1) * step for count, step in zip(self.size, self.stride))
        if last >= len(flat):
            raise ValueError("a tensor reaches past its storage")
        if math.prod(self.size) > len(flat):
            raise ValueError(f"a tensor of shape {self.size} repeats the {len(flat)} elements of its storage")
        steps = [step * flat.itemsize for step in self.stride]
        return np.lib.stride_tricks.as_strided(flat[self.offset:], self.size, steps, writeable=False)


def _first(value, *_):
    """Parameter(tensor, ...) is the tensor."""
    return value


_NAMES = {("torch._utils", "_rebuild_tensor"): Function(Tensor),
          ("torch._utils", "_rebuild_tensor_v2"): Function(Tensor),
          ("torch._utils", "_rebuild_parameter"): Function(_first),
          ("torch.nn.parameter", "Parameter"): Function(_first),
          ("torch", "device"): Function(lambda *_: None),
          **{("torch", name + "Storage"): kind for name, kind in _KINDS.items()}}


class _Storages(dict):
    """key -> _Storage, filled while a pickle is read."""

    def find(self, pid):
        """("storage", kind, key, device, elements[, view]); a view is (key, offset, size) or None."""
        if type(pid) is not tuple or not 5 <= len(pid) <= 6 or pid[0] != "storage" or pid[1] not in _KINDS.values() \
                or type(pid[2]) is not str or type(pid[4]) is not int or pid[4] < 0:
            raise PickleError("it asks for an unknown kind of storage")
        if len(pid) > 5 and pid[5] is not None:
            raise PickleError("views of storages are not supported; save the file anew with torch")
        return self.setdefault(pid[2], _Storage(pid[1], pid[4]))


def read_zip(archive):
    """The tree of an open zip file (utils.npz.open_zip).

    Raises:
        ValueError: not torch's layout, or sizes that disagree.
    """
    entries = {info.filename: info for info in archive.infolist()}
    index = next((name for name in entries if name.endswith("/data.pkl") or name == "data.pkl"), None)
    if index is None:
        raise ValueError("it is a zip file without data.pkl in its place")
    root = index[:-len("data.pkl")]
    order = ">" if root + "byteorder" in entries and archive.read(entries[root + "byteorder"]) == b"big" else "<"
    storages = _Storages()
    tree, _ = load(archive.read(entries[index]), 0, _NAMES, storages.find)
    for key, storage in storages.items():
        info = entries.get(f"{root}data/{key}")
        if info is None or info.file_size != storage.nbytes:
            raise ValueError(f"storage {key} has {info.file_size if info else 'no'} bytes, not {storage.nbytes}")
        storage.flat = plain_numbers(storage.kind, archive.read(info), order)
    return tree


def read_legacy(data):
    """The tree of the older layout: magic, protocol, system, objects, storage keys, each storage's count and bytes.

    Raises:
        ValueError: it ends early, or sizes disagree.
    """
    at = 0
    for _ in range(3):
        _, at = load(data, at)
    storages = _Storages()
    tree, at = load(data, at, _NAMES, storages.find)
    keys, at = load(data, at)
    if type(keys) is not list:
        raise ValueError("it has no list of storages")
    for key in keys:
        storage = storages.get(key) if type(key) is str else None
        if storage is None or len(data) - at < 8 + storage.nbytes:
            raise ValueError("it ends early")
        count, = struct.unpack_from("<q", data, at)
        if count != storage.count:
            raise ValueError(f"storage {key} has {count} elements, not {storage.count}")
        storage.flat = plain_numbers(storage.kind, memoryview(data)[at + 8:at + 8 + storage.nbytes])
        at += 8 + storage.nbytes
    return tree
