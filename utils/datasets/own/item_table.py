"""Pictures before they are split: the table that folders.py, manifests.py and lists give to splits.py."""
import dataclasses
from typing import List, Optional

import numpy as np

from utils.datasets.base import FileImages, Split
from utils.errors import InputError, printable

SPLIT_WORDS = {"train": "train", "query": "query", "test": "query", "database": "database", "gallery": "database"}


@dataclasses.dataclass
class ItemTable:
    """Pictures before they are split: one row each.

    splits: ``train``, ``query`` or ``database`` of each row where the data say so, else None.
    list_file, lines: where each row was read from, or None. notes: what was left out, for people.
    """

    root: str
    paths: List[str]
    labels: Optional[np.ndarray] = None
    classes: List[str] = dataclasses.field(default_factory=list)
    texts: Optional[List[str]] = None
    splits: Optional[List[str]] = None
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
                                   splits=pick(self.splits), lines=array(self.lines))


def once(table, on_fault):
    """The table, if no path comes twice; with ``on_fault`` the later rows are left out."""
    first, good = {}, []
    for i, path in enumerate(table.paths):
        if path in first:
            complain(f"{table.list_file}:{table.lines[i]}: {path} is already in row {table.lines[first[path]]}; "
                     "a picture may come once", on_fault)
        else:
            first[path] = i
            good.append(i)
    return table if len(good) == len(table.paths) else table.select(good)


def complain(message, on_fault):
    """Raise InputError, or give the message to ``on_fault`` (callable); in one line, whatever a cell or name holds."""
    message = printable(message)
    if on_fault is None:
        raise InputError(message)
    on_fault(message)


def first_of(names, most, mark=", "):
    """The first ``most`` of the names in a row, and how many more there are."""
    more = f"{mark}and {len(names) - most} more" if len(names) > most else ""
    return mark.join(map(printable, names[:most])) + more
