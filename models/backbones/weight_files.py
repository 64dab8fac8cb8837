"""Weight files of others, read as plain arrays: nothing in a file is ever executed.

Pickles (.pdparams, .pth) go through an unpickler that knows a dozen names and maps each to a harmless
stand-in of ours; any other name is refused. The format is told by the file's first bytes, not by its ending.
"""
import io
import json
import math
import os
import pickle
import struct
import zipfile

import numpy as np

from utils.errors import InputError

_TORCH_MAGIC = 0x1950a86a20f9469cfc6c
_STORAGES = {"Double": "f8", "Float": "f4", "Half": "f2", "BFloat16": "bf16", "Long": "i8", "Int": "i4",
             "Short": "i2", "Char": "i1", "Byte": "u1", "Bool": "?"}
_SAFETENSORS = {"F64": "f8", "F32": "f4", "F16": "f2", "BF16": "bf16", "I64": "i8", "I32": "i4", "I16": "i2",
                "I8": "i1", "U8": "u1", "BOOL": "?"}
_WIDTH = {"bf16": 2}


def _array(kind, data, order="<"):
    """Bytes -> flat ndarray; bfloat16 (which numpy lacks) becomes float32."""
    if kind == "bf16":
        return (np.frombuffer(data, order + "u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(data, order + kind)


# stand-ins for what pickles ask for ---------------------------------------------------------------
class _Call:
    """A callable that a pickle may name. Has no state that a pickle could change."""

    __slots__ = ("function",)

    def __init__(self, function):
        self.function = function

    def __call__(self, *arguments):
        return self.function(*arguments)

    def __setstate__(self, state):
        raise pickle.UnpicklingError("state for a function")


class _Dict(dict):
    """OrderedDict; its attributes (torch's _metadata) are dropped."""

    __slots__ = ()

    def __setstate__(self, state):
        pass


class _Dtype:
    """numpy.dtype of a plain number."""

    __slots__ = ("kind", "order")

    def __init__(self, kind, *_):
        self.kind, self.order = str(kind), "<"
        if self.kind[:1] not in tuple("fiub") or not self.kind[1:].isdigit():
            raise pickle.UnpicklingError(f"array of type {kind}")

    def __setstate__(self, state):
        self.order = ">" if state[1] == ">" else "<"

    def numpy(self):
        return np.dtype(self.order + self.kind)


class _Ndarray:
    """numpy.ndarray; ``array`` is set once its state was read."""

    __slots__ = ("array",)

    def __init__(self, *_):
        self.array = None

    def __setstate__(self, state):
        _, shape, dtype, fortran, data = state
        data = data.encode("latin1") if isinstance(data, str) else data
        self.array = np.frombuffer(data, dtype.numpy()).reshape(shape, order="F" if fortran else "C")


class _Storage:
    """One storage of a torch file; ``flat`` is filled when its bytes are found."""

    __slots__ = ("kind", "count", "flat")

    def __init__(self, kind, count):
        self.kind, self.count, self.flat = kind, int(count), None

    @property
    def nbytes(self):
        return self.count * _WIDTH.get(self.kind, np.dtype(self.kind if self.kind not in _WIDTH else "u2").itemsize)


class _Tensor:
    """A view of a storage: offset, sizes and strides in elements."""

    __slots__ = ("storage", "offset", "size", "stride")

    def __init__(self, storage, offset, size, stride, *_):
        self.storage, self.offset = storage, int(offset)
        self.size, self.stride = tuple(map(int, size)), tuple(map(int, stride))

    def __setstate__(self, state):
        pass

    def numpy(self):
        if min((self.offset, *self.size, *self.stride)) < 0 or len(self.size) != len(self.stride):
            raise ValueError("tensor with negative sizes")
        flat, last = self.storage.flat, self.offset
        if 0 in self.size:
            return np.zeros(self.size, flat.dtype)
        last += sum((n - 1) * step for n, step in zip(self.size, self.stride))
        if last >= len(flat):
            raise ValueError("tensor that reaches past its storage")
        bytes_each = [step * flat.itemsize for step in self.stride]
        return np.lib.stride_tricks.as_strided(flat[self.offset:], self.size, bytes_each).copy()


def _encode(text, coding):
    if coding != "latin1":
        raise pickle.UnpicklingError(f"text coding {coding}")
    return text.encode("latin1")


_NAMES = {("numpy", "ndarray"): _Ndarray, ("numpy", "dtype"): _Dtype, ("_codecs", "encode"): _encode,
          ("collections", "OrderedDict"): _Dict, ("builtins", "tuple"): tuple, ("__builtin__", "tuple"): tuple,
          ("torch._utils", "_rebuild_tensor"): _Tensor, ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
          ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
          ("torch.nn.parameter", "Parameter"): lambda tensor, *_: tensor,
          ("torch", "Size"): tuple, ("torch", "device"): lambda *_: None}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _NAMES[_module, "_reconstruct"] = lambda *_: _Ndarray()
for _name, _kind in _STORAGES.items():
    _NAMES["torch", _name + "Storage"] = _kind


class _Unpickler(pickle.Unpickler):
    """Knows the names above and torch's storages, nothing else."""

    def __init__(self, file):
        super().__init__(file, encoding="latin1")
        self.storages = {}

    def find_class(self, module, name):
        found = _NAMES.get((module, name))
        if found is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return found if isinstance(found, str) else _Call(found)

    def persistent_load(self, pid):
        """torch: ("storage", kind, key, device, elements[, view]); a view is (key, offset, size) or None."""
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], str):
            raise pickle.UnpicklingError("it asks for an unknown kind of storage")
        if len(pid) > 5 and pid[5] is not None:
            raise pickle.UnpicklingError("views of storages are not supported; save the file anew with torch")
        return self.storages.setdefault(str(pid[2]), _Storage(pid[1], pid[4]))


def _plain(value):
    """Stand-in -> ndarray; None for what is no array."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        value = value[1]       # Paddle writes a tensor as (name, array)
    if isinstance(value, _Tensor):
        return value.numpy()
    if isinstance(value, _Ndarray) and value.array is not None:
        # Paddle writes bfloat16 as uint16
        return _array("bf16", value.array.tobytes()).reshape(value.array.shape) \
            if value.array.dtype.kind == "u" and value.array.dtype.itemsize == 2 else value.array
    return None


def _flatten(tree):
    """The dict name -> ndarray inside a loaded pickle, which may wrap it ({"state_dict": {...}, "epoch": 9})."""
    if not isinstance(tree, dict):
        raise ValueError("no dictionary of arrays")
    arrays = {str(key): _plain(value) for key, value in tree.items()}
    arrays = {key: value for key, value in arrays.items() if value is not None}
    for key, info in (tree.get("UnpackBigParamInfor@@") or {}).items():   # Paddle cuts huge arrays into slices
        arrays[key] = np.concatenate([arrays.pop(part) for part in info["slices"]]).reshape(info["OriginShape"])
    if not arrays:
        for key in ("state_dict", "model", "net", "model_state_dict"):
            if isinstance(tree.get(key), dict):
                return _flatten(tree[key])
    return arrays


# the formats ------------------------------------------------------------------------------------
def _read_torch_zip(archive):
    names = {info.filename: info for info in archive.infolist()}
    index = next((name for name in names if name.endswith("/data.pkl") or name == "data.pkl"), None)
    if index is None:
        raise ValueError("it is a zip file without data.pkl in its place")
    root = index[:-len("data.pkl")]
    order = ">" if names.get(root + "byteorder") and archive.read(root + "byteorder") == b"big" else "<"
    unpickler = _Unpickler(io.BytesIO(archive.read(index)))
    tree = unpickler.load()
    for key, storage in unpickler.storages.items():
        info = names[f"{root}data/{key}"]
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != storage.nbytes:
            raise ValueError(f"storage {key} has {info.file_size} bytes, not {storage.nbytes}")
        storage.flat = _array(storage.kind, archive.read(info), order)
    return _flatten(tree)


def _read_torch_legacy(file):
    """torch before 1.6: magic, protocol, system, objects, storage keys, then each storage's length and bytes."""
    for _ in range(3):
        _Unpickler(file).load()
    unpickler = _Unpickler(file)
    tree = unpickler.load()
    for key in _Unpickler(file).load():
        storage = unpickler.storages[str(key)]
        count, = struct.unpack("<q", file.read(8))
        if count != storage.count:
            raise ValueError(f"storage {key} has {count} elements, not {storage.count}")
        data = file.read(storage.nbytes)
        if len(data) != storage.nbytes:
            raise EOFError("it ends early")
        storage.flat = _array(storage.kind, data)
    return _flatten(tree)


def _read_safetensors(path):
    with open(path, "rb") as file:
        length, = struct.unpack("<Q", file.read(8))
        if length > min(100_000_000, os.path.getsize(path)):
            raise ValueError("header longer than the file")
        header = json.loads(file.read(length))
        data = np.memmap(path, "u1", "r", offset=8 + length) if os.path.getsize(path) > 8 + length else b""
        arrays = {}
        for key, entry in header.items():
            if key == "__metadata__":
                continue
            start, end = entry["data_offsets"]
            kind, shape = _SAFETENSORS[entry["dtype"]], entry["shape"]
            if not 0 <= start <= end <= len(data) or \
                    end - start != math.prod(shape) * (_WIDTH.get(kind) or np.dtype(kind).itemsize):
                raise ValueError(f"{key} lies outside the file")
            arrays[key] = _array(kind, bytes(data[start:end])).reshape(shape)
        return arrays


def _read_npz(path):
    with np.load(path, allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def file_format(path):
    """``safetensors``, ``zip`` (torch or numpy), ``pickle`` or None, by the first bytes of a file.

    A safetensors file starts with the length of its header, whose bytes may look like the start of the others.
    """
    with open(path, "rb") as file:
        start = file.read(9)
    if start[8:] == b"{":
        return "safetensors"
    return {b"PK": "zip", b"\x80": "pickle"}.get(start[:2] if start[:1] == b"P" else start[:1])


def _read_any(path):
    kind = file_format(path)
    if kind == "safetensors":
        return _read_safetensors(path)
    with open(path, "rb") as file:
        if kind == "zip":
            with zipfile.ZipFile(file) as archive:
                if any(name.endswith("data.pkl") for name in archive.namelist()):
                    return _read_torch_zip(archive)
            return _read_npz(path)
        if kind == "pickle":
            first = _Unpickler(file).load()
            if first == _TORCH_MAGIC:
                file.seek(0)
                return _read_torch_legacy(file)
            return _flatten(first)
    raise ValueError("it is none of .pdparams, .pth, .safetensors, .npz")


def read_weights(path):
    """Read a weight file without executing anything in it.

    Args:
        path: ``.pdparams`` (Paddle 2 and 3), ``.pth``/``.pt`` (torch, zip or the older layout), ``.safetensors``
            or ``.npz``; the content decides, not the ending.

    Returns:
        dict name -> ndarray as stored (bfloat16 as float32); entries that are no arrays are left out.

    Raises:
        InputError: missing, truncated, hostile or of another kind.
    """
    if not os.path.isfile(path):
        raise InputError(f"weight file {path} does not exist")
    try:
        arrays = _read_any(path)
    except InputError:
        raise
    except Exception as error:  # damaged bytes reach four parsers, and those raise almost anything
        reason = str(error).strip().splitlines()
        raise InputError(f"{path} is no weight file that can be read safely "
                         f"({reason[0] if reason else type(error).__name__}); "
                         "give a .pdparams, .pth, .safetensors or .npz with arrays only") from error
    if not arrays:
        raise InputError(f"{path} holds no arrays; give a .pdparams, .pth, .safetensors or .npz of a network")
    return arrays
