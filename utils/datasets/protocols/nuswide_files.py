r"""The official files of NUS-WIDE: labels, image lists and tags.

    Groundtruth/AllLabels/Labels_<concept>.txt   81 files, a line 0 or 1 for each of the 269,648 pictures
    ConceptsList/Concepts81.txt                  names of the concepts, one a line
    ImageList/Imagelist.txt                      "<folder>\<number>_<Flickr number>.jpg", in the order of the labels
    NUS_WID_Tags/AllTags1k.txt, TagList1k.txt    1,000 numbers 0 or 1 a line; names of these tags
    NUS_WID_Tags/All_Tags.txt                    "<Flickr number> tag tag ...", mostly UTF-8

The folders may lie in the data folder or its sub-folder NUS-WIDE, the files also without their folders. Where AllLabels
is not there, Groundtruth/TrainTestLabels/Labels_<concept>_{Train,Test}.txt with ImageList/{Train,Test}Imagelist.txt
give the same labels (line 78,372 of the official Labels_lake_Train.txt is reported to be damaged).
"""
import os
import re

import numpy as np

from utils.datasets import text_files
from utils.datasets.base import need_folder
from utils.errors import InputError
from utils.images import IMAGE_ENDINGS

_WHAT = "Groundtruth/, ConceptsList/ and ImageList/ of NUS-WIDE (lms.comp.nus.edu.sg)"
_BLOCK = 1 << 24  # bytes read at once: AllTags1k.txt has half a gigabyte
_PICTURE = re.compile(r"\d+_(\d+)(_\w+)?\.jpg", re.IGNORECASE)


def read_rows(path, width, rows=None):
    """Lines of ``width`` numbers 0 or 1, as uint8 blocks [n, width]; blanks, tabs and CR between them are free.

    Args:
        rows: (number, name of the file it comes from) of lines that there must be.

    Raises:
        InputError: unreadable file, another character, another number of values in a line, or of lines.
    """
    done, rest = 0, b""
    try:
        with open(path, "rb") as file:
            while True:
                data = file.read(_BLOCK)
                block = rest + data
                core = block[:block.rfind(b"\n") + 1].rstrip() if data else block.rstrip()
                # blank lines are a fault unless nothing follows: they wait for the next block
                rest = block[block.find(b"\n", len(core)) + 1:] if core else block
                if core:
                    values = _values(path, np.frombuffer(core, np.uint8), width, done)
                    done += len(values)
                    yield values
                if not data:
                    break
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if rows and done < rows[0]:
        raise InputError(f"{path}:{done}: the file ends after {done} lines, {rows[1]} has {rows[0]}")
    if rows and done > rows[0]:
        raise InputError(f"{path}:{rows[0] + 1}: the file has {done} lines, {rows[1]} only {rows[0]}")


def _values(path, data, width, before):
    """uint8 [n, width] of a block of whole lines; ``before``: lines that came before it."""
    zero = data == 48
    value = zero | (data == 49)
    newline = data == 10
    other = np.flatnonzero(~(value | newline | (data == 32) | (data == 9) | (data == 13)))
    ends = np.flatnonzero(newline)
    if len(ends) == 0 or ends[-1] != len(data) - 1:
        ends = np.append(ends, len(data))
    if len(other):
        line = int(np.searchsorted(ends, other[0]))
        text = data[ends[line - 1] + 1 if line else 0:ends[line]].tobytes().decode("latin-1").strip()
        raise InputError(f"{path}:{before + line + 1}: '{text[:20]}' where 0 or 1 is expected")
    starts = np.concatenate([[0], ends[:-1] + 1])
    counts = np.add.reduceat(value, starts, dtype=np.int64)
    wrong = np.flatnonzero(counts != width)
    if len(wrong):
        raise InputError(f"{path}:{before + wrong[0] + 1}: {counts[wrong[0]]} values where {width} "
                         f"{'is' if width == 1 else 'are'} expected")
    return (data[value] - 48).reshape(-1, width)


def read_pictures(path):
    """Paths of an image list, with "/", as the file orders them.

    Raises:
        InputError: unreadable file; a line that is no picture's path below the data folder, or the path of an earlier
            line, as file:line.
    """
    paths, first = [], {}
    for number, line in enumerate(text_files.read_lines(path), 1):
        name = line.strip().replace("\\", "/").lstrip("/")
        if not name:
            continue
        if not name.lower().endswith(IMAGE_ENDINGS) or ".." in name.split("/") or ":" in name:
            raise InputError(f"{path}:{number}: '{name[:60]}' is not the path of a picture in the data folder")
        if name in first:
            raise InputError(f"{path}:{number}: {name} is already in line {first[name]}; a picture must not be query "
                             "and database item at once")
        first[name] = number
        paths.append(name)
    return paths


def read_annotations(root):
    """The official labels, pictures in the order of their names.

    Returns:
        paths (list of str, ``<folder>/<picture>.jpg``), labels (uint8 [N, C]), concepts (list of C names).

    Raises:
        InputError: a missing file, a bad line, files of different lengths.
    """
    folder = need_folder(root, _WHAT)
    concepts = [line.strip() for line in text_files.read_lines(_place(folder, "ConceptsList", "Concepts81.txt"))
                if line.strip()]
    parts = [("AllLabels", "", "Imagelist.txt")]
    if not _find(folder, "Groundtruth", "AllLabels") and _find(folder, "Groundtruth", "TrainTestLabels"):
        parts = [("TrainTestLabels", f"_{part}", f"{part}Imagelist.txt") for part in ("Train", "Test")]
    paths, tables = [], []
    for labels, ending, pictures in parts:
        image_list = _place(folder, "ImageList", pictures)
        some = read_pictures(image_list)
        labels = _place(folder, "Groundtruth", labels)
        table = np.empty((len(some), len(concepts)), np.uint8)
        for column, concept in enumerate(concepts):
            file = os.path.join(labels, f"Labels_{concept}{ending}.txt")
            if not os.path.isfile(file):
                raise InputError(f"{file} is missing; unpack Groundtruth.zip again")
            values = list(read_rows(file, 1, (len(some), image_list)))
            table[:, column] = np.concatenate(values)[:, 0] if values else 0
        paths += some
        tables.append(table)
    order = sorted(range(len(paths)), key=paths.__getitem__)
    for row, after in zip(order, order[1:]):
        if paths[row] == paths[after]:
            raise InputError(f"{paths[row]} is in both TrainImagelist.txt and TestImagelist.txt")
    return [paths[row] for row in order], np.concatenate(tables)[order], concepts


def _find(root, folder, name):
    """``root/folder/name``, ``root/NUS-WIDE/folder/name`` or ``root/name``, whichever is there; None else."""
    for place in (folder, os.path.join("NUS-WIDE", folder), ""):
        path = os.path.join(root, place, name)
        if os.path.exists(path):
            return path
    return None


def _place(root, folder, name):
    path = _find(root, folder, name)
    if path is None:
        raise InputError(f"{os.path.join(root, folder, name)} is missing; {root} should hold {_WHAT}")
    return path


# tags -----------------------------------------------------------------------------------------------------------
def read_tags(root, paths):
    """Texts of pictures: the names of their frequent tags where AllTags1k.txt is there, else their raw tags.

    Args:
        paths: pictures, as Imagelist.txt names them (with "/").

    Returns:
        texts (list of str, tags with blanks between), vocabulary (list of the 1,000 tags, None with raw tags), number
        of lines that were not UTF-8 and were read as Latin-1.

    Raises:
        InputError: neither file, a line of another picture, files of different lengths, bad rows of numbers.
    """
    image_list = _place(root, "ImageList", "Imagelist.txt")
    row_of = {path: row for row, path in enumerate(read_pictures(image_list))}
    unknown = next((path for path in paths if path not in row_of), None)
    if unknown:
        raise InputError(f"{image_list} has no line for {unknown}, so its tags cannot be found")
    rows = np.array([row_of[path] for path in paths], np.int64)
    length = len(row_of), image_list
    numbers = _find(root, "NUS_WID_Tags", "AllTags1k.txt")
    if numbers is None:
        return _raw_tags(_find(root, "NUS_WID_Tags", "All_Tags.txt"), root, paths, rows, length)
    names = _place(root, "NUS_WID_Tags", "TagList1k.txt")
    vocabulary = [line.strip() for line in text_files.read_lines(names) if line.strip()]
    found, start = [], 0
    for block in read_rows(numbers, len(vocabulary), length):
        at = np.flatnonzero(block)
        found.append(at + start * len(vocabulary))
        start += len(block)
    place, tag = np.divmod(np.concatenate(found), len(vocabulary))
    ends = np.searchsorted(place, np.arange(start + 1))
    return ([" ".join(vocabulary[i] for i in tag[ends[row]:ends[row + 1]]) for row in rows], vocabulary, 0)


def _raw_tags(path, root, paths, rows, length):
    if path is None:
        raise InputError(f"{os.path.join(root, 'NUS_WID_Tags', 'All_Tags.txt')} is missing, and so is AllTags1k.txt; "
                         "unpack NUS_WID_Tags.zip")
    try:
        with open(path, "rb") as file:
            lines = file.read().rstrip().split(b"\n")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(lines) != length[0]:
        raise InputError(f"{path}:{min(len(lines), length[0])}: the file has {len(lines)} lines, {length[1]} has "
                         f"{length[0]}")
    texts, foreign = [], 0
    for name, row in zip(paths, rows):
        number, tags = (*lines[row].split(None, 1), b"", b"")[:2]
        if flickr_number(name) not in (None, number.decode("latin-1")):
            raise InputError(f"{path}:{row + 1}: tags of picture {number[:20].decode('latin-1')}, but in that line "
                             f"{length[1]} has {name}")
        text, is_foreign = text_files.utf8_or_latin1(tags)
        foreign += is_foreign
        texts.append(" ".join(text.split()))
    return texts, None, foreign


def flickr_number(path):
    """The Flickr number in ``.../<number>_<Flickr number>[_<secret>_m].jpg`` as a string, None in other names."""
    found = _PICTURE.fullmatch(path[path.rfind("/") + 1:])
    return found[1] if found else None
