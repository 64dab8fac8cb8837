"""What a data set is here: three splits of images (or features), labels and texts, and a name for the whole."""
import dataclasses
import glob
import hashlib
import os
from typing import Any, Callable, Dict, List, Optional

import numpy as np

from utils import images
from utils.errors import InputError

# where the lists and the embedded set lie: data/ of the checkout
DATA = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "data")


class FileImages:
    """Image files below a root; ``read(i)`` decodes one. Holds names only, so it is cheap to pickle or fork.

    places: (list file, line numbers int64 [N]) where the names were read; error messages begin with it.
    """

    def __init__(self, root, paths, places=None):
        self.root, self.paths, self.places = root, paths, places

    def __len__(self):
        return len(self.paths)

    def path(self, i):
        """File name of item i."""
        return os.path.join(self.root, self.paths[i])

    def any_there(self, most=100):
        """Whether one of ``most`` files, evenly spread, exists: one that is missing says nothing of the others."""
        return any(os.path.exists(self.path(i)) for i in range(0, len(self), max(1, len(self) // most)))

    def read(self, i):
        """uint8 [H, W, 3] RGB. Raises images.ImageError."""
        return images.decode(*self.source(i))

    def source(self, i):
        """(path, name for messages), for images.read."""
        path = self.path(i)
        return path, path if self.places is None else f"{self.places[0]}:{self.places[1][i]}: {path}"

    def size(self, i):
        """(width, height) from the header. Raises images.ImageError."""
        return images.image_size(*self.source(i))

    def stamp(self, i):
        """Text that changes with the file: its size and time. Raises OSError where it is not there."""
        info = os.stat(self.path(i))
        return f"{info.st_size} {info.st_mtime_ns}"

    def select(self, positions):
        """The images at ``positions``."""
        places = self.places and (self.places[0], self.places[1][np.asarray(positions, np.int64)])
        return FileImages(self.root, [self.paths[i] for i in positions], places)


class ArrayImages:
    """Images in one array [N, H, W, 3] uint8; splits share the array and hold row numbers."""

    def __init__(self, array, rows=None):
        self.array = array
        self.rows = np.arange(len(array)) if rows is None else rows

    def __len__(self):
        return len(self.rows)

    def read(self, i):
        """uint8 [H, W, 3] RGB, contiguous."""
        return np.ascontiguousarray(self.array[self.rows[i]])

    def size(self, i):
        """(width, height)."""
        return self.array.shape[2], self.array.shape[1]

    def select(self, positions):
        """The images at ``positions``; the array is shared."""
        return ArrayImages(self.array, self.rows[np.asarray(positions, np.int64)])


@dataclasses.dataclass
class Split:
    """Items in a fixed order.

    name: ``train``, ``query`` or ``database``.
    ids: one string an item, the same item has the same id in every split.
    labels: uint8 [N, C] of 0/1, None where there are none.
    images: object with ``len``, ``read(i)`` -> uint8 [H, W, 3] RGB, ``size(i)``, ``select(positions)``; or None.
    features: float32 [N, D] in place of pictures, or None.
    texts: one string an item, or None; text_features: float32 [N, T], or None.
    list_file, lines: where each item was read from, for messages; or None.
    """

    name: str
    ids: List[str]
    labels: Optional[np.ndarray] = None
    images: Any = None
    features: Optional[np.ndarray] = None
    texts: Optional[List[str]] = None
    text_features: Optional[np.ndarray] = None
    list_file: Optional[str] = None
    lines: Optional[np.ndarray] = None

    def __len__(self):
        return len(self.ids)

    def select(self, positions, name=None):
        """The items at ``positions`` (integers), in that order."""
        positions = np.asarray(positions, np.int64)
        rows = [None if column is None else column[positions]
                for column in (self.labels, self.features, self.text_features, self.lines)]
        return Split(name=name or self.name, ids=_pick(self.ids, positions), labels=rows[0],
                     images=None if self.images is None else self.images.select(positions), features=rows[1],
                     texts=None if self.texts is None else _pick(self.texts, positions),
                     text_features=rows[2], list_file=self.list_file, lines=rows[3])

    def where(self, i):
        """``file:line`` of item i, or its split and id."""
        return f"{self.name} item {self.ids[i]}" if self.lines is None else f"{self.list_file}:{self.lines[i]}"

    def sha256(self):
        """64 hex digits over ids and labels in their order."""
        digest = hashlib.sha256("\n".join(self.ids).encode("utf-8", "surrogateescape"))
        if self.labels is not None:
            digest.update(f"\n{self.labels.shape}".encode() + np.ascontiguousarray(self.labels, np.uint8).tobytes())
        return digest.hexdigest()


def _pick(strings, positions):
    """The strings at ``positions``; a list, or (shards.Names) what keeps its strings in one buffer."""
    return strings.select(positions) if hasattr(strings, "select") else [strings[i] for i in positions]


@dataclasses.dataclass
class Protocol:
    """Three splits and how they are ranked.

    topk: length of the ranking that mAP looks at, 0 = all. seed: what the split was drawn from.
    vocabulary: words of the columns of text_features where these are 0/1 (a word occurs or not), or None.
    notes: lines for people, such as what was left out and how many.
    """

    name: str
    train: Split
    query: Split
    database: Split
    classes: List[str]
    topk: int = 0
    seed: int = 0
    vocabulary: Optional[List[str]] = None
    notes: List[str] = dataclasses.field(default_factory=list)

    @property
    def splits(self):
        """The three splits: train, query, database."""
        return self.train, self.query, self.database

    def record(self):
        """Plain values that say exactly which data this is."""
        return {"name": self.name, "seed": self.seed, "topk": self.topk, "classes": len(self.classes),
                "counts": {split.name: len(split) for split in self.splits},
                "sha256": {split.name: split.sha256() for split in self.splits},
                **({"notes": self.notes} if self.notes else {})}


@dataclasses.dataclass(frozen=True)
class Request:
    """How a data set is asked for; ``names.request`` makes one and checks it.

    root: folder of the data, or the archive; None = the set's own place.
    seed: of the split.
    list_dir: folder of the list files; None = the set's own.
    sizes: dict of the split sizes that are asked for, by the names in ``DataSet.sizes``.
    labels: how labels are written, see labels.py: ``auto``, ``index`` or ``multihot``.
    skip_broken: leave out pictures that cannot be read.
    may_draw: a set that this project draws (``shapes``) may be drawn where it is missing.
    on_fault: None = a bad line is raised as InputError; else a callable that gets its message, and it is left out.
    """

    root: Optional[str] = None
    seed: int = 0
    list_dir: Optional[str] = None
    sizes: Dict[str, int] = dataclasses.field(default_factory=dict)
    labels: str = "auto"
    skip_broken: bool = False
    may_draw: bool = True
    on_fault: Optional[Callable[[str], None]] = None


@dataclasses.dataclass(frozen=True)
class DataSet:
    """What is known of a data set before it is loaded: one line of ``list``, or a path of a user.

    load: callable(Request) -> Protocol.
    make: callable(Request, any_count) -> None, prints what it made; None where there is nothing to make.
    counts: (query, train, database) of the literature, or None.
    inside: every train item is in the database. sizes: names of the size flags that load or make take.
    options: which of ``labels`` and ``skip_broken`` of a Request it takes.
    unlabelled: items without any label belong to the set; check counts them, they are no faults.
    seed: the seed when none is given. source: ``licence; where a person obtains the images``.
    recognises: callable(path) -> bool: does the folder or file hold the set's official files? None = never.
    """

    name: str
    load: Callable[[Request], Protocol]
    make: Optional[Callable[[Request, bool], None]] = None
    counts: Optional[tuple] = None
    topk: int = 0
    classes: int = 0
    inside: bool = True
    unlabelled: bool = False
    sizes: tuple = ()
    options: tuple = ()
    seed: int = 0
    source: str = ""
    recognises: Optional[Callable[[str], bool]] = None

    @property
    def licence(self):
        """What ``source`` says before its first semicolon; empty where it has none."""
        return self.source.partition("; ")[0] if "; " in self.source else ""

    @property
    def obtain(self):
        """Where a person obtains the images."""
        return self.source.partition("; ")[2] or self.source


def need_folder(root, what):
    """``root`` as a string, if it is a folder.

    Raises:
        InputError: it is not; ``what`` says what should be there.
    """
    if root is None:
        raise InputError(f"no data folder given; pass one with --data-path that holds {what}")
    if not os.path.isdir(root):
        raise InputError(f"the data folder {root} does not exist; it should hold {what}")
    return os.fspath(root)


def is_hidden(name):
    """Names that people hide and that systems leave behind: no command takes such a file or folder."""
    return name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini", "__macosx", "@eadir")


def holds(*marks):
    """Callable(folder) -> bool: is one of the ``marks`` (relative paths, ``*`` allowed) in the folder?"""
    def test(folder):
        return any(glob.glob(os.path.join(glob.escape(os.fspath(folder)), mark)) for mark in marks)
    return test


def need_items(split):
    """The split, if it has items; raises InputError otherwise."""
    if not len(split):
        place = f" ({split.list_file})" if split.list_file else ""
        raise InputError(f"the {split.name} split{place} is empty")
    return split
