"""Zip files of arrays (.npz) of strangers: sizes are compared with the file's own before anything is allocated."""
import contextlib
import io
import math
import os
import zipfile

import numpy as np

from utils import limits
from utils.errors import InputError

LARGEST_DIRECTORY, MOST_ENTRIES = 4 << 20, 20_000   # bytes of a zip file's directory, and its entries
UNPACKED_FACTOR, UNPACKED_FREE = 4, 64 << 20   # a compressed .npz may become so many times its size, plus so many bytes


# the frame ----------------------------------------------------------------------------------------
class _Guarded(io.FileIO):
    """A file that refuses large single reads while ``guard`` is set: zipfile reads a directory in one."""

    guard = True

    def read(self, size=-1):
        if self.guard and size is not None and size > LARGEST_DIRECTORY:
            raise ValueError(f"its directory is larger than {LARGEST_DIRECTORY} bytes")
        return super().read(size)


@contextlib.contextmanager
def open_zip(path, free=UNPACKED_FREE):
    """A zipfile.ZipFile whose entries are known to be small enough to read, each once.

    Stored entries together are no larger than the file, so they do not overlap; compressed ones may unpack to
    ``UNPACKED_FACTOR`` times the file and ``free`` bytes.

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
        if totals[zipfile.ZIP_DEFLATED] > UNPACKED_FACTOR * size + free:
            raise ValueError(f"it unpacks to {totals[zipfile.ZIP_DEFLATED]:,} bytes, more than {UNPACKED_FACTOR} times "
                             f"its size and {free >> 20} MB; write it without compression")
        yield archive


def read_entries(archive, names=None, texts=True):
    """Arrays of an open zip file of ``.npy`` entries, in the file's order.

    Args:
        archive: of ``open_zip``.
        names: those to read, as far as they are there; None = all.
        texts: False = arrays of texts are passed over.

    Returns:
        dict name -> ndarray.

    Raises:
        ValueError: an entry that is no array of plain numbers (or texts), or whose shape does not fit its bytes.
    """
    arrays = {}
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        if names is not None and name not in names:
            continue
        with archive.open(info) as entry:
            shape, fortran, dtype = _npy_header(entry, info.filename)
            if dtype.kind in "US" and not texts:
                continue   # notes beside the weights
            data = entry.read(info.file_size - entry.tell() + 1)  # to the end, where the checksum is compared
        if dtype.kind not in "fiubUS" or math.prod(shape) * dtype.itemsize != len(data):
            raise ValueError(f"{info.filename} is no array of plain numbers, or its shape does not fit its bytes")
        flat = np.frombuffer(data, dtype) if dtype.itemsize else np.zeros(math.prod(shape), dtype)
        arrays[name] = flat.reshape(shape, order="F" if fortran else "C")
    return arrays


def _npy_header(entry, name):
    """(shape, Fortran order, dtype), the entry standing behind its header."""
    version = np.lib.format.read_magic(entry)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(entry)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(entry)
    raise ValueError(f"{name} is an array file of version {version}")


# whole files --------------------------------------------------------------------------------------
def read_npz(path, names=None):
    """Arrays of an .npz file of plain numbers and texts.

    Args:
        path: file of ``numpy.savez`` or ``savez_compressed``.
        names: those to read, as far as they are there; None = all.

    Returns:
        (dict name -> array, list of all names in the file).

    Raises:
        InputError: missing; no .npz; damaged; arrays that do not fit their bytes, or are far larger than the file.
    """
    try:
        with open_zip(path, limits.limit(limits.ARRAY_BYTES)) as archive:
            return read_entries(archive, names), [name.removesuffix(".npy") for name in archive.namelist()]
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except InputError:
        raise
    except Exception as error:  # zipfile, zlib and numpy complain about damaged files in many ways
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"{path} is no readable .npz file of plain arrays ({reason})") from None


def read_npy(path):
    """The array of an .npy file of plain numbers. Raises InputError: missing, damaged, or of another kind."""
    try:
        with open(path, "rb") as file:
            shape, fortran, dtype = _npy_header(file, "it")
            room = os.fstat(file.fileno()).st_size - file.tell()
            if dtype.kind not in "fiub" or math.prod(shape) * dtype.itemsize != room:
                raise ValueError("it is no array of plain numbers, or its shape does not fit its bytes")
            return np.frombuffer(file.read(), dtype).reshape(shape, order="F" if fortran else "C")
    except Exception as error:  # numpy reads the header as Python text, which can be wrong in many ways
        raise InputError(f"{path} is damaged ({' '.join(str(error).split())[:120]})") from None


def check_growth(path, size):
    """Raise InputError where ``size`` bytes of arrays are beyond the limit and far more than the file ``path`` has."""
    if size > UNPACKED_FACTOR * os.path.getsize(path):
        fault = limits.beyond(limits.ARRAY_BYTES, size, "bytes of arrays are")
        if fault:
            raise InputError(f"{path}: {fault}; the file itself has {os.path.getsize(path)}")
