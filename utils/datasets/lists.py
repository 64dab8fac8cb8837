"""Image lists: ``path l1 l2 ... lC``, one image a line, labels 0 or 1.

The path may hold spaces; it ends at the last word with an image ending (or, where no word has one, before the trailing
0/1 columns). Lists without labels are allowed for unsupervised methods. Paths are relative to a root; a leading
slash, ``./`` or ``../`` is dropped, so that no path leaves the root (absolute paths: use ``/`` as the root). Public
lists often carry the folder of their authors' machine in front: leading folders that do not exist below the root
are dropped, as found on the first line of the list.
"""
import json
import os
import re

import numpy as np

from utils.datasets.base import FileImages, Protocol, Split, need_folder, need_items
from utils.errors import InputError
from utils.images import IMAGE_ENDINGS

LIST_NAMES = {"train": ("train.txt",), "query": ("query.txt", "test.txt"), "database": ("database.txt",)}
_IMAGE_WORD = re.compile("(" + "|".join(map(re.escape, IMAGE_ENDINGS)) + r")(\s|$)", re.IGNORECASE)


def read_list(path, num_classes=None, on_fault=None):
    """Read a list file.

    Args:
        path: UTF-8 text file.
        num_classes: expected number of labels; by default that of the first line.
        on_fault: None, or a callable that gets the message of a bad line, which is then left out.

    Returns:
        paths (list of str, relative, with "/"), labels (uint8 [N, C] or None), lines (int64 [N], from 1).

    Raises:
        InputError: unreadable file, or (without ``on_fault``) the first bad line as ``file:line``.
    """
    paths, rows, lines = [], [], []
    for number, line in enumerate(read_lines(path), 1):
        line = line.strip()
        if not line:
            continue
        try:
            name, labels = _parse(line, num_classes)
            name = _inside_root(name)
        except ValueError as error:
            fault = f"{path}:{number}: {error}"
            if on_fault is None:
                raise InputError(fault) from error
            on_fault(fault)
            continue
        num_classes = len(labels) if num_classes is None else num_classes
        paths.append(name)
        rows.append(labels)
        lines.append(number)
    table = None
    if num_classes:
        table = np.frombuffer("".join(rows).encode("ascii"), np.uint8).reshape(len(rows), num_classes) - ord("0")
    return paths, table, np.array(lines, np.int64)


def write_lines(paths, labels):
    """Text of a list file: paths (list of str) and labels (uint8 [N, C] of 0/1, or None)."""
    if labels is None:
        return "".join(f"{path}\n" for path in paths)
    columns = np.full((len(paths), 2 * labels.shape[1]), ord(" "), np.uint8)
    columns[:, 1::2] = labels + ord("0")
    return "".join(f"{path}{row.tobytes().decode('ascii')}\n" for path, row in zip(paths, columns))


def read_split(name, path, root, num_classes=None, on_fault=None):
    """A Split of image files below ``root`` from a list file.

    Raises:
        InputError: as ``read_list``, or the list is empty.
    """
    paths, labels, lines = read_list(path, num_classes, on_fault)
    paths = _drop_prefix(root, paths)
    split = Split(name=name, ids=paths, labels=labels, images=FileImages(root, paths, (path, lines)),
                  list_file=path, lines=lines)
    return split if on_fault else need_items(split)


def find_lists(folder):
    """dict split -> list file in ``folder``, as far as they are there."""
    found = {}
    for split, names in LIST_NAMES.items():
        for name in names:
            path = os.path.join(folder, name)
            if split not in found and os.path.isfile(path):
                found[split] = path
    return found


def read_classes(folder, count):
    """Class names from ``classes.txt`` in ``folder`` (one a line), or class_0, class_1, ...

    Raises:
        InputError: the file names another number of classes than the labels have.
    """
    path = os.path.join(folder, "classes.txt")
    if not os.path.isfile(path):
        return [f"class_{i}" for i in range(count)]
    names = [line.strip() for line in read_lines(path) if line.strip()]
    if count and len(names) != count:
        raise InputError(f"{path} names {len(names)} classes, but the lists have {count} labels a line")
    return names


def load_lists(name, root, list_dir=None, seed=0, topk=0, on_fault=None):
    """Protocol from train.txt, query.txt (or test.txt) and database.txt.

    Args:
        name: name of the protocol.
        root: folder that the paths in the lists start from.
        list_dir: folder of the lists; ``root`` by default.

    Raises:
        InputError: a missing folder or list, a bad line, an empty list, lists with different numbers of labels.
    """
    root = need_folder(root, "the images that the lists name")
    list_dir = need_folder(list_dir or root, "train.txt, query.txt (or test.txt) and database.txt")
    found = find_lists(list_dir)
    missing = [" or ".join(LIST_NAMES[split]) for split in LIST_NAMES if split not in found]
    if missing:
        raise InputError(f"{list_dir} has no {', no '.join(missing)}; a data folder holds the image lists train.txt, "
                         "query.txt (or test.txt) and database.txt")
    train = read_split("train", found["train"], root, None, on_fault)
    count = None if train.labels is None else train.labels.shape[1]
    query, database = (read_split(split, found[split], root, 0 if count is None else count, on_fault)
                       for split in ("query", "database"))
    return Protocol(name, train, query, database, read_classes(list_dir, count or 0), topk=topk, seed=seed)


def read_texts(path):
    """dict image path -> text from a texts.jsonl file.

    Raises:
        InputError: unreadable file or a line that is no JSON object with ``image`` and ``text``, as file:line.
    """
    texts = {}
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            try:
                row = json.loads(line)
                texts[row["image"]] = str(row["text"])
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise InputError(f"{path}:{number}: not a JSON object with image and text") from error
    return texts


def add_texts(protocol, path):
    """Give every item of a protocol its text from a texts.jsonl file.

    Raises:
        InputError: as ``read_texts``, or an item without a text.
    """
    texts = read_texts(path)
    for split in protocol.splits:
        without = next((i for i, item in enumerate(split.ids) if item not in texts), None)
        if without is not None:
            raise InputError(f"{path} has no text for {split.ids[without]} ({split.where(without)}); make the lists "
                             "again")
        split.texts = [texts[item] for item in split.ids]


def names_of(folder):
    """Set of the names in a folder; empty where there is none."""
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


def utf8_or_latin1(data):
    """(text, is it Latin-1) of bytes: tags and articles of old sets are in either."""
    try:
        return data.decode("utf-8-sig"), False
    except UnicodeDecodeError:
        return data.decode("latin-1"), True


def read_lines(path):
    """Lines of a UTF-8 file; raises InputError where it cannot be read or is not UTF-8."""
    try:
        with open(path, "rb") as file:
            data = file.read()
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def _parse(line, count):
    """A line without outer blanks -> (path, labels as a string of 0 and 1).

    Raises:
        ValueError: labels that are not 0 or 1, or not ``count`` of them (None: any number).
    """
    # the common case without looking at each column: long label rows make up most of a list
    if count:
        head, tail = line[:-2 * count], line[-2 * count:]
        if tail[::2] == " " * count and not tail[1::2].strip("01") and head.lower().endswith(IMAGE_ENDINGS):
            return head, tail[1::2]
    cut = None
    for match in _IMAGE_WORD.finditer(line):
        cut = match.end(1)
    words = line.split()
    if cut is None:
        run = 0
        while run < len(words) - 1 and words[-1 - run] in ("0", "1"):
            run += 1
        labels = words[len(words) - (run if count is None else min(run, count)):]
        name = line
        for label in reversed(labels):
            name = name[:-len(label)].rstrip()
    else:
        name, labels = line[:cut], line[cut:].split()
    for column, label in enumerate(labels, 1):
        if label not in ("0", "1"):
            raise ValueError(f"label {column} is '{label[:20]}', it must be 0 or 1")
    if count is not None and len(labels) != count:
        raise ValueError(f"{len(labels)} labels where {count} are expected")
    return name, "".join(labels)


def _inside_root(name):
    """Path of a list -> relative path without leading "/", "./", "../"; raises ValueError where ".." comes later."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    while parts and parts[0] == "..":
        parts.pop(0)
    if ".." in parts or not parts or "\0" in name:
        raise ValueError(f"path '{name}' leaves the data folder")
    return "/".join(parts)


def _drop_prefix(root, paths):
    """Drop the leading folders that do not exist below ``root``, as found on the first path."""
    if not paths or os.path.exists(os.path.join(root, paths[0])):
        return paths
    parts = paths[0].split("/")
    for start in range(1, len(parts)):
        if os.path.exists(os.path.join(root, *parts[start:])):
            prefix = "/".join(parts[:start]) + "/"
            return [path[len(prefix):] if path.startswith(prefix) else path for path in paths]
    return paths
