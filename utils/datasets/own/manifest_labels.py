"""The labels column of a manifest: cells -> labels (labels.py has the rule)."""
import re
import reprlib

import numpy as np

from utils.datasets.labels import class_number, told, zeros
from utils.datasets.text_files import whole_text
from utils.plain_json import parse_json


def parse(value, form):
    """One cell or JSON value.

    Args:
        value: str, int, list of these, or None.
        form: see labels.py. ``auto``: a text is class names separated by "|"; a list of several 0 and 1 are columns; a
            list of one number is a class number.

    Returns:
        None (no label), ("names", [str]), ("columns", [0 or 1]) or ("numbers", [int]).

    Raises:
        ValueError: none of these.
    """
    if isinstance(value, str):
        value = _of_text(value.strip(), form)
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        value = [str(value)] if form == "auto" else [value]  # one class number
    if not isinstance(value, list):
        raise ValueError(f"labels '{reprlib.repr(value)}' are neither names separated by | nor a list")
    if not value:
        return None
    if form == "index":
        return "numbers", [class_number(item) for item in value]
    if all(isinstance(item, str) for item in value) and form == "auto":
        names = [whole_text(item).strip() for item in value if item.strip()]
        return ("names", names) if names else None
    if form == "auto" and len(value) == 1 and isinstance(value[0], int):
        return "numbers", [class_number(int(value[0]))]
    if all(isinstance(item, int) and item in (0, 1) for item in value):
        return "columns", [int(item) for item in value]
    raise ValueError(f"labels {reprlib.repr(value)} are neither a list of names nor one of 0 and 1 (--labels index "
                     "reads class numbers)")


def _of_text(text, form):
    """What a text holds: a list, or None."""
    if text.startswith("["):
        try:
            return parse_json(text)
        except ValueError:
            raise ValueError(f"labels '{text[:40]}' are a broken JSON list") from None
    if form == "auto":
        return text.split("|")
    words = [word for word in re.split(r"[\s,;|]+", text) if word]
    if form == "multihot" and set(words) <= {"0", "1"}:
        return [int(word) for word in words]
    return words


def same_form(label, first):
    """Raise ValueError where a label is written otherwise than the first one."""
    if label[0] != first[0] or label[0] == "columns" and len(label[1]) != len(first[1]):
        raise ValueError(f"labels as {_described(label)} where {_described(first)} are expected")


def _described(label):
    return f"{len(label[1])} columns of 0 and 1" if label[0] == "columns" else \
        "class numbers" if label[0] == "numbers" else "names"


def matrix(labels, columns, where):
    """All labels of a manifest as one matrix.

    Args:
        labels: list of what ``parse`` returns, of one form.
        columns: names of 0/1 columns, or an empty list.
        where: the manifest, for messages.

    Returns:
        uint8 [N, C] or None, class names, notes (list of str).

    Raises:
        InputError: more classes than fit in memory.
    """
    form = next((label[0] for label in labels if label), None)
    if form is None:
        return None, [], []
    items = [label[1] if label else () for label in labels]
    if form == "columns":
        names = list(columns) or [f"class_{i}" for i in range(max(map(len, items)))]
        return np.array([some or [0] * len(names) for some in items], np.uint8), names, []
    if form == "names":
        names = sorted({name for some in items for name in some})
        column = {name: i for i, name in enumerate(names)}
        items, notes = [[column[name] for name in some] for some in items], []
    else:
        numbers = [number for some in items for number in some]
        names = [f"class_{i}" for i in range(max(numbers) + 1)]
        what = f"column {columns[0]}" if columns else "the labels column"
        notes = [told(f"{what} of {where}", numbers, len(names))]
    found = zeros(len(labels), len(names), where)
    found[np.repeat(np.arange(len(items)), [len(some) for some in items]), [c for some in items for c in some]] = 1
    return found, names, notes
