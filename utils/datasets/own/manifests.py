"""Manifests: a table of pictures as CSV, TSV or JSONL, a row a picture."""
import os
import posixpath
import re
import reprlib

import numpy as np

from utils.datasets.own import manifest_labels
from utils.datasets.own.item_table import SPLIT_WORDS, ItemTable, complain, once
from utils.datasets.own.manifest_rows import csv_rows, json_rows
from utils.datasets.text_files import whole_text
from utils.errors import InputError


def read_manifest(path, root, request):
    """ItemTable of a CSV, TSV or JSONL manifest.

    Columns (JSON: keys), whatever their case: ``path`` (image, file, filename); ``labels`` (label, classes, class; else
    target, category and the like): class names separated by "|" or a JSON list of names or of 0 and 1; ``text``
    (caption); ``split``: train, query (test) or database (gallery). CSV without a labels column: columns of 0 and 1 are
    classes. Rows of split train are in the database too; without any, the whole database trains.

    Raises:
        InputError: as ``splits.read``.
    """
    read_rows = csv_rows if path.lower().endswith((".csv", ".tsv")) else json_rows
    rows, columns, notes = read_rows(path, request.on_fault)
    if request.labels != "auto" and rows and not any("label" in row for _, row in rows):
        raise InputError(f"{path}: --labels {request.labels}, but there is no column of labels; name it label")
    if request.labels == "index" and len(columns) > 1:
        raise InputError(f"{path}: --labels index reads one column of class numbers, and {' and '.join(columns[:3])} "
                         "hold 0 and 1; name the one column label")
    items, first = [], None
    for line, row in rows:
        try:
            item = _Item(root, line, row, request.labels)
            first = first or item.label
            if item.label:
                manifest_labels.same_form(item.label, first)
            items.append(item)
        except ValueError as error:
            complain(f"{path}:{line}: {error}", request.on_fault)
    labels, classes, more = manifest_labels.matrix([item.label for item in items], columns, path)
    table = ItemTable(root, [item.path for item in items], labels, classes, list_file=path,
                      lines=np.array([item.line for item in items], np.int64), notes=more + notes)
    if any(item.text is not None for item in items):
        table.texts = [item.text or "" for item in items]
    if any(item.split is not None for item in items):
        table.splits = _given_splits(path, items, request.on_fault)
    return once(table, request.on_fault)


class _Item:
    """One row, read and checked. Raises ValueError."""

    def __init__(self, root, line, row, form):
        self.line = line
        self.path = inside(root, row.get("path"))
        self.label = manifest_labels.parse(row.get("label"), form)
        self.text = row.get("text")
        if self.text is not None and not isinstance(self.text, str):
            raise ValueError(f"text is {reprlib.repr(self.text)}, it must be a string")
        if self.text is not None:
            whole_text(self.text)
        self.split = str(row["split"] or "").strip().lower() if "split" in row else None
        if self.split is not None and self.split not in SPLIT_WORDS:
            raise ValueError(f"split is '{self.split[:20]}', it must be train, query (or test) or database")


def _given_splits(path, items, on_fault):
    """Split of each row. Raises InputError where a split has no row."""
    without = next((item.line for item in items if item.split is None), None)
    if without is not None:
        complain(f"{path}:{without}: no split, and other rows have one", on_fault)
    splits = [SPLIT_WORDS.get(item.split, "database") for item in items]
    there = set(splits) | ({"database"} if "train" in splits else set())
    for split in ("query", "database"):
        if on_fault is None and split not in there:
            raise InputError(f"{path} has a column split, but no row of split {split}; add some, or leave the column "
                             "out and the split is drawn")
    return splits


def inside(root, name):
    """Path of a manifest -> path relative to ``root``; raises ValueError where it leaves the root."""
    if not isinstance(name, str) or not name.strip():
        raise ValueError("the path is empty" if name is None or isinstance(name, str) else "the path is no string")
    name = whole_text(name).strip().replace("\\", "/")
    if "://" in name:
        raise ValueError(f"'{name[:60]}' is an address; download the pictures first")
    path = name
    if name.startswith("/") or re.match("[A-Za-z]:/", name):
        path = os.path.relpath(os.path.normpath(name), os.path.abspath(root)).replace(os.sep, "/")
    path = posixpath.normpath(path)
    if path.split("/")[0] == ".." or "\0" in path or path in (".", ""):
        raise ValueError(f"path '{name[:200]}' leaves the data folder {root}; name a folder that holds all pictures "
                         "with --data-path (for example --data-path /)")
    return path
