"""Files of named arrays: safetensors and npz; the zip frame that npz shares with torch; numbers by their kind.

Sizes are compared with the file's own before anything is allocated, see ``open_zip`` and ``read_safetensors``.
"""
import contextlib
import io
import json
import math
import os
import struct
import zipfile

import numpy as np

_SAFETENSORS = {"F64": "f8", "F32": "f4", "F16": "f2", "BF16": "bf16", "I64": "i8", "I32": "i4", "I16": "i2",
                "I8": "i1", "U8": "u1", "BOOL": "?"}
LARGEST_HEADER = 2 << 20      # bytes of a safetensors header: some 20,000 arrays
LARGEST_DIRECTORY, MOST_ENTRIES = 4 << 20, 20_000   # bytes of a zip file's directory, and its entries
UNPACKED_FACTOR, UNPACKED_FREE = 4, 64 << 20   # a compressed .npz may become so many times its size, plus so many bytes


def stored_numbers(kind):
    """numpy.dtype of the stored numbers; bfloat16, which numpy lacks, is stored as uint16."""
    return np.dtype("u2" if kind == "bf16" else kind)


def plain_numbers(kind, data, order="<"):
    """Bytes -> flat ndarray; bfloat16 becomes float32."""
    flat = np.frombuffer(data, stored_numbers(kind).newbyteorder(order))
    return (flat.astype("<u4") << 16).view("<f4") if kind == "bf16" else flat


# safetensors --------------------------------------------------------------------------------------
def _short_number(text):
    if len(text) > 20:
        raise ValueError("its header holds a number of more than 20 digits")
    return int(text)


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
        header = json.loads(file.read(length), parse_int=_short_number)
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


# zip ----------------------------------------------------------------------------------------------
class _Guarded(io.FileIO):
    """A file that refuses large single reads while ``guard`` is set: zipfile reads a directory in one."""

    guard = True

    def read(self, size=-1):
        if self.guard and size is not None and size > LARGEST_DIRECTORY:
            raise ValueError(f"its directory is larger than {LARGEST_DIRECTORY} bytes")
        return super().read(size)


@contextlib.contextmanager
def open_zip(path):
    """A zipfile.ZipFile whose entries are known to be small enough to read, each once.

    Stored entries together are no larger than the file, so they do not overlap; compressed ones may unpack to
    ``UNPACKED_FACTOR`` times the file and ``UNPACKED_FREE`` bytes.

    Raises:
        ValueError: larger ones, more of them, other compressions, or a directory beyond ``LARGEST_DIRECTORY``.
    """
    with _Guarded(path) as file, zipfile.ZipFile(file) as archive:
        file.guard = False
        if len(archive.infolist()) > MOST_ENTRIES:
            raise ValueError(f"it has more than {MOST_ENTRIES:,} entries")
        size, totals = os.path.getsize(path), {zipfile.ZIP_STORED: 0, zipfile.ZIP_DEFLATED: 0}
        for info in archive.infolist():
            if info.compress_type not in totals:
                raise ValueError("it is compressed in another way than Deflate")
            totals[info.compress_type] += info.file_size
        if totals[zipfile.ZIP_STORED] > size:
            raise ValueError("its entries overlap")
        if totals[zipfile.ZIP_DEFLATED] > UNPACKED_FACTOR * size + UNPACKED_FREE:
            raise ValueError(f"it unpacks to {totals[zipfile.ZIP_DEFLATED]:,} bytes, more than {UNPACKED_FACTOR} times "
                             f"its size and {UNPACKED_FREE >> 20} MB; write it without compression")
        yield archive


def read_npz(archive):
    """dict name -> ndarray of an open zip file of ``.npy`` entries, in the file's order, without texts.

    Raises:
        ValueError: an entry that is no array of plain numbers, or whose shape does not fit its bytes.
    """
    arrays = {}
    for info in archive.infolist():
        with archive.open(info) as entry:
            shape, fortran, dtype = _npy_header(entry, info.filename)
            if dtype.kind in "US":
                continue   # notes beside the weights
            data = entry.read(info.file_size - entry.tell())
        if dtype.kind not in "fiub" or math.prod(shape) * dtype.itemsize != len(data):
            raise ValueError(f"{info.filename} is no array of plain numbers, or its shape does not fit its bytes")
        array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
        arrays[info.filename.removesuffix(".npy")] = array
    return arrays


def _npy_header(entry, name):
    """(shape, Fortran order, dtype), the entry standing behind its header."""
    version = np.lib.format.read_magic(entry)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(entry)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(entry)
    raise ValueError(f"{name} is an array file of version {version}")
