"""A user's own pictures as a data set: ``--dataset PATH``.

PATH is
    a folder with a sub-folder a class       the class is the sub-folder's name, pictures lie at any depth below it
    a flat folder                            pictures without labels, for unsupervised methods; likewise one with
                                             pictures beside sub-folders with pictures
    a folder with train/ and test/ (query/)  the split is given; below them class sub-folders, or flat
    a folder with train.txt, query.txt, ...  image lists (lists.py); they win over whatever else lies there
    a manifest .csv, .tsv or .jsonl          a row a picture: path, and if there are: labels, text, split
    an image list .txt                       ``path l1 ... lC`` or paths alone (lists.py)

Where no split is given it is drawn: ``--num-query`` (or ``--query-per-class``) queries, a tenth of the pictures and at
most 1,000 by default; the others, or ``--num-database`` of them, are the database; all of that, or ``--num-train`` (or
``--train-per-class``) of it, trains. The draw depends on the sorted relative paths and the seed alone.

Links are followed where they lead out of the folder, each target once; a link to something that is read anyway is left
out. So no loop catches the scan and no picture comes twice. What is left out is counted in ``Protocol.notes``.
"""
import os

import numpy as np

from utils.datasets import lists
from utils.datasets.base import DataSet, FileImages, Protocol, Request, need_folder
from utils.datasets.own.folders import read_folder
from utils.datasets.own.item_table import ItemTable, first_of, once
from utils.datasets.own.manifests import read_manifest
from utils.datasets.seeded import permutation
from utils.errors import InputError
from utils.images import ImageError

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
ENDINGS = (*TABLES, ".txt")
SIZES = ("num_query", "num_train", "num_database", "query_per_class", "train_per_class")
QUERY_SHARE, QUERY_MOST = 10, 1000  # by default one picture in ten is a query, and at most so many


# the entries -------------------------------------------------------------------------------------
def data_set(path):
    """DataSet of a folder, manifest or list, for ``--dataset PATH``."""
    path = os.fspath(path)
    name = os.path.basename(os.path.abspath(path))

    def load(request):
        if os.path.isdir(path) and (request.list_dir or lists.find_lists(path)):
            return load_lists(name, path, request)
        table = read(path, request)
        if request.skip_broken and request.on_fault is None:
            table = without_broken(table)
        query, train, database = draw_split(table, request.seed, request.sizes, path)
        whole = table.whole()
        return Protocol(name, whole.select(train, "train"), whole.select(query, "query"),
                        whole.select(database, "database"), table.classes, seed=request.seed, notes=table.notes)

    return DataSet(name=path, load=load, inside=False, sizes=SIZES, options=("skip_broken", "labels"),
                   source="your own images")


def gallery(path, root=None):
    """All pictures of PATH (any of the forms above; lists in a folder do not count), to be searched.

    Returns:
        (Split, class names, notes).

    Raises:
        InputError: nothing there, or a manifest that cannot be read.
    """
    path = os.fspath(path)
    if not os.path.isdir(path) and not (os.path.isfile(path) and path.lower().endswith(ENDINGS)):
        raise InputError(f"{path} is no folder of pictures, manifest ({', '.join(TABLES)}) or image list (.txt)")
    table = read(path, Request(root=root), folders_are_splits=False)
    return table.whole("gallery"), table.classes, table.notes


def load_lists(name, path, request):
    """Protocol of a folder with image lists; a note names queries that are also searched or trained on.

    Raises:
        InputError: as lists.load_lists, or sizes beside lists.
    """
    list_dir = request.list_dir or path
    if request.sizes or request.skip_broken:
        given = [*request.sizes, *(["skip_broken"] if request.skip_broken else [])]
        flags = ", ".join("--" + key.replace("_", "-") for key in given)
        raise InputError(f"{list_dir} brings its own split in image lists; leave out {flags}, or the lists")
    protocol = lists.load_lists(name, request.root or path, list_dir, request.seed, on_fault=request.on_fault,
                                form=request.labels)
    for other in (protocol.database, protocol.train) if request.on_fault is None else ():
        rows = dict(zip(other.ids, range(len(other))))
        shared = [i for i, item in enumerate(protocol.query.ids) if item in rows]
        if shared:
            item = protocol.query.ids[shared[0]]
            protocol.notes.append(f"{len(shared)} queries are also in the {other.name} split, so the figures flatter "
                                  f"(first: {item}, {protocol.query.where(shared[0])} and {other.where(rows[item])})")
    return protocol


def read(path, request, folders_are_splits=True):
    """ItemTable of a folder, manifest or list.

    Args:
        path: as in the module's docstring.
        request: Request; its root is the folder that paths start from: the folder itself, or the one of the file.
        folders_are_splits: False = folders named train and test are folders like others.

    Raises:
        InputError: no pictures, unreadable, or (without ``on_fault``) the first bad row as ``file:row``.
    """
    if os.path.isdir(path):
        return read_folder(need_folder(request.root or path, "your pictures"), folders_are_splits)
    root = need_folder(request.root or os.path.dirname(path) or ".", f"the pictures that {path} names")
    reader = read_list if path.lower().endswith(".txt") else read_manifest
    table = reader(path, root, request)
    if not table.paths and request.on_fault is None:
        raise InputError(f"{path} names no pictures")
    return table


def without_broken(table):
    """The table without pictures that cannot be read, and a note of them.

    JPEG files are examined by header and end marker, others decoded.

    Raises:
        InputError: none is left.
    """
    images, good, broken = FileImages(table.root, table.paths), [], []
    for i, path in enumerate(table.paths):
        try:
            images.size(i) if path.lower().endswith((".jpg", ".jpeg")) else images.read(i)
            good.append(i)
        except ImageError as error:
            broken.append(str(error))
    if not good:
        raise InputError(f"no picture can be read: {broken[0]}")
    if broken:
        table = table.select(good)
        table.notes = [*table.notes, f"{len(broken)} broken pictures were left out (--skip-broken): "
                       + first_of(broken, 3, "; ")]
    return table


# splits ------------------------------------------------------------------------------------------
def draw_split(table, seed, sizes, path):
    """Row numbers (query, train, database), each int64; the database in a shuffle of the seed.

    Raises:
        InputError: sizes beside a given split, sizes that do not fit, sizes a class without one class a picture.
    """
    n = len(table.paths)
    order = permutation(n, seed, 30)
    if table.splits is not None:
        if sizes:
            flags = ", ".join("--" + key.replace("_", "-") for key in sizes)
            raise InputError(f"{path} brings its own split; leave out {flags}")
        given = np.array(table.splits, dtype="U8")
        database = order[given[order] != "query"]
        train = np.flatnonzero(given == "train")
        return np.flatnonzero(given == "query"), train if len(train) else np.sort(database), database
    for part in ("query", "train"):
        if f"num_{part}" in sizes and f"{part}_per_class" in sizes:
            raise InputError(f"give --num-{part} or --{part}-per-class, not both")
    if n < 2:
        raise InputError(f"{path} holds {'1' if n else 'no'} picture; a query and a database need at least 2")
    if "query_per_class" in sizes:
        query = _per_class(table, order, sizes["query_per_class"], f"{path}: --query-per-class")
    else:
        query = order[:sizes.get("num_query", min(QUERY_MOST, max(1, n // QUERY_SHARE)))]
    rest = order[~np.isin(order, query)]
    database = rest[:sizes.get("num_database", len(rest))]
    short = [f"{sizes[key]} {key[4:]}" for key in ("num_query", "num_database") if key in sizes]
    if not len(database) or sizes.get("num_database", 0) > len(rest) or sizes.get("num_query", 0) > len(query):
        raise InputError(f"{path} holds {n} pictures, too few for {' and '.join(short) or 'the queries and a database'}"
                         "; choose --num-query and --num-database")
    drawn = database[permutation(len(database), seed, 31)]
    if "train_per_class" in sizes:
        return query, _per_class(table, drawn, sizes["train_per_class"], f"{path}: --train-per-class"), database
    if sizes.get("num_train", 0) > len(database):
        raise InputError(f"{path}: --num-train {sizes['num_train']}, but there are {len(database)} pictures in the "
                         "database, from which they are taken")
    return query, drawn[:sizes.get("num_train", len(database))], database


def _per_class(table, order, count, what):
    """The first ``count`` rows of every class in ``order``, class by class."""
    if table.labels is None:
        raise InputError(f"{what} needs labels, and there are none; give a number of pictures instead")
    several = np.flatnonzero(table.labels.sum(1) != 1)
    if len(several):
        raise InputError(f"{what} needs one class a picture, and {table.paths[several[0]]} has "
                         f"{int(table.labels[several[0]].sum())}; give a number of pictures instead")
    column = table.labels.argmax(1)[order]
    rows = [order[column == c][:count] for c in range(len(table.classes))]
    for name, some in zip(table.classes, rows):
        if len(some) < count:
            raise InputError(f"{what} {count}: class {name} has only {len(some)} pictures to take them from")
    return np.concatenate(rows)


# image lists -------------------------------------------------------------------------------------
def read_list(path, root, request):
    """ItemTable of one image list; ``classes.txt`` (``labels.txt``) beside it names the labels."""
    parts, classes, notes = lists.read_splits({"all": path}, root, request.labels, request.on_fault)
    split = parts["all"]
    table = ItemTable(root, split.ids, split.labels, classes, list_file=path, lines=split.lines, notes=notes)
    return once(table, request.on_fault)
