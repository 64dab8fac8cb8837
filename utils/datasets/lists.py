"""A folder of image lists (list_file.py): train.txt, query.txt or test.txt, database.txt, perhaps classes.txt.

Also the names of PaddleClas and PaddleX: train_list.txt, test_list.txt or val_list.txt, labels.txt. They know no
database: the training pictures are it, in a shuffle of the seed.

Paths are relative to a root (absolute paths: use ``/`` as the root). Public lists often carry the folder of their
authors'
machine in front: of the leading folders that do not exist below the root those are dropped that make the most pictures
of a list be found; one that is missing says nothing of the others.
"""
import collections
import functools
import os

import numpy as np

from utils.datasets.base import FileImages, Protocol, Split, need_folder, need_items
from utils.datasets.labels import one_hot, told
from utils.datasets.list_file import read_list
from utils.datasets.seeded import permutation
from utils.datasets.text_files import names_of, read_lines
from utils.errors import InputError

LIST_NAMES = {"train": ("train.txt", "train_list.txt"),
              "query": ("query.txt", "test.txt", "test_list.txt", "val_list.txt"),
              "database": ("database.txt", "database_list.txt")}


def find_lists(folder):
    """dict split -> list file in ``folder``, as far as they are there.

    Where train_list.txt and val_list.txt (or test_list.txt) are there and no database, it is train_list.txt.
    """
    found = {}
    for split, names in LIST_NAMES.items():
        for name in names:
            path = os.path.join(folder, name)
            if split not in found and os.path.isfile(path):
                found[split] = path
    if "database" not in found and all(found.get(split, "").endswith("_list.txt") for split in ("train", "query")):
        found["database"] = found["train"]
    return found


def read_classes(folder, count, file_names=("classes.txt",)):
    """Class names from a file in ``folder`` (one a line), or class_0, class_1, ...

    Args:
        count: classes of the labels; 0 = not known.
        file_names: the first of these that is there is read.

    Raises:
        InputError: the file names another number of classes than the labels have.
    """
    path = next((path for path in (os.path.join(folder, name) for name in file_names) if os.path.isfile(path)), None)
    if path is None:
        return [f"class_{i}" for i in range(count)]
    names = [line.strip() for line in read_lines(path) if line.strip()]
    if count and len(names) != count:
        raise InputError(f"{path} names {len(names)} classes, but the lists have {count} labels a line")
    return names


def read_splits(files, root, form="multihot", on_fault=None):
    """Splits of image files below ``root`` from list files whose labels are written alike.

    Args:
        files: dict split -> list file; the first one decides what the labels are.
        root: folder that the paths start from.
        form: see labels.py.
        on_fault: as in ``read_list``.

    Returns:
        dict split -> Split, class names, notes (list of str).

    Raises:
        InputError: as ``read_list``; an empty list; lists with different numbers of labels; class names that do not
            fit.
    """
    splits, count, read = {}, None, {}
    for name, path in files.items():
        if path not in read:
            paths, labels, lines = read_list(path, count, on_fault, form)
            if count is None and form == "auto":
                form = "index" if labels is not None and labels.ndim == 1 else "multihot"
            if form == "multihot" and count is None:
                count = 0 if labels is None else labels.shape[1]
            read[path] = drop_prefix(root, paths), labels, lines
        paths, labels, lines = read[path]
        splits[name] = Split(name, paths, labels, FileImages(root, paths, (path, lines)), list_file=path, lines=lines)
    folder = os.path.dirname(next(iter(files.values()))) or "."
    if form == "multihot":
        return splits, read_classes(folder, count), []
    return _number_labels(splits, folder, on_fault)


def _number_labels(splits, folder, on_fault):
    """As ``read_splits``: class numbers of all splits -> 0/1 labels of as many classes as there are."""
    names = read_classes(folder, 0, ("classes.txt", "labels.txt"))
    largest = max((int(split.labels.max(initial=-1)) for split in splits.values()), default=-1)
    classes = names or [f"class_{i}" for i in range(largest + 1)]
    for name, split in splits.items():
        wrong = np.flatnonzero(split.labels >= len(classes))
        for i in wrong:
            fault = InputError(f"{split.where(i)}: class number {split.labels[i]}, but {len(names)} classes are named "
                               f"beside the list; the numbers are 0 to {len(names) - 1}")
            if on_fault is None:
                raise fault
            on_fault(str(fault))
        splits[name] = split = split.select(np.delete(np.arange(len(split)), wrong)) if len(wrong) else split
    first = next(iter(splits.values()))
    numbers = np.concatenate([split.labels for split in splits.values()])
    matrix = one_hot(numbers, len(classes), first.list_file)
    ends = np.cumsum([len(split) for split in splits.values()])
    for split, rows in zip(splits.values(), np.split(matrix, ends[:-1])):
        split.labels = rows
    return splits, classes, [told(f"the label column of {first.list_file}", numbers.tolist(), len(classes))]


def load_lists(name, root, list_dir=None, seed=0, topk=0, on_fault=None, form="multihot"):
    """Protocol from the lists of a folder.

    Args:
        name: name of the protocol.
        root: folder that the paths in the lists start from.
        list_dir: folder of the lists; ``root`` by default.
        form: of the labels, see labels.py.

    Raises:
        InputError: a missing folder or list, and as ``read_splits``.
    """
    root = need_folder(root, "the images that the lists name")
    list_dir = need_folder(list_dir or root, "train.txt, query.txt (or test.txt) and database.txt")
    found = find_lists(list_dir)
    missing = [" or ".join(LIST_NAMES[split][:-1] if split != "query" else LIST_NAMES[split][:2])
               for split in LIST_NAMES if split not in found]
    if missing:
        raise InputError(f"{list_dir} has no {', no '.join(missing)}; a data folder holds the image lists train.txt, "
                         "query.txt (or test.txt) and database.txt, or train_list.txt and val_list.txt")
    splits, classes, notes = read_splits(found, root, form, on_fault)
    for split in splits.values() if on_fault is None else ():
        need_items(split)
    if found["database"] == found["train"]:
        database = splits["database"]
        splits["database"] = database.select(permutation(len(database), seed, 30), "database")
        notes.append(f"there is no database.txt: the {len(database)} pictures of {found['train']} are the database, in "
                     "a shuffle of the seed")
    return Protocol(name, splits["train"], splits["query"], splits["database"], classes, topk=topk, seed=seed,
                    notes=notes)


def drop_prefix(root, paths):
    """The paths of a list without the leading folders of somebody else's machine.

    Dropped are those leading folders, of any line, that make the most pictures be found below ``root``; none where as
    many are found as listed.
    """
    if not paths or os.path.exists(os.path.join(root, paths[0])):
        return paths
    names_in, there = collections.defaultdict(set), functools.lru_cache(None)(names_of)
    for path in paths:
        folder, _, name = path.rpartition("/")
        names_in[folder].add(name)
    found = collections.Counter()
    for folder, names in names_in.items():
        parts = folder.split("/") if folder else []
        for start in range(len(parts) + 1):
            count = len(there(os.path.join(root, *parts[start:])).intersection(names))
            if count:
                found["/".join(parts[:start])] += count
    prefix = max(found, key=lambda some: (found[some], some == ""), default="")
    if not prefix:
        return paths
    return [path[len(prefix) + 1:] if path.startswith(prefix + "/") else path for path in paths]
