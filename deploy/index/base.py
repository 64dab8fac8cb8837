"""What every index offers, whatever its engine: the checks stand here once, the engines do the rest.

An index holds items: an id (any string, once), a packed code, optionally labels and the relaxed code. Items keep the
order in which they came; their *position* is a number that grows with it, and equal distances are ordered by it. The
position of an item may change when the index is compacted; its id does not.
"""
import contextlib
import dataclasses
import os
from typing import List, Optional

import numpy as np

from utils.errors import InputError
from utils.retrieval.hamming import check_codes
from utils.retrieval.shard_set import CodesInfo


class Unavailable(InputError):
    """What cannot be done now, though nothing is wrong with the question: asked again later it may be."""


class Removed(Unavailable):
    """Items that were found and then asked for are gone: an engine on a server keeps no state for its readers."""


def settled(function, attempts=5):
    """What ``function`` gives, asked again where items were removed meanwhile."""
    for _ in range(attempts - 1):
        with contextlib.suppress(Removed):
            return function()
    return function()


@dataclasses.dataclass(frozen=True)
class Where:
    """Which items a question is about: those with a label (column number), with an id that starts with ``prefix``."""

    label: Optional[int] = None
    prefix: Optional[str] = None

    def __bool__(self):
        return self.label is not None or bool(self.prefix)


@dataclasses.dataclass(eq=False)
class Hits:
    """The answer to one query, nearest first.

    Attributes:
        distance: int32 [n]; position: int64 [n]; ids: n strings; labels: uint8 [n, C] or None.
    """

    distance: np.ndarray
    position: np.ndarray
    ids: List[str]
    labels: Optional[np.ndarray] = None

    def __len__(self):
        return len(self.ids)


@dataclasses.dataclass
class Added:
    """What an ``add`` has done: ids in their order, and how many of them replaced an item."""

    ids: List[str]
    replaced: int


EVERYTHING = Where()


class Index:
    """An index of one collection. ``deploy.index.open_index`` opens one by its URI.

    Attributes:
        uri; engine: name of the engine; info: CodesInfo; exact: whether answers are always the true ones.
    """

    engine = ""
    exact = True

    def __init__(self, uri, info):
        self.uri, self.info = uri, info

    # questions ------------------------------------------------------------------------------
    def search(self, query, k, where=EVERYTHING):
        """The ``k`` nearest items of each query; fewer where there are fewer.

        Args:
            query: packed codes uint8 [Q, ceil(bits / 8)] of the index's model.
            k: from 1 on. where: Where.

        Returns:
            list of Q Hits: distance ascending, ties by position.

        Raises:
            InputError: codes of another length, k below 1, or a filter that the index cannot have.
        """
        self._check_query(query, where)
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
            raise InputError(f"k = {k}: ask for at least one item")
        return self._search(query, int(k), where) if len(query) else []

    def within(self, query, radius, where=EVERYTHING):
        """All items within a Hamming distance of each query.

        Args:
            query, where: as for ``search``. radius: largest distance, from 0 on.

        Returns:
            list of Q Hits, ordered as those of ``search``.

        Raises:
            InputError: as ``search``, or a radius below 0.
        """
        self._check_query(query, where)
        if isinstance(radius, bool) or not isinstance(radius, (int, np.integer)) or radius < 0:
            raise InputError(f"the radius must be a whole number from 0 on, got {radius!r}")
        return self._within(query, min(int(radius), self.info.bits), where) if len(query) else []

    def get(self, ids):
        """CodeFile of the items of these ids, in this order.

        Raises:
            InputError: an id that is not in the index.
        """
        found = self._find(list(ids))
        missing = [name for name, position in zip(ids, found) if position < 0]
        if missing:
            raise InputError(f"{few(missing)} not in the index {self.uri}; `find` looks for ids by their beginning")
        return self.take(found)

    def has(self, ids):
        """Mask bool [n] of the ids that are in the index."""
        return self._find(list(ids)) >= 0

    def take(self, positions):
        """CodeFile of the items at these positions (of hits), in this order."""
        raise NotImplementedError

    def page(self, count, after=-1, where=EVERYTHING):
        """A page of items in their order.

        Args:
            count: items of a page. after: position behind which it begins; -1 for the first page. where: Where.

        Returns:
            (positions int64 [n], CodeFile); ``after`` of the next page is the last position; fewer than ``count`` items
            are the last page.
        """
        self._check_where(where)
        if count < 1:
            raise InputError(f"a page of {count} items: ask for at least one")
        return self._page(int(count), int(after), where)

    def batches(self, size=1 << 16):
        """Yield (positions int64, CodeFile) of all items in their order."""
        raise NotImplementedError

    def codes(self):
        """Yield (positions int64, packed codes) of all items in their order."""
        for positions, codefile in self.batches():
            yield positions, codefile.codes

    def __len__(self):
        """Number of items."""
        raise NotImplementedError

    def stats(self):
        """Plain values for people and tools: what the index is, and what it costs."""
        return {"uri": self.uri, "engine": self.engine, "exact": self.exact, "items": len(self),
                "bits": self.info.bits, "fingerprint": self.info.fingerprint, "precision": self.info.precision,
                "labels": self.info.labels, "classes": list(self.info.classes), "relaxed": self.info.relaxed}

    # changes --------------------------------------------------------------------------------
    def add(self, codefile, replace=False):
        """Append items; when the call returns they are kept.

        Args:
            codefile: CodeFile of the index's model. replace: items that have one of its ids go; else such are refused.

        Returns:
            Added.

        Raises:
            InputError: codes of another model, length or classes; an id twice; an id that is there already, unless
                ``replace``; a full disk. Nothing has changed then.
        """
        codefile = checked(codefile, self.info)
        return Added(list(codefile.ids), self._add(codefile, replace) if len(codefile) else 0)

    def remove(self, ids, missing_ok=False):
        """Remove the items of these ids; when the call returns they are gone.

        Returns:
            ids that were removed.

        Raises:
            InputError: an id that is not there, unless ``missing_ok``: nothing has changed then.
        """
        ids = list(dict.fromkeys(ids))
        return self._remove(ids, missing_ok) if ids else []

    def save(self):
        """Make the next opening quick. Nothing is lost without: what was added is kept already."""

    def compact(self):
        """Give back the room of removed items. Returns their number. Positions change."""
        raise NotImplementedError

    def check(self):
        """Read everything and raise InputError where something is damaged or an id stands twice."""
        raise NotImplementedError

    def refresh(self):
        """Look at what other processes have changed: answers are of the state that was looked at last.

        Returns:
            whether there was anything new.
        """
        return False

    def close(self):
        """Let go of files and connections."""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    # checks ---------------------------------------------------------------------------------
    def _check_query(self, query, where):
        check_codes(query, self.info.bits, "query codes")
        self._check_where(where)

    def _check_where(self, where):
        if where.label is None:
            return
        if self.info.labels is None:
            raise InputError(f"the items of {self.uri} have no labels to filter by")
        if not 0 <= where.label < self.info.labels:
            raise InputError(f"no label {where.label}: the labels of {self.uri} go from 0 to {self.info.labels - 1}")

    def label(self, name):
        """Column of a label, by its class name or its number.

        Raises:
            InputError: the index knows no such label.
        """
        if name in self.info.classes:
            return self.info.classes.index(name)
        try:
            column = int(name)
        except ValueError:
            known = ", ".join(self.info.classes[:8]) + (", ..." if len(self.info.classes) > 8 else "")
            raise InputError(f"{self.uri} knows no label {name!r}" + (f"; it knows {known}" if known else "")) from None
        self._check_where(Where(label=column))
        return column

    def label_names(self, row):
        """Names of the labels of a row uint8 [C]; None for None."""
        if row is None:
            return None
        classes = self.info.classes
        return [classes[column] if column < len(classes) else str(column) for column in np.flatnonzero(row).tolist()]


def checked(codefile, info):
    """The CodeFile as it goes into an index of ``info``: relaxed codes that the index does not keep are left out.

    Raises:
        InputError: parts that do not fit, codes of another collection, or an id twice.
    """
    codefile.check()
    info.refuse(CodesInfo.of(codefile), "the codes to add")
    if len(set(codefile.ids)) < len(codefile.ids):
        seen = set()
        twice = [name for name in codefile.ids if name in seen or seen.add(name)]
        raise InputError(f"{few(list(dict.fromkeys(twice)))} more than once among the items to add: nothing was added")
    return codefile if info.relaxed or codefile.relaxed is None else dataclasses.replace(codefile, relaxed=None)


def few(names):
    """``'a' is``, ``'a', 'b' are``, ``'a', 'b', 'c' and 5 more are``: the beginning of a message."""
    shown = ", ".join(map(repr, names[:3]))
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "") + (" is" if len(names) == 1 else " are")


def make_folder(path):
    """Make a folder where there is none, or raise InputError."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {path}: {error.strerror or error}") from error


def check_root(root):
    """Raise InputError unless the folder is there (or none is given)."""
    if root is not None and not os.path.isdir(root):
        raise InputError(f"no folder {root}: --data-path is where the ids are paths of pictures")
