"""Folders of pictures: what lies there, and which classes or splits the sub-folders are (splits.py says the rules)."""
import collections
import os

import numpy as np

from utils.datasets.base import is_hidden
from utils.datasets.own.item_table import SPLIT_WORDS, ItemTable, complain, first_of
from utils.errors import InputError
from utils.images import IMAGE_ENDINGS


def read_folder(folder, folders_are_splits=True):
    """ItemTable of a folder of pictures; see the module's docstring.

    Folders above all pictures (``photos/photos/cat/...``) are passed over. What then comes first in the paths are
    classes, if there are two or more and no picture lies beside them.

    Raises:
        InputError: no picture, a folder that cannot be read, folders named train and test beside others.
    """
    found, notes = scan(folder)
    parts = [path.split("/") for path in found]
    above = os.path.commonprefix([some[:-1] for some in parts])
    below = [some[len(above):] for some in parts]
    table = ItemTable(folder, found, notes=notes)
    given = _splits_of_folders(folder, {some[0] for some in below if len(some) > 1}) if folders_are_splits else None
    if given and all(len(some) > 1 for some in below):
        table.splits = [given[some[0]] for some in below]
        below = [some[1:] for some in below]
    names = sorted({some[0] for some in below if len(some) > 1})
    loose = [path for path, some in zip(found, below) if len(some) == 1]
    if loose and names:
        notes.append(f"{len(loose)} pictures lie beside {len(names)} folders with pictures (first: {loose[0]}): all "
                     "are taken without labels; for classes, put every picture into the folder of its class")
    elif len(names) > 1:
        table.classes, table.labels = names, _one_hot([some[0] for some in below], names)
        if table.splits is None:
            place = os.path.join(folder, *above)
            empty = sorted({entry.name for entry in os.scandir(place) if entry.is_dir()} - set(names))
            empty = [name for name in empty if not is_hidden(name)]
            if empty:
                notes.append(f"{len(empty)} folders without pictures are no classes: {first_of(empty, 5)}")
    return table


def _splits_of_folders(folder, names):
    """dict folder name -> split where the folders are splits, else None.

    Raises:
        InputError: some are called like splits and some are not.
    """
    given = {name: SPLIT_WORDS.get(name.lower()) for name in sorted(names)}
    like = [name for name in given if name.lower() in (*SPLIT_WORDS, "val", "valid", "validation")]
    if len(like) < 2 or not any(name.lower() in ("train", "query", "test") for name in like):
        return None
    if None in given.values() or "query" not in given.values() or len(set(given.values())) < 2:
        raise InputError(f"{folder} has the folders {first_of(list(given), 6)}: splits or classes? Splits are named "
                         "train, query (or test) and database; rename them, give one of them as --dataset, or write a "
                         "manifest with a column split")
    return given


def _one_hot(classes, names):
    column = {name: i for i, name in enumerate(names)}
    labels = np.zeros((len(classes), len(names)), np.uint8)
    labels[np.arange(len(classes)), [column[name] for name in classes]] = 1
    return labels


def scan(folder):
    """Pictures below a folder.

    Returns:
        (sorted relative paths with "/", notes about what was left out).

    Raises:
        InputError: a folder that cannot be read, or no picture.
    """
    paths, notes = walk(folder)
    if not paths:
        raise InputError(f"the folder {folder} holds no pictures ({', '.join(IMAGE_ENDINGS)})"
                         + "".join(f"; {note}" for note in notes))
    return paths, notes


def walk(folder, endings=IMAGE_ENDINGS, on_fault=None):
    """As ``scan``, and no picture is no error.

    Args:
        folder: where to look. endings: of the names that are taken, lower case.
        on_fault: None, or a callable that gets the message of each folder that cannot be read, which is left out.
    """
    top = os.path.realpath(folder)
    paths, links, hidden, others = [], [], 0, collections.Counter()
    entered, waiting = {top}, [(os.fspath(folder), "", top)]  # real names of folders and of files that links lead to
    while waiting:
        place, prefix, real = waiting.pop()
        try:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as error:
            complain(f"the folder {place} cannot be read: {error.strerror or error}", on_fault)
            continue
        deeper = []
        for entry in entries:
            name, is_link = prefix + entry.name, entry.is_symlink()
            target = os.path.realpath(entry.path) if is_link else os.path.join(real, entry.name)
            if is_hidden(entry.name):
                hidden += 1
            elif is_link and os.path.exists(target) and (_is_read(top, target) or target in entered):
                links.append(name)
            elif os.path.isdir(entry.path) if is_link else entry.is_dir():
                if target not in entered:  # else a link led here before
                    deeper.append((entry.path, name + "/", target))
                entered.add(target)
            elif not entry.name.lower().endswith(endings) or not (is_link or entry.is_file()):
                others[os.path.splitext(entry.name)[1].lower() or entry.name] += 1
            else:
                paths.append(name)
                if is_link:
                    entered.add(target)
        waiting += reversed(deeper)
    notes = []
    if others:
        notes.append(f"{sum(others.values())} files that are no pictures ({', '.join(endings)}) were left out: "
                     + first_of([f"{count} {ending}" for ending, count in others.most_common()], 5))
    if hidden:
        notes.append(f"{hidden} hidden files and folders were left out")
    if links:
        notes.append(f"{len(links)} links to what is read anyway were left out: {first_of(links, 3)}")
    return sorted(paths), notes


def any_picture(folder):
    """Whether a picture lies in a folder or below it; hidden names do not count, links are not followed."""
    for place, below, names in os.walk(folder):
        below[:] = sorted(name for name in below if not is_hidden(name))
        if any(name.lower().endswith(IMAGE_ENDINGS) and not is_hidden(name) for name in names):
            return True
    return False


def _is_read(top, target):
    """Whether a scan of ``top`` comes to ``target`` by itself, or would never end there (a folder above ``top``)."""
    if (top + os.sep).startswith(target.rstrip(os.sep) + os.sep):
        return True
    below = target.startswith(top.rstrip(os.sep) + os.sep)
    return below and not any(map(is_hidden, os.path.relpath(target, top).split(os.sep)))
