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
import collections
import csv
import dataclasses
import io
import json
import os
import posixpath
import re
from typing import List, Optional

import numpy as np

from utils.datasets import lists
from utils.datasets.base import FileImages, Protocol, Spec, Split, need_folder
from utils.datasets.draw import permutation
from utils.errors import InputError
from utils.transforms import IMAGE_ENDINGS, ImageError

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
ENDINGS = (*TABLES, ".txt")
SIZES = ("num_query", "num_train", "num_database", "query_per_class", "train_per_class", "skip_broken")
QUERY_SHARE, QUERY_MOST = 10, 1000  # by default one picture in ten is a query, and at most so many
COLUMNS = {"path": ("path", "image", "file", "filename"), "label": ("labels", "label", "classes", "class"),
           "text": ("text", "caption"), "split": ("split",)}
WORDS = {"train": "train", "query": "query", "test": "query", "database": "database", "gallery": "database"}


@dataclasses.dataclass
class Table:
    """Pictures before they are split: one row each.

    roles: ``train``, ``query`` or ``database`` of each row where the data say so, else None.
    list_file, lines: where each row was read from, or None. notes: what was left out, for people.
    """

    root: str
    paths: List[str]
    labels: Optional[np.ndarray] = None
    classes: List[str] = dataclasses.field(default_factory=list)
    texts: Optional[List[str]] = None
    roles: Optional[List[str]] = None
    list_file: Optional[str] = None
    lines: Optional[np.ndarray] = None
    notes: List[str] = dataclasses.field(default_factory=list)

    def whole(self, name="all"):
        """All rows as one Split."""
        places = None if self.lines is None else (self.list_file, self.lines)
        return Split(name=name, ids=self.paths, labels=self.labels, images=FileImages(self.root, self.paths, places),
                     texts=self.texts, list_file=self.list_file, lines=self.lines)

    def select(self, rows):
        """The table with these rows only."""
        pick = lambda column: None if column is None else [column[i] for i in rows]  # noqa: E731
        array = lambda column: None if column is None else column[np.asarray(rows, np.int64)]  # noqa: E731
        return dataclasses.replace(self, paths=pick(self.paths), labels=array(self.labels), texts=pick(self.texts),
                                   roles=pick(self.roles), lines=array(self.lines))


# the entries -------------------------------------------------------------------------------------
def spec(path):
    """Spec of a folder, manifest or list, for ``--dataset PATH``."""
    path = os.fspath(path)
    name = os.path.basename(os.path.abspath(path))

    def load(root, seed, list_dir, sizes, on_fault):
        if os.path.isdir(path) and (list_dir or lists.find_lists(path)):
            return load_lists(name, path, root, seed, list_dir, sizes, on_fault)
        table = read(path, root, on_fault=on_fault)
        sizes = dict(sizes)
        if sizes.pop("skip_broken", None) and on_fault is None:
            table = without_broken(table)
        query, train, database = roles(table, seed, sizes, path)
        whole = table.whole()
        return Protocol(name, whole.select(train, "train"), whole.select(query, "query"),
                        whole.select(database, "database"), table.classes, seed=seed, notes=table.notes)

    return Spec(name=path, load=load, inside=False, sizes=SIZES, source="your own images")


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
    table = read(path, root, roles_of_folders=False)
    return table.whole("gallery"), table.classes, table.notes


def load_lists(name, path, root, seed, list_dir, sizes, on_fault):
    """Protocol of a folder with image lists; a note names queries that are also searched or trained on.

    Raises:
        InputError: as lists.load_lists, or sizes beside lists.
    """
    if sizes:
        flags = ", ".join("--" + key.replace("_", "-") for key in sizes)
        raise InputError(f"{list_dir or path} brings its own split in image lists; leave out {flags}, or the lists")
    protocol = lists.load_lists(name, root or path, list_dir or path, seed, on_fault=on_fault)
    if on_fault is None:
        for other in (protocol.database, protocol.train):
            rows = dict(zip(other.ids, range(len(other))))
            both = [i for i, item in enumerate(protocol.query.ids) if item in rows]
            if both:
                item = protocol.query.ids[both[0]]
                protocol.notes.append(f"{len(both)} queries are also in the {other.name} split, so the figures flatter "
                                      f"(first: {item}, {protocol.query.where(both[0])} and {other.where(rows[item])})")
    return protocol


def read(path, root=None, roles_of_folders=True, on_fault=None):
    """Table of a folder, manifest or list.

    Args:
        path: as in the module's docstring.
        root: folder that paths start from; the folder itself, or the one of the file.
        roles_of_folders: False = folders named train and test are folders like others.
        on_fault: None, or a callable that gets the message of a bad row, which is then left out.

    Raises:
        InputError: no pictures, unreadable, or (without ``on_fault``) the first bad row as ``file:row``.
    """
    if os.path.isdir(path):
        return read_folder(need_folder(root or path, "your pictures"), roles_of_folders)
    root = need_folder(root or os.path.dirname(path) or ".", f"the pictures that {path} names")
    reader = read_list if path.lower().endswith(".txt") else read_manifest
    table = reader(path, root, on_fault)
    if not table.paths and on_fault is None:
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
                       + _some(broken, 3, "; ")]
    return table


# splits ------------------------------------------------------------------------------------------
def roles(table, seed, sizes, path):
    """Row numbers (query, train, database), each int64; the database in a shuffle of the seed.

    Raises:
        InputError: sizes beside a given split, sizes that do not fit, sizes a class without one class a picture.
    """
    n = len(table.paths)
    order = permutation(n, seed, 30)
    if table.roles is not None:
        if sizes:
            flags = ", ".join("--" + key.replace("_", "-") for key in sizes)
            raise InputError(f"{path} brings its own split; leave out {flags}")
        given = np.array(table.roles, dtype="U8")
        database = order[given[order] != "query"]
        train = np.flatnonzero(given == "train")
        return np.flatnonzero(given == "query"), train if len(train) else np.sort(database), database
    for part in ("query", "train"):
        if f"num_{part}" in sizes and f"{part}_per_class" in sizes:
            raise InputError(f"give --num-{part} or --{part}-per-class, not both")
    if n < 2:
        raise InputError(f"{path} holds {n} picture; a query and a database need at least 2")
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


# folders -----------------------------------------------------------------------------------------
def read_folder(folder, roles_of_folders=True):
    """Table of a folder of pictures; see the module's docstring.

    Folders above all pictures (``photos/photos/cat/...``) are passed over. What then comes first in the paths are
    classes, if there are two or more and no picture lies beside them.

    Raises:
        InputError: no picture, a folder that cannot be read, folders named train and test beside others.
    """
    found, notes = scan(folder)
    parts = [path.split("/") for path in found]
    above = os.path.commonprefix([some[:-1] for some in parts])
    below = [some[len(above):] for some in parts]
    table = Table(folder, found, notes=notes)
    given = _splits_of_folders(folder, {some[0] for some in below if len(some) > 1}) if roles_of_folders else None
    if given and all(len(some) > 1 for some in below):
        table.roles = [given[some[0]] for some in below]
        below = [some[1:] for some in below]
    names = sorted({some[0] for some in below if len(some) > 1})
    loose = [path for path, some in zip(found, below) if len(some) == 1]
    if loose and names:
        notes.append(f"{len(loose)} pictures lie beside {len(names)} folders with pictures (first: {loose[0]}): all are "
                     "taken without labels; for classes, put every picture into the folder of its class")
    elif len(names) > 1:
        table.classes, table.labels = names, _one_hot([some[0] for some in below], names)
        if table.roles is None:
            place = os.path.join(folder, *above)
            empty = sorted({entry.name for entry in os.scandir(place) if entry.is_dir()} - set(names))
            empty = [name for name in empty if not _hidden(name)]
            if empty:
                notes.append(f"{len(empty)} folders without pictures are no classes: {_some(empty, 5)}")
    return table


def _splits_of_folders(folder, names):
    """dict folder name -> role where the folders are splits, else None.

    Raises:
        InputError: some are called like splits and some are not.
    """
    given = {name: WORDS.get(name.lower()) for name in sorted(names)}
    like = [name for name in given if name.lower() in (*WORDS, "val", "valid", "validation")]
    if len(like) < 2 or not any(name.lower() in ("train", "query", "test") for name in like):
        return None
    if None in given.values() or "query" not in given.values() or len(set(given.values())) < 2:
        raise InputError(f"{folder} has the folders {_some(list(given), 6)}: splits or classes? Splits are named train, "
                         "query (or test) and database; rename them, give one of them as --dataset, or write a manifest "
                         "with a column split")
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
    top = os.path.realpath(folder)
    paths, links, hidden, others = [], [], 0, collections.Counter()
    entered, waiting = {top}, [(os.fspath(folder), "", top)]  # real names of folders and of files that links lead to
    while waiting:
        place, prefix, real = waiting.pop()
        try:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as error:
            raise InputError(f"the folder {place} cannot be read: {error.strerror or error}") from error
        deeper = []
        for entry in entries:
            name, is_link = prefix + entry.name, entry.is_symlink()
            target = os.path.realpath(entry.path) if is_link else os.path.join(real, entry.name)
            if _hidden(entry.name):
                hidden += 1
            elif is_link and os.path.exists(target) and (_is_read(top, target) or target in entered):
                links.append(name)
            elif os.path.isdir(entry.path) if is_link else entry.is_dir():
                if target not in entered:  # else a link led here before
                    deeper.append((entry.path, name + "/", target))
                entered.add(target)
            elif not entry.name.lower().endswith(IMAGE_ENDINGS) or not (is_link or entry.is_file()):
                others[os.path.splitext(entry.name)[1].lower() or entry.name] += 1
            else:
                paths.append(name)
                if is_link:
                    entered.add(target)
        waiting += reversed(deeper)
    notes = []
    if others:
        notes.append(f"{sum(others.values())} files that are no pictures ({', '.join(IMAGE_ENDINGS)}) were left out: "
                     + _some([f"{count} {ending}" for ending, count in others.most_common()], 5))
    if hidden:
        notes.append(f"{hidden} hidden files and folders were left out")
    if links:
        notes.append(f"{len(links)} links to what is read anyway were left out: {_some(links, 3)}")
    if not paths:
        raise InputError(f"the folder {folder} holds no pictures ({', '.join(IMAGE_ENDINGS)})"
                         + "".join(f"; {note}" for note in notes))
    return sorted(paths), notes


def _hidden(name):
    """Names that people hide and that systems leave behind."""
    return name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini", "__macosx", "@eadir")


def _is_read(top, target):
    """Whether a scan of ``top`` comes to ``target`` by itself, or would never end there (a folder above ``top``)."""
    if (top + os.sep).startswith(target.rstrip(os.sep) + os.sep):
        return True
    below = target.startswith(top.rstrip(os.sep) + os.sep)
    return below and not any(map(_hidden, os.path.relpath(target, top).split(os.sep)))


def _some(names, most, mark=", "):
    return mark.join(names[:most]) + (f"{mark}and {len(names) - most} more" if len(names) > most else "")


# image lists -------------------------------------------------------------------------------------
def read_list(path, root, on_fault=None):
    """Table of one image list; ``classes.txt`` beside it names the labels."""
    split = lists.read_split("all", path, root, None, on_fault)
    count = 0 if split.labels is None else split.labels.shape[1]
    table = Table(root, split.ids, split.labels, lists.read_classes(os.path.dirname(path) or ".", count),
                  list_file=path, lines=split.lines)
    return _once(table, on_fault)


def _once(table, on_fault):
    """The table, if no path comes twice; with ``on_fault`` the later rows are left out."""
    first, good = {}, []
    for i, path in enumerate(table.paths):
        if path in first:
            _complain(f"{table.list_file}:{table.lines[i]}: {path} is already in row {table.lines[first[path]]}; "
                      "a picture may come once", on_fault)
        else:
            first[path] = i
            good.append(i)
    return table if len(good) == len(table.paths) else table.select(good)


def _complain(message, on_fault):
    if on_fault is None:
        raise InputError(message)
    on_fault(message)


# manifests ---------------------------------------------------------------------------------------
def read_manifest(path, root, on_fault=None):
    """Table of a CSV, TSV or JSONL manifest.

    Columns (JSON: keys), whatever their case: ``path`` (image, file, filename); ``labels`` (label, classes, class):
    class names separated by "|" or a JSON list of names or of 0 and 1; ``text`` (caption); ``split``: train, query
    (test) or database (gallery). CSV without a labels column: the columns whose first row holds 0 or 1 are classes.
    Rows of split train are in the database too; without any, the whole database trains.

    Raises:
        InputError: as ``read``.
    """
    rows, extra = _csv_rows(path, on_fault) if path.lower().endswith((".csv", ".tsv")) else _json_rows(path, on_fault)
    paths, labels, texts, words, lines = [], [], [], [], []
    form = None
    for line, row in rows:
        try:
            name = inside(root, row.get("path"))
            label = _label(row.get("label"))
            form = form or label
            if label and (label[0] != form[0] or label[0] == "columns" and len(label[1]) != len(form[1])):
                raise ValueError(f"labels as {_form(label)} where {_form(form)} are expected")
            text = row.get("text")
            if not isinstance(text, (str, type(None))):
                raise ValueError(f"text is {str(text)[:20]!r}, it must be a string")
            word = str(row["split"] or "").strip().lower() if "split" in row else None
            if word is not None and word not in WORDS:
                raise ValueError(f"split is '{word[:20]}', it must be train, query (or test) or database")
        except ValueError as error:
            _complain(f"{path}:{line}: {error}", on_fault)
            continue
        paths.append(name)
        labels.append(label)
        texts.append(text)
        words.append(word)
        lines.append(line)
    table = Table(root, paths, list_file=path, lines=np.array(lines, np.int64), notes=list(extra["notes"]))
    table.labels, table.classes = _label_matrix(labels, extra["columns"])
    if any(text is not None for text in texts):
        table.texts = [text or "" for text in texts]
    if any(word is not None for word in words):
        without = [line for line, word in zip(lines, words) if word is None]
        if without:
            _complain(f"{path}:{without[0]}: no split, and other rows have one", on_fault)
        table.roles = [WORDS.get(word, "database") for word in words]
        for role in ("query", "database"):
            if on_fault is None and not any(own == role or (own, role) == ("train", "database") for own in table.roles):
                raise InputError(f"{path} has a column split, but no row of split {role}; add some, or leave the column "
                                 "out and the split is drawn")
    return _once(table, on_fault)


def inside(root, name):
    """Path of a manifest -> path relative to ``root``; raises ValueError where it leaves the root."""
    if not isinstance(name, str) or not name.strip():
        raise ValueError("the path is empty" if name in (None, "") or isinstance(name, str) else "the path is no string")
    name = name.strip().replace("\\", "/")
    if "://" in name:
        raise ValueError(f"'{name[:60]}' is an address; download the pictures first")
    path = name
    if name.startswith("/") or re.match("[A-Za-z]:/", name):
        path = os.path.relpath(os.path.normpath(name), os.path.abspath(root)).replace(os.sep, "/")
    path = posixpath.normpath(path)
    if path.split("/")[0] == ".." or "\0" in path or path in (".", ""):
        raise ValueError(f"path '{name[:200]}' leaves the data folder {root}; name a folder that holds all pictures with "
                         "--data-path (for example --data-path /)")
    return path


def _csv_rows(path, on_fault):
    """([(row number, dict role -> cell)], {columns, notes}) of a CSV or TSV file with a header line."""
    text = "\n".join(lists.read_lines(path))
    first = text.split("\n", 1)[0]
    delimiter = "\t" if path.lower().endswith(".tsv") else max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows, header, start = [], None, 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise InputError(f"{path}:{start}: broken CSV ({error}); is a quote missing?") from error
        line, start = start, reader.line_num + 1
        if cells is None:
            break
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
            try:
                found = _columns(header)
            except ValueError as error:
                raise InputError(f"{path}:{line}: {error}") from error
            continue
        if len(cells) != len(header):
            _complain(f"{path}:{line}: {len(cells)} columns where {len(header)} are expected", on_fault)
            continue
        rows.append((line, cells))
    if header is None:
        raise InputError(f"{path} is empty; its first line must name the columns: path, and labels, text, split")
    places = {role: header.index(name) for role, name in found.items()}
    others = [i for i in range(len(header)) if i not in places.values()]
    classes = [] if "label" in places or not rows else [i for i in others if rows[0][1][i].strip() in ("0", "1")]
    ignored = [header[i] or f"column {i + 1}" for i in others if i not in classes]
    out = []
    for line, cells in rows:
        row = {role: cells[i] for role, i in places.items()}
        if classes:
            row["label"] = [cells[i].strip() for i in classes]
            bad = next((i for i in classes if cells[i].strip() not in ("0", "1")), None)
            if bad is not None:
                _complain(f"{path}:{line}: column {header[bad]} is '{cells[bad][:20]}', it must be 0 or 1 as in the first "
                          "row (or name the classes in a column labels)", on_fault)
                continue
            row["label"] = [int(cell) for cell in row["label"]]
        out.append((line, row))
    notes = [f"columns that are not used: {_some(ignored, 8)}"] if ignored else []
    return out, {"columns": [header[i] for i in classes], "notes": notes}


def _columns(names):
    """dict role -> name of its column. Raises ValueError."""
    lower = [name.lower() for name in names]
    twice = next((name for name in lower if name and lower.count(name) > 1), None)
    if twice:
        raise ValueError(f"two columns are named {twice}")
    found = {}
    for role, known in COLUMNS.items():
        here = [name for name in names if name.lower() in known]
        if len(here) > 1:
            raise ValueError(f"{' and '.join(here)} both name the {role}; keep one of them")
        if here:
            found[role] = here[0]
    if "path" not in found:
        raise ValueError(f"no column path (or image, file, filename); there are {_some(list(names), 8)}")
    return found


def _json_rows(path, on_fault):
    """As ``_csv_rows``, of a file with a JSON object a line."""
    rows, found = [], {}
    for line, text in enumerate(lists.read_lines(path), 1):
        if not text.strip():
            continue
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            _complain(f"{path}:{line}: broken JSON ({error})", on_fault)
            continue
        if not isinstance(value, dict):
            _complain(f"{path}:{line}: not a JSON object like {{\"path\": ..., \"labels\": [...]}}", on_fault)
            continue
        keys = tuple(value)
        try:
            found[keys] = found.get(keys) or _columns(keys)
        except ValueError as error:
            _complain(f"{path}:{line}: {error}", on_fault)
            continue
        rows.append((line, {role: value[name] for role, name in found[keys].items()}))
    used = {name for names in found.values() for name in names.values()}
    ignored = sorted({key for keys in found for key in keys} - used)
    return rows, {"columns": [], "notes": [f"keys that are not used: {_some(ignored, 8)}"] if ignored else []}


def _label(value):
    """Cell -> None (no label), ("names", [str]) or ("columns", [0 or 1]). Raises ValueError."""
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("["):
            try:
                value = json.loads(text)
            except ValueError:
                raise ValueError(f"labels '{text[:40]}' are a broken JSON list") from None
        else:
            value = text.split("|")
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        value = [str(value)]  # one class number
    if not isinstance(value, list):
        raise ValueError(f"labels '{str(value)[:40]}' are neither names separated by | nor a list")
    if not value:
        return None
    if all(isinstance(item, str) for item in value):
        names = [item.strip() for item in value if item.strip()]
        return ("names", names) if names else None
    if all(isinstance(item, int) and item in (0, 1) for item in value):
        return "columns", [int(item) for item in value]
    raise ValueError(f"labels {str(value)[:40]} are neither a list of names nor one of 0 and 1")


def _form(label):
    return "names" if label[0] == "names" else f"{len(label[1])} columns of 0 and 1"


def _label_matrix(labels, columns):
    """(uint8 [N, C] or None, class names)."""
    form = next((label for label in labels if label), None)
    if form is None:
        return None, []
    if form[0] == "columns":
        names = list(columns) or [f"class_{i}" for i in range(len(form[1]))]
        return np.array([label[1] if label else [0] * len(names) for label in labels], np.uint8), names
    names = sorted({name for label in labels if label for name in label[1]})
    column = {name: i for i, name in enumerate(names)}
    table = np.zeros((len(labels), len(names)), np.uint8)
    for row, label in enumerate(labels):
        for name in label[1] if label else ():
            table[row, column[name]] = 1
    return table, names
