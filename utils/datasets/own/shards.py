"""Pictures in ``.tar`` shards of the WebDataset layout, read at random places.

    --dataset 'shards/{000000..000099}.tar'     or a folder of .tar files, or one .tar

Layout: members whose names differ only behind the first dot of the file name are one item: ``cat/001.jpg`` (any
ending of IMAGE_ENDINGS) with ``cat/001.cls`` (a class number), ``cat/001.txt`` (a text, UTF-8) and
``cat/001.json`` (``label`` or ``labels``: class numbers or names; ``text`` or ``caption``). The id of an item is the
name of its picture's member; ``__id__`` in the .json gives another one. ``classes.txt`` beside the shards names the
classes. A picture with further dots in its name (``a.b.jpg``) is an item of its own where no ``a.jpg`` is there, and a
further field of ``a.jpg`` (a mask, say) where there is. Other endings, names that begin with a dot or with two
underscores, and folders, are left out. The members of an item need not be neighbours.

Beside image lists (``train.txt`` ...) shards take the place of the picture files: ``attach`` does this for every
protocol whose pictures are not found below the data folder.

Access. Our training order is a function of (seed, epoch, position), so members are read by offset: one pass over the
headers with ``tarfile`` gives names, offsets, labels and texts, then every picture is one ``os.pread``. Nothing is ever
unpacked. ``webdataset`` streams shards in their own order and cannot do that; its indexed sibling ``wids`` imports
torch, keeps its index as a pickle, and is no longer part of webdataset 1.0. The pass takes 20 to 50 us a member, so
sets of 10,000 members and more get an index beside each shard (``000000.tar.index``, numpy without pickle, 50 bytes an
item), which is used as long as the shard has the size and time that it was made from. Where the folder cannot be
written there is no index and no complaint.

Faults, as InputError or (``check``) one by one: a compressed tar; a tar that ends early or is damaged (named with its
last whole member); links, devices and sparse members; names with ``..``; two pictures for one item, an item twice, in
one shard or in two; labels or texts without a picture; a broken .json, .cls or .txt; labels for some items only; a
shard that a pattern names and that is not there; no shard; no picture.
"""
import collections.abc
import dataclasses
import glob
import itertools
import os
import re

import numpy as np

from utils.datasets import lists
from utils.datasets.base import DataSet, FileImages, Protocol, Split
from utils.datasets.labels import zeros
from utils.datasets.own import splits, tar_items
from utils.datasets.own.item_table import ItemTable, complain
from utils.errors import InputError
from utils.image_header import check_bytes
from utils.images import IMAGE_ENDINGS, ImageError, image_size
from utils.images import decode as images_decode
from utils.plain_json import parse_json

PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
INDEX_FROM = 10_000     # members of a set: fewer are read in a second
MOST_SHARDS = 1_000_000
_OPEN_FILES = 256       # shards that stay open in a process


class Names(collections.abc.Sequence):
    """Strings in one buffer: 12 bytes each and their UTF-8, not a Python object each.

    Args:
        buffer: uint8 array that holds all of them.
        start: int64 [N], first byte of each. size: int32 [N], bytes of each.
    """

    def __init__(self, buffer, start, size):
        self.buffer, self.start, self.size = buffer, start, size

    def __len__(self):
        return len(self.start)

    def __getitem__(self, i):
        if isinstance(i, slice):
            return self.select(np.arange(len(self))[i])
        return self.encoded(i).decode("utf-8", "surrogateescape")

    def __eq__(self, other):
        return len(self) == len(other) and all(map(str.__eq__, self, other))

    def encoded(self, i):
        """Bytes of string i."""
        return self.buffer[self.start[i]:self.start[i] + self.size[i]].tobytes()

    def select(self, positions):
        """The strings at ``positions``; the buffer is shared."""
        return Names(self.buffer, self.start[positions], self.size[positions])

    def sortable(self):
        """Array of fixed-width bytes [N], in the order of code points."""
        return np.array([self.encoded(i) for i in range(len(self))], dtype=np.bytes_)


class _Files:
    """Open shards of a process. pread has no position, so threads and forked workers may share them."""

    def __init__(self, paths, times):
        self.paths, self.times, self.open = paths, times, {}

    def __getstate__(self):
        return {**self.__dict__, "open": {}}

    def read(self, number, offset, size):
        """Bytes of one member. Raises OSError."""
        file = self.open.get(number)
        if file is None:
            file = open(self.paths[number], "rb", 0)
            if len(self.open) < _OPEN_FILES:  # any other is closed after this picture
                file = self.open.setdefault(number, file)
        return os.pread(file.fileno(), size, offset)


class ShardImages:
    """Pictures inside shards. About 30 bytes an item beside the names; cheap to pickle or fork."""

    def __init__(self, files, names, shard, offset, size):
        self.files, self.names, self.shard, self.offset, self.sizes = files, names, shard, offset, size

    def __len__(self):
        return len(self.shard)

    @property
    def root(self):
        """Folder of the shards."""
        return os.path.dirname(self.files.paths[0]) or "."

    def stamp(self, i):
        """Text that changes with the picture: its size and place, and the time of its shard."""
        return f"{self.sizes[i]} {self.offset[i]} {self.files.times[self.shard[i]]}"

    def where(self, i):
        """``shard.tar:member`` of item i, for messages."""
        return f"{self.files.paths[self.shard[i]]}:{self.names[i]}"

    def encoded(self, i):
        """The picture file's bytes. Raises ImageError where the shard cannot be read any more."""
        size = int(self.sizes[i])
        check_bytes(size, self.where(i))
        try:
            data = self.files.read(int(self.shard[i]), int(self.offset[i]), size)
        except OSError as error:
            raise ImageError(f"{self.where(i)}: cannot be read: {error.strerror or error}") from error
        if len(data) < size:
            raise ImageError(f"{self.where(i)}: the shard has become shorter since it was opened")
        return data

    def source(self, i):
        """(bytes of the picture file, name for messages), for images_read."""
        return self.encoded(i), self.where(i)

    def read(self, i):
        """uint8 [H, W, 3] RGB. Raises ImageError."""
        return images_decode(*self.source(i))

    def size(self, i):
        """(width, height) from the header. Raises ImageError."""
        return image_size(*self.source(i))

    def select(self, positions):
        """The pictures at ``positions``."""
        return ShardImages(self.files, self.names.select(positions), self.shard[positions], self.offset[positions],
                           self.sizes[positions])


# which files -------------------------------------------------------------------------------------
def names_shards(path):
    """True where ``path`` asks for shards: its ending, or a folder of .tar files without lists, pictures, folders."""
    path = os.fspath(path)
    if not os.path.isdir(path):
        return path.lower().endswith((".tar", *PACKED))
    if not _tars_in(path) or lists.find_lists(path):
        return False
    return not any(entry.name.lower().endswith(IMAGE_ENDINGS) or entry.is_dir()
                   for entry in os.scandir(path) if not entry.name.startswith("."))


def _tars_in(folder):
    return sorted(glob.glob(os.path.join(glob.escape(folder), "*.tar"))) if os.path.isdir(folder) else []


def find_shards(path):
    """A .tar, a pattern with ``{000..099}`` or ``{a,b}``, or a folder -> list of .tar files.

    Raises:
        InputError: there is none, one of a pattern is missing, or they are compressed.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        if not _tars_in(path):
            raise InputError(f"the folder {path} holds no .tar file")
        return _tars_in(path)
    paths = [path] if os.path.exists(path) else expand_braces(path)
    if not paths:
        raise InputError(f"{path} names no shard")
    missing = [name for name in paths if not os.path.isfile(name)]
    if missing:
        more = f" (and {len(missing) - 1} more of the {len(paths)} that {path} names)" if len(paths) > 1 else ""
        raise InputError(f"there is no shard {missing[0]}{more}")
    return paths


def expand_braces(pattern):
    """``a-{08..10}.tar`` -> a-08.tar, a-09.tar, a-10.tar; ``{x,y}`` -> each of them; other braces stay."""
    parts, count = [], 1
    for part in re.split(r"(\{[^{}]*\})", pattern):
        bounds = re.fullmatch(r"\{(\d+)\.\.(\d+)\}", part)
        if bounds:
            first, last = bounds.groups()
            size = int(last[:18]) - int(first[:18]) + 1
        else:
            choices = part[1:-1].split(",") if part.startswith("{") and "," in part else [part]
            size = len(choices)
        count *= max(size, 0)
        if count > MOST_SHARDS or bounds and len(last) > 18:
            raise InputError(f"{pattern} names too many shards, more than {MOST_SHARDS}")
        parts.append([f"{i:0{len(first)}d}" for i in range(int(first), int(last) + 1)] if bounds else choices)
    return ["".join(choice) for choice in itertools.product(*parts)]


# all shards --------------------------------------------------------------------------------------
def open_shards(path, on_fault=None):
    """All items of a set of shards, sorted by their ids: how they are cut into shards changes nothing.

    Without labels in .cls or .json, items that all lie in folders, two or more, have the folder's name as their class.

    Args:
        path: see ``find_shards``.
        on_fault: None, or a callable that gets the message of each fault; what is at fault is then left out.

    Returns:
        Split ``all`` (ids and texts are ``Names``), class names.

    Raises:
        InputError: see above.
    """
    faults = []

    def fault(message):
        faults.append(message)
        complain(message, on_fault)

    paths = find_shards(path)
    parts, times, scanned = [], [], {}
    for shard in paths:
        stamp = tar_items.stamp_of(shard)
        columns = tar_items.read_index(shard, stamp)
        if columns is None:
            before = len(faults)
            columns, members = tar_items.scan(shard, fault)
            if len(faults) == before:
                scanned[shard] = columns, stamp, members
        parts.append(columns)
        times.append(stamp[2])
    if sum(members for _, _, members in scanned.values()) >= INDEX_FROM:
        for shard, (columns, stamp, _) in scanned.items():
            tar_items.write_index(shard, columns, stamp)
    table = {name: np.concatenate([part[name] for part in parts]) for name in parts[0] if name != "values"}
    if not len(table["offset"]):
        raise InputError(f"{paths[0]}{f' to {paths[-1]}' if len(paths) > 1 else ''}: no picture in the shards")
    names = _names(table["names"], table["name_size"])
    number = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part["offset"]) for part in parts])
    images = ShardImages(_Files(paths, times), names, number, table["offset"], table["size"])
    texts = _names(table["texts"], table["text_size"]) if (table["text_size"] >= 0).any() else None
    labels, classes = _labels(parts, table, images, os.path.dirname(paths[0]), fault)
    order = _sorted_once(images, fault)
    pool = Split("all", names, labels, images, texts=texts)
    if not np.array_equal(order, np.arange(len(pool))):
        pool = pool.select(order)
    return pool, classes


def _names(buffer, size):
    size = size.clip(0)
    return Names(buffer, np.cumsum(size, dtype=np.int64) - size, size)


def _sorted_once(images, fault):
    """int64 rows in the order of their ids, without those whose id came before."""
    keys = images.names.sortable()
    order = np.argsort(keys, kind="stable")
    again = np.nonzero(keys[order[1:]] == keys[order[:-1]])[0] + 1
    for at in again:
        fault(f"{images.where(order[at])}: the item is already in {images.files.paths[images.shard[order[at - 1]]]}")
    return np.delete(order, again)


def _labels(parts, table, images, folder, fault):
    """(uint8 [N, C] or None, class names)."""
    counts = table["label_count"]
    if (counts < 0).all():
        return _folder_labels(images.names)
    for row in np.nonzero(counts < 0)[0]:
        fault(f"{images.where(row)}: has no label, and others have")
    values = [parse_json(part["values"].tobytes()) for part in parts]
    known = {value for some in values for value in some}
    named = any(isinstance(value, str) for value in known)
    classes = lists.read_classes(folder, 0)
    if not known and not classes:
        return None, []
    if not all(isinstance(value, str) for value in known) and named and not classes:
        raise InputError(f"{images.files.paths[0]}: labels are class numbers in some items and names in others")
    if not classes:
        classes = sorted(known) if named else [f"class_{i}" for i in range(max(known, default=-1) + 1)]
    place = {**dict(enumerate(range(len(classes)))), **{name: i for i, name in enumerate(classes)}}
    for value in known - set(place):
        raise InputError(f"label {value!r} in the shards is none of the {len(classes)} classes of "
                         f"{os.path.join(folder, 'classes.txt')}")
    columns = [np.array([place[value] for value in some], np.int64)[part["label"]]
               for some, part in zip(values, parts)]
    labels = zeros(len(counts), len(classes), images.files.paths[0])
    labels[np.repeat(np.arange(len(counts)), counts.clip(0)), np.concatenate(columns)] = 1
    return labels, classes


def class_folders(ids):
    """Sorted names of the first folders of the ids, where all lie in folders, two or more; else an empty list."""
    found = set()
    for name in ids:
        folder, slash, _ = name.partition("/")
        if not slash:
            return []
        found.add(folder)
    return sorted(found) if len(found) > 1 else []


def _folder_labels(names):
    """Labels by the first folder of the ids, as ``class_folders`` says; else (None, [])."""
    classes = class_folders(names)
    if not classes:
        return None, []
    place = {name: i for i, name in enumerate(classes)}
    labels = zeros(len(names), len(classes), "the folders of the shards")
    labels[np.arange(len(names)), [place[name.partition("/")[0]] for name in names]] = 1
    return labels, classes


# as a data set -----------------------------------------------------------------------------------
def data_set(path):
    """DataSet of a set of shards, for ``--dataset PATH``; split by size flags as a folder of pictures is."""
    path = os.fspath(path)
    name = re.sub(r"(\.tar)?(\.\w+)?$", "", os.path.basename(os.path.abspath(path))) or path

    def load(request):
        if request.list_dir:
            if not os.path.isdir(path):
                raise InputError(f"--list-dir goes with a folder of shards, and {path} is none")
            return splits.load_lists(name, path, dataclasses.replace(request, root=None))  # see attach
        pool, classes = open_shards(path, request.on_fault)
        notes = []
        if request.skip_broken and request.on_fault is None:
            pool, notes = without_broken(pool)
        query, train, database = splits.draw_split(ItemTable("", pool.ids, pool.labels, classes), request.seed,
                                                   request.sizes, path)
        return Protocol(name, pool.select(train, "train"), pool.select(query, "query"),
                        pool.select(database, "database"), classes, seed=request.seed, notes=notes)

    return DataSet(name=path, load=load, inside=False, sizes=splits.SIZES, options=("skip_broken",),
                   source="your own; your own images")


def gallery(path, root=None):
    """All pictures of shards, or of what splits.py reads, to be searched: (Split, class names, notes).

    Raises:
        InputError: as ``open_shards`` and splits.gallery.
    """
    if not names_shards(path):
        return splits.gallery(path, root)
    pool, classes = open_shards(path)
    return dataclasses.replace(pool, name="gallery"), classes, []


def without_broken(pool):
    """(the Split without pictures that cannot be decoded, list with a note about them).

    Raises:
        InputError: none is left.
    """
    good, broken = [], []
    for i in range(len(pool)):
        try:
            pool.images.read(i)
            good.append(i)
        except ImageError as error:
            broken.append(str(error))
    if not good:
        raise InputError(f"no picture can be read: {broken[0]}")
    note = f"{len(broken)} broken pictures were left out (--skip-broken): {'; '.join(broken[:3])}"
    return (pool.select(good), [note]) if broken else (pool, [])


def attach(protocol, on_fault=None):
    """Take the pictures (and texts) of a protocol from shards, where its own files are not there and shards are.

    Args:
        protocol: Protocol; splits whose pictures are files below a root with .tar files in it are changed in place.
        on_fault: as in ``open_shards``; items that no shard holds are then left out.

    Raises:
        InputError: as ``open_shards``, or an item is in none of the shards.
    """
    pools = {}
    for split in protocol.splits:
        images = split.images
        if not isinstance(images, FileImages) or not len(images) or images.any_there():
            continue
        if not _tars_in(images.root):
            continue
        if images.root not in pools:
            pool = open_shards(images.root, on_fault)[0]
            keys = pool.ids.sortable()
            order = np.argsort(keys, kind="stable")
            pools[images.root] = pool, keys[order], order
        _attach_split(split, *pools[images.root], on_fault)
    return protocol


def _attach_split(split, pool, keys, order, on_fault):
    wanted = np.array([name.encode("utf-8", "surrogateescape") for name in split.images.paths], dtype=np.bytes_)
    place = np.searchsorted(keys, wanted).clip(0, len(keys) - 1)
    found = keys[place] == wanted
    for i in np.nonzero(~found)[0]:
        complain(f"{split.where(i)}: {split.ids[i]} is in none of the shards in {split.images.root}", on_fault)
    rows = order[place[found]]
    if not found.all():
        rest = split.select(np.nonzero(found)[0])
        split.ids, split.labels, split.lines = rest.ids, rest.labels, rest.lines
    split.images = pool.images.select(rows)
    if split.texts is None and pool.texts is not None:
        split.texts = pool.texts.select(rows)
