"""Variables of MATLAB ``.mat`` files, v5 and v7.3 (HDF5), in one orientation: first axis = items.

MATLAB is column-major, so h5py sees every v7.3 variable with its axes reversed: a matrix [N, D] as [D, N], pictures
H x W x 3 x N as [N, 3, W, H]. Variables of v7.3 files carry the attribute MATLAB_class; an HDF5 file that another
program wrote under the name ``.mat`` does not, and is taken as it is.

v5 is read with scipy, v7.3 with h5py, both imported on first use.
"""
import contextlib
import math
import os

import numpy as np

from utils import limits
from utils.datasets.base import ArrayImages
from utils.errors import InputError
from utils.images import ImageError
from utils.npz import check_growth

# where (item, height, width, channel) are in what the reader sees, likeliest first
V5_PICTURES = ((3, 0, 1, 2), (0, 1, 2, 3), (0, 2, 3, 1))      # [H, W, 3, N], [N, H, W, 3], [N, 3, H, W]
V73_PICTURES = ((0, 3, 2, 1), (3, 2, 1, 0))                   # [N, 3, W, H], [3, W, H, N]
HDF5_PICTURES = ((0, 1, 2, 3), (0, 3, 2, 1), (3, 2, 1, 0))    # unmarked: [N, H, W, 3], else as the authors' loaders


def is_v73(path):
    """Is it an HDF5 file? Raises InputError where it cannot be read."""
    import h5py
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    return h5py.is_hdf5(path)


@contextlib.contextmanager
def _one_line(message):
    """Turn what scipy and h5py raise on damaged files, nearly any type, into one line that begins with ``message``."""
    try:
        yield
    except (InputError, ImportError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        raise InputError(f"{message} ({reason}); fetch it again") from None


def _load_v5(path, name):
    """One variable of a v5 file."""
    from scipy.io import loadmat
    with _one_line(f"{path} is no readable .mat file, or cut short"):
        return loadmat(path, variable_names=[name])[name]


def _open_v73(path):
    import h5py
    with _one_line(f"{path} is no readable v7.3 .mat file, or cut short"):
        return h5py.File(path, "r")


def _dataset(file, name):
    """A variable of an open v7.3 file. Raises InputError where its numbers lie in other files: such could be any."""
    import h5py
    link = file.get(name, getlink=True)
    value = file[name] if isinstance(link, h5py.HardLink) else None
    if value is None or isinstance(value, h5py.Dataset) and (value.external or value.is_virtual):
        raise InputError(f"{file.filename}: variable {name} lies in another file; only files that hold their own "
                         "numbers are read")
    if getattr(value, "chunks", None):
        check_growth(file.filename, math.prod(value.chunks) * value.dtype.itemsize)
    return value


def variables(path):
    """dict name -> shape of a file's variables, in MATLAB's orientation.

    Raises:
        InputError: missing, truncated, or no ``.mat`` file; a variable that lies in another file.
    """
    if is_v73(path):
        with _open_v73(path) as file, _one_line(f"{path} is damaged"):
            found = {name: _dataset(file, name) for name in file}
            return {name: value.shape[::-1] if "MATLAB_class" in value.attrs else value.shape
                    for name, value in found.items() if hasattr(value, "shape")}
    from scipy.io import whosmat
    with _one_line(f"{path} is no readable .mat file, or cut short"):
        return {name: shape for name, shape, _ in whosmat(path)}


def read_matrix(path, name, dtype="float32"):
    """A numeric variable as an array [N, D] (a vector stays [N, 1] or [1, N]), sparse ones filled in.

    Raises:
        InputError: no number array, a damaged file, or an array that is far larger than the file and the limit.
    """
    check_growth(path, math.prod(variables(path).get(name, ())) * np.dtype(dtype).itemsize)
    with _one_line(f"{path}: variable {name} is no readable array of numbers"):
        if is_v73(path):
            with _open_v73(path) as file:
                value = _dataset(file, name)
                array = value.astype(dtype)[()]
                return np.ascontiguousarray(array.T if "MATLAB_class" in value.attrs else array)
        array = _load_v5(path, name)
        if hasattr(array, "toarray"):
            array.check_format(full_check=True)  # places outside the matrix would be written to
            array = array.toarray()
        with np.errstate(over="ignore"):  # what is too large becomes infinite, which is told
            return np.ascontiguousarray(array, dtype=dtype)


def read_images(path, name, count=None):
    """Pictures of a variable: an object with ``len``, ``read(i)``, ``size(i)``, ``select(positions)``.

    v7.3 pictures stay in the file and are read one at a time; v5 ones are held in memory.

    Args:
        count: how many there must be (rows of the labels), which settles the axes where shapes are ambiguous.

    Raises:
        InputError: not four axes, no axis of 3 channels, other than uint8, another number of pictures, a damaged file.
    """
    v73 = is_v73(path)
    if v73:
        with _open_v73(path) as file, _one_line(f"{path} is damaged"):
            value = _dataset(file, name)
            shape, dtype = value.shape, value.dtype
            layouts = V73_PICTURES if "MATLAB_class" in value.attrs else HDF5_PICTURES
    else:
        check_growth(path, math.prod(variables(path)[name]))
        array = _load_v5(path, name)
        shape, dtype, layouts = array.shape, array.dtype, V5_PICTURES
    if dtype != np.uint8:
        raise InputError(f"{path}: the pictures in {name} are {dtype}, and must be uint8 (0 to 255)")
    axes = _picture_axes(shape, count, layouts)
    if axes and shape[axes[1]] * shape[axes[2]] > limits.limit(limits.PIXELS):
        raise InputError(f"{path}: pictures of {shape[axes[2]]} x {shape[axes[1]]} pixels in {name} are too large")
    if axes is None:
        raise InputError(f"{path}: {name} has the shape {list(shape)}; expected "
                         f"{'' if count is None else f'{count} '}pictures as height x width x 3 x N")
    if v73:
        return StoredImages(path, name, axes, np.arange(shape[axes[0]]))
    return ArrayImages(np.transpose(array, axes))


def _picture_axes(shape, count, layouts):
    """The first of ``layouts`` (axes of item, height, width, channel) that the shape allows, or None."""
    for axes in layouts:
        if len(shape) == 4 and shape[axes[3]] == 3 and (count is None or shape[axes[0]] == count):
            return axes
    return None


class StoredImages:
    """Pictures inside a v7.3 file; each process opens the file for itself, so it may be forked or pickled."""

    def __init__(self, path, name, axes, rows):
        self.path, self.name, self.axes, self.rows = os.fspath(path), name, axes, rows
        self._open = None  # (process, h5py dataset)

    def __getstate__(self):
        return {**self.__dict__, "_open": None}

    def __len__(self):
        return len(self.rows)

    def _dataset(self):
        if self._open is None or self._open[0] != os.getpid():
            self._open = (os.getpid(), _dataset(_open_v73(self.path), self.name))
        return self._open[1]

    def read(self, i):
        """uint8 [H, W, 3] RGB, contiguous. Raises ImageError where the file is damaged."""
        where = [slice(None)] * 4
        where[self.axes[0]] = int(self.rows[i])
        kept = [axis - (axis > self.axes[0]) for axis in self.axes[1:]]
        try:
            return np.ascontiguousarray(np.transpose(self._dataset()[tuple(where)], kept))
        except Exception as error:  # h5py complains about damaged files in many ways
            reason = " ".join(str(error).split())[:60]
            raise ImageError(f"{self.path}: picture {int(self.rows[i])} of {self.name} cannot be read "
                             f"({reason})") from None

    def size(self, i):
        """(width, height)."""
        shape = self._dataset().shape
        return shape[self.axes[2]], shape[self.axes[1]]

    def select(self, positions):
        """The pictures at ``positions``."""
        return StoredImages(self.path, self.name, self.axes, self.rows[np.asarray(positions, np.int64)])
