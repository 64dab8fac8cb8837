"""Labels as files write them: 0/1 columns, or class numbers.

The rule of ``auto``, for lists, manifests and feature files alike: **one column holds class numbers, from 0 up; two or
more columns hold 0 or 1 each.** A lone column of 0 and 1 is thus two classes, not one class and its absence; a note
says so. ``index`` and ``multihot`` say which it is where that is wrong.
"""
import numpy as np

from utils.errors import InputError

FORMS = ("auto", "index", "multihot")
MOST_CLASSES = 1 << 20
MOST_BYTES = 4 << 30  # of a matrix [N, C]; a data set with more would not fit in memory beside the rest
FEW, SPARSE = 1000, 100  # class numbers beyond FEW must not be more than SPARSE times as many as there are items


def zeros(rows, classes, where):
    """uint8 [rows, classes]. Raises InputError, naming ``where``, for sizes that no memory holds."""
    if classes > max(FEW, SPARSE * rows) or rows * classes > MOST_BYTES:
        raise InputError(f"{where}: labels of {rows} items in {classes} classes are too many; are these class numbers?")
    try:
        return np.zeros((rows, classes), np.uint8)
    except MemoryError:
        raise InputError(f"{where}: labels of {rows} items in {classes} classes do not fit in memory") from None


def one_hot(numbers, classes, where):
    """Class numbers int [N], each below ``classes`` -> uint8 [N, classes]. Raises InputError as ``zeros``."""
    matrix = zeros(len(numbers), classes, where)
    matrix[np.arange(len(numbers)), np.asarray(numbers, np.int64)] = 1
    return matrix


def class_number(text):
    """A class number from a word of a file. Raises ValueError for anything but a whole number from 0 up."""
    text = str(text).strip()
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"label is '{text[:20]}', it must be a class number (0, 1, 2, ...)")
    if len(text) > 7 or int(text) >= MOST_CLASSES:
        raise ValueError(f"class number {text[:20]} is not within 0 to {MOST_CLASSES - 1}")
    return int(text)


def told(what, numbers, classes):
    """The note about a lone column: what was read as class numbers, and what to say where that is wrong."""
    used = len(set(numbers))
    return (f"{what} holds class numbers: {classes} classes, {used} of them with pictures (--labels multihot reads one "
            "0/1 column)")
