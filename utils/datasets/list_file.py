"""One image list: ``path l1 l2 ... lC`` a line, labels 0 or 1; or ``path k``, a class number; or paths alone.

The path may hold blanks; it ends at the last word with an image ending (or, where no line has one, before the labels).
Labels may be separated by commas. A leading slash, ``./`` or ``../`` is dropped, so that no path leaves the data
folder. What a list looks like - are there endings, how many labels are on a line - is what most of its first lines say,
so a first line that is wrong is the one that is named.
"""
import collections
import re

import numpy as np

from utils.datasets.labels import class_number
from utils.datasets.text_files import read_lines
from utils.errors import InputError
from utils.images import IMAGE_ENDINGS

_IMAGE_WORD = re.compile("(" + "|".join(map(re.escape, IMAGE_ENDINGS)) + r")(\s|$)", re.IGNORECASE)
_LOOKED_AT = 1000  # lines that decide what a list looks like


def read_list(path, num_classes=None, on_fault=None, form="multihot"):
    """Read a list file.

    Args:
        path: UTF-8 text file.
        num_classes: expected number of 0/1 labels; by default that of most lines.
        on_fault: None, or a callable that gets the message of a bad line, which is then left out.
        form: see labels.py.

    Returns:
        paths (list of str, relative, with "/"), labels (uint8 [N, C] of 0/1; int64 [N] of class numbers; None where
        there are none), lines (int64 [N], from 1).

    Raises:
        InputError: unreadable file, or (without ``on_fault``) the first bad line as ``file:line``.
    """
    rows = [(number, line.strip()) for number, line in enumerate(read_lines(path), 1) if line.strip()]
    look = _Look(rows, num_classes, form)
    paths, labels, lines = [], [], []
    for number, line in rows:
        try:
            name, label = look.parse(line)
            paths.append(_inside_root(name))
        except ValueError as error:
            fault = InputError(f"{path}:{number}: {error}")
            if on_fault is None:
                raise fault from error
            on_fault(str(fault))
            continue
        labels.append(label)
        lines.append(number)
    lines = np.array(lines, np.int64)
    if look.form == "index":
        return paths, np.array(labels, np.int64), lines
    if not look.count:
        return paths, None, lines
    matrix = np.frombuffer("".join(labels).encode("ascii"), np.uint8).reshape(len(labels), look.count) - ord("0")
    return paths, matrix, lines


def write_lines(paths, labels):
    """Text of a list file: paths (list of str) and labels (uint8 [N, C] of 0/1, or None).

    Raises:
        InputError: a path with a line end in it, or with blanks around it.
    """
    bad = next((path for path in paths if path.strip() != path or "\n" in path or "\r" in path), None)
    if bad is not None:
        raise InputError(f"an image list cannot hold the path '{bad}': rename the file")
    if labels is None:
        return "".join(f"{path}\n" for path in paths)
    columns = np.full((len(paths), 2 * labels.shape[1]), ord(" "), np.uint8)
    columns[:, 1::2] = labels + ord("0")
    return "".join(f"{path}{row.tobytes().decode('ascii')}\n" for path, row in zip(paths, columns))


class _Look:
    """What the lines of a list look like.

    endings: some line names a file with an image ending. form: ``index`` or ``multihot``. count: labels on a line.
    """

    def __init__(self, rows, count, form):
        first = [line for _, line in rows[:_LOOKED_AT]]
        self.endings = any(map(_IMAGE_WORD.search, first))
        self.form, self.count = form, count
        counts = collections.Counter(len(words) for name, words in map(self._words, first) if name)
        most = counts.most_common(1)[0][0] if counts else 0
        if form == "auto":
            self.form = "index" if most == 1 and count is None else "multihot"
        if self.form == "index":
            self.count = 1
        elif count is None:
            self.count = most

    def _words(self, line):
        """(path, list of labels) of a line; the path is empty where the line names no picture."""
        cut = None
        for match in _IMAGE_WORD.finditer(line):
            cut = match.end(1)
        if cut is not None:
            return line[:cut], line[cut:].replace(",", " ").split()
        words = line.split()
        if self.form == "index":
            run = min(1, len(words) - 1)
        else:
            run = 0
            while run < len(words) - 1 and words[-1 - run] in ("0", "1"):
                run += 1
            run = run if self.count is None else min(run, self.count)
        if self.endings and (not run or run != self.count):
            return "", words
        return line.rsplit(None, run)[0] if run else line, words[len(words) - run:]

    def parse(self, line):
        """A line without outer blanks -> (path, labels as a string of 0 and 1, or a class number).

        Raises:
            ValueError: no picture, labels that are not 0 or 1, no class number, or not ``count`` of them.
        """
        # the common case without looking at each column: long label rows make up most of a list
        if self.form == "multihot" and self.count:
            head, tail = line[:-2 * self.count], line[-2 * self.count:]
            if tail[::2] == " " * self.count and not tail[1::2].strip("01") and head.lower().endswith(IMAGE_ENDINGS):
                return head, tail[1::2]
        name, labels = self._words(line)
        if not name:
            raise ValueError(f"'{line[:60]}' names no picture (a header line?); take the line out")
        if self.form == "index":
            if len(labels) != 1:
                raise ValueError(f"{len(labels)} labels where one class number is expected")
            return name, class_number(labels[0])
        for column, label in enumerate(labels, 1):
            if label not in ("0", "1"):
                raise ValueError(f"label {column} is '{label[:20]}', it must be 0 or 1")
        if len(labels) != self.count:
            raise ValueError(f"{len(labels)} labels where {self.count} are expected")
        return name, "".join(labels)


def _inside_root(name):
    """Path of a list -> relative path without leading "/", "./", "../"; raises ValueError where ".." comes later."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    while parts and parts[0] == "..":
        parts.pop(0)
    if ".." in parts or not parts or "\0" in name:
        raise ValueError(f"path '{name}' leaves the data folder")
    return "/".join(parts)
