"""Writes the files of torch.save without torch."""
import collections
import io
import pickle
import struct
import sys
import types
import zipfile

import numpy as np

_KINDS = {"float32": "FloatStorage", "float16": "HalfStorage", "float64": "DoubleStorage", "int64": "LongStorage",
          "uint8": "ByteStorage", "bool": "BoolStorage", "uint16": "BFloat16Storage"}


def as_view(array):
    """(flat storage, offset, strides in elements) of an array, which may be a view of a flat one."""
    flat = array.base
    if not isinstance(flat, np.ndarray) or flat.ndim != 1:
        array = np.array(array, order="C")
        flat = array.reshape(-1)
    start = array.__array_interface__["data"][0] - flat.__array_interface__["data"][0]
    return flat, start // array.itemsize, tuple(step // array.itemsize for step in array.strides)


def write_torch(path, tree, legacy=False):
    """Write a tree of dicts with ndarrays in the layout of torch.save (uint16 stands for bfloat16)."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in set(_KINDS.values()):
        setattr(torch, name, type(name, (), {"__module__": "torch", "__qualname__": name}))

    def _rebuild_tensor_v2(*_):
        raise AssertionError("only named in the file")
    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    storages = {}

    class Storage:
        def __init__(self, flat):
            self.flat, self.key = flat, str(len(storages))
            storages[self.key] = flat

    class Pickler(pickle._Pickler):
        def reducer_override(self, value):
            if isinstance(value, np.ndarray):
                flat, offset, stride = as_view(value)
                hooks = collections.OrderedDict()
                return _rebuild_tensor_v2, (Storage(flat), offset, value.shape, stride, False, hooks)
            return NotImplemented

        def persistent_id(self, value):
            if not isinstance(value, Storage):
                return None
            kind = getattr(torch, _KINDS[str(value.flat.dtype)])
            return ("storage", kind, value.key, "cpu", value.flat.size, *([None] if legacy else []))

    saved = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules.update({"torch": torch, "torch._utils": utils})
    try:
        body = io.BytesIO()
        Pickler(body, protocol=2).dump(tree)
    finally:
        for name, module in saved.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module
    if not legacy:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("archive/data.pkl", body.getvalue())
            archive.writestr("archive/byteorder", "little")
            for key, flat in storages.items():
                archive.writestr(f"archive/data/{key}", flat.tobytes())
            archive.writestr("archive/version", "3\n")
        return
    with open(path, "wb") as file:
        for value in (0x1950a86a20f9469cfc6c, 1001, {"protocol_version": 1001, "little_endian": True}):
            pickle.dump(value, file, protocol=2)
        file.write(body.getvalue())
        pickle.dump(sorted(storages), file, protocol=2)
        for key in sorted(storages):
            file.write(struct.pack("<q", storages[key].size) + storages[key].tobytes())
