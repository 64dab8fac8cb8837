"""Files of named arrays: safetensors; numbers by their kind. utils/npz.py reads .npz and the zip frame of torch.

Sizes are compared with the file's own before anything is allocated.
"""
import math
import os
import struct

import numpy as np

from utils.plain_json import parse_json

_SAFETENSORS = {"F64": "f8", "F32": "f4", "F16": "f2", "BF16": "bf16", "I64": "i8", "I32": "i4", "I16": "i2",
                "I8": "i1", "U8": "u1", "BOOL": "?"}
LARGEST_HEADER = 2 << 20      # bytes of a safetensors header: some 20,000 arrays


def stored_numbers(kind):
    """numpy.dtype of the stored numbers; bfloat16, which numpy lacks, is stored as uint16."""
    return np.dtype("u2" if kind == "bf16" else kind)


def plain_numbers(kind, data, order="<"):
    """Bytes -> flat ndarray; bfloat16 becomes float32."""
    flat = np.frombuffer(data, stored_numbers(kind).newbyteorder(order))
    return (flat.astype("<u4") << 16).view("<f4") if kind == "bf16" else flat


# safetensors --------------------------------------------------------------------------------------
def read_safetensors(path):
    """dict name -> ndarray. Arrays may not share bytes, so they are never larger than the file.

    Raises:
        ValueError: a header that does not fit the file.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        length, = struct.unpack("<Q", file.read(8))
        if length > min(LARGEST_HEADER, size - 8):
            raise ValueError(f"its header of {length} bytes is longer than the file or than {LARGEST_HEADER} bytes")
        header = parse_json(file.read(length))
        if type(header) is not dict:
            raise ValueError("its header is no dictionary")
        header.pop("__metadata__", None)
        room = size - 8 - length
        places = [entry["data_offsets"] for entry in header.values()]
        if any(type(at) is not int for place in places for at in place) or \
                any(not 0 <= start <= end <= room for start, end in places) or \
                sum(end - start for start, end in places) > room:
            raise ValueError("its arrays overlap or lie outside the file")
        arrays = {}
        for (key, entry), (start, end) in zip(header.items(), places):
            kind, shape = _SAFETENSORS[entry["dtype"]], entry["shape"]
            if any(type(count) is not int or count < 0 for count in shape) or \
                    end - start != math.prod(shape) * stored_numbers(kind).itemsize:
                raise ValueError(f"{key} has other sizes than its bytes")
            file.seek(8 + length + start)
            arrays[key] = plain_numbers(kind, file.read(end - start)).reshape(shape)
        return arrays
