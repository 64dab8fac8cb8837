"""Manifests: a table of pictures as CSV, TSV or JSONL, a row a picture."""
import collections
import csv
import io
import json
import os
import posixpath
import re

import numpy as np

from utils.datasets import lists
from utils.datasets.own.item_table import SPLIT_WORDS, ItemTable, complain, first_of, once
from utils.errors import InputError

COLUMNS = {"path": ("path", "image", "file", "filename"), "label": ("labels", "label", "classes", "class"),
           "text": ("text", "caption"), "split": ("split",)}


def read_manifest(path, root, on_fault=None):
    """ItemTable of a CSV, TSV or JSONL manifest.

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
            if word is not None and word not in SPLIT_WORDS:
                raise ValueError(f"split is '{word[:20]}', it must be train, query (or test) or database")
        except ValueError as error:
            complain(f"{path}:{line}: {error}", on_fault)
            continue
        paths.append(name)
        labels.append(label)
        texts.append(text)
        words.append(word)
        lines.append(line)
    table = ItemTable(root, paths, list_file=path, lines=np.array(lines, np.int64), notes=list(extra["notes"]))
    table.labels, table.classes = _label_matrix(labels, extra["columns"])
    if any(text is not None for text in texts):
        table.texts = [text or "" for text in texts]
    if any(word is not None for word in words):
        without = [line for line, word in zip(lines, words) if word is None]
        if without:
            complain(f"{path}:{without[0]}: no split, and other rows have one", on_fault)
        table.splits = [SPLIT_WORDS.get(word, "database") for word in words]
        for split in ("query", "database"):
            if on_fault is None and not any(own == split or (own, split) == ("train", "database")
                                            for own in table.splits):
                raise InputError(f"{path} has a column split, but no row of split {split}; add some, or leave the "
                                 "column out and the split is drawn")
    return once(table, on_fault)


def inside(root, name):
    """Path of a manifest -> path relative to ``root``; raises ValueError where it leaves the root."""
    if not isinstance(name, str) or not name.strip():
        raise ValueError("the path is empty" if name is None or isinstance(name, str) else "the path is no string")
    name = name.strip().replace("\\", "/")
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


def _csv_rows(path, on_fault):
    """([(row number, dict field -> cell)], {columns, notes}) of a CSV or TSV file with a header line."""
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
                complain(f"{path}:{line}: {error}", None)
            continue
        if len(cells) != len(header):
            complain(f"{path}:{line}: {len(cells)} columns where {len(header)} are expected", on_fault)
            continue
        rows.append((line, cells))
    if header is None:
        raise InputError(f"{path} is empty; its first line must name the columns: path, and labels, text, split")
    places = {field: header.index(name) for field, name in found.items()}
    others = [i for i in range(len(header)) if i not in places.values()]
    classes = [] if "label" in places or not rows else [i for i in others if rows[0][1][i].strip() in ("0", "1")]
    ignored = [header[i] or f"column {i + 1}" for i in others if i not in classes]
    out = []
    for line, cells in rows:
        row = {field: cells[i] for field, i in places.items()}
        if classes:
            row["label"] = [cells[i].strip() for i in classes]
            bad = next((i for i in classes if cells[i].strip() not in ("0", "1")), None)
            if bad is not None:
                complain(f"{path}:{line}: column {header[bad]} is '{cells[bad][:20]}', it must be 0 or 1 as in the "
                          "first row (or name the classes in a column labels)", on_fault)
                continue
            row["label"] = [int(cell) for cell in row["label"]]
        out.append((line, row))
    notes = [f"columns that are not used: {first_of(ignored, 8)}"] if ignored else []
    return out, {"columns": [header[i] for i in classes], "notes": notes}


def _columns(names):
    """dict field -> name of its column. Raises ValueError."""
    names_of = collections.defaultdict(list)
    for name in names:
        names_of[name.lower()].append(name)
    twice = next((name for name, some in names_of.items() if name and len(some) > 1), None)
    if twice:
        raise ValueError(f"two columns are named {twice}")
    found = {}
    for field, known in COLUMNS.items():
        here = [name for word in known for name in names_of.get(word, ())]
        if len(here) > 1:
            raise ValueError(f"{' and '.join(here)} both name the {field}; keep one of them")
        if here:
            found[field] = here[0]
    if "path" not in found:
        raise ValueError(f"no column path (or image, file, filename); there are "
                         f"{first_of([' '.join(name.split()) for name in names], 8)}")
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
            complain(f"{path}:{line}: broken JSON ({error})", on_fault)
            continue
        if not isinstance(value, dict):
            complain(f"{path}:{line}: not a JSON object like {{\"path\": ..., \"labels\": [...]}}", on_fault)
            continue
        keys = tuple(value)
        try:
            found[keys] = found.get(keys) or _columns(keys)
        except ValueError as error:
            complain(f"{path}:{line}: {error}", on_fault)
            continue
        rows.append((line, {field: value[name] for field, name in found[keys].items()}))
    used = {name for names in found.values() for name in names.values()}
    ignored = sorted({key for keys in found for key in keys} - used)
    return rows, {"columns": [], "notes": [f"keys that are not used: {first_of(ignored, 8)}"] if ignored else []}


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
