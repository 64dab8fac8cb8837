"""The frame of the named sets whose splits are drawn: official files -> annotations -> lists -> splits.

A set says how its official files are read, how its splits are drawn from what they say, and where its pictures are.
The rest is done here: sizes are compared with what is there, lists are written with their record, printed, and read
back. ``read`` compares counts with the official ones (``compare_counts``), for only it knows what to count.

A folder of such lists holds train.txt, query.txt, database.txt, classes.txt, perhaps texts.jsonl and tags.txt, and
lists.json: protocol, seed, counts and the SHA-256 of every file. Lists of other people, without lists.json, are read as
they are.
"""
import dataclasses
import json
import os
import tempfile
from typing import Any, Callable, Dict, List, Optional

import numpy as np

from utils.datasets import list_file, lists, text_files
from utils.datasets.base import DataSet, Protocol, need_folder
from utils.datasets.matrices import feature_files
from utils.errors import InputError, printable
from utils.files import sha256_file, write_json
from utils.plain_json import read_json

RECORD, TEXTS, TAGS = "lists.json", "texts.jsonl", "tags.txt"


@dataclasses.dataclass
class Annotations:
    """What official files say, before anything is drawn.

    ids: one path a picture, in the order that draws are defined on.
    labels: uint8 [N, C]. classes: names of the C columns.
    texts: one string a picture, or None. vocabulary: words that are columns of the text features, or None.
    record: what lists.json shall say beside seed, counts and SHA-256, in this order.
    """

    ids: List[str]
    labels: np.ndarray
    classes: List[str]
    texts: Optional[List[str]] = None
    vocabulary: Optional[List[str]] = None
    record: Dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ListMaker:
    """One named set that is drawn into lists.

    name: of the protocol. folder: where its lists lie by default.
    read: callable(root, seed, any_count) -> Annotations; the seed is for sets that draw classes.
    draw: callable(Annotations, seed, query, train) -> dict split -> row numbers.
    query, train: sizes of the literature.
    place: callable(root) -> folder that the listed paths start from; None = paths are kept as listed, see ``resolve``.
    resolve: callable(Protocol, root), where pictures are found otherwise than by their listed path.
    inside: training pictures are in the database, else the three splits share nothing.
    topk: of the protocol. what: how a picture is called in messages.
    matrices: a root with ``.mat`` files is read by feature_files.py, unless a folder of lists is named.
    ascii_texts: how texts.jsonl is written; published hashes depend on it.
    """

    name: str
    folder: str
    read: Callable
    draw: Callable
    query: int
    train: int
    place: Optional[Callable] = None
    resolve: Optional[Callable] = None
    inside: bool = True
    topk: int = 0
    what: str = "pictures"
    matrices: bool = False
    ascii_texts: bool = True

    def data_set(self, **facts):
        """The DataSet of this maker; ``facts``: what else it says."""
        return DataSet(name=self.name, load=self.load, make=self.make, topk=self.topk, inside=self.inside, **facts)

    # making --------------------------------------------------------------------------------------
    def make_lists(self, root, list_dir=None, seed=0, query=None, train=None, any_count=False):
        """Write train.txt, query.txt, database.txt, classes.txt, lists.json (and texts.jsonl, tags.txt).

        Args:
            root: folder of the official files.
            list_dir: folder to write to, made if need be; the set's own by default.
            query, train: other sizes than those of the literature.
            any_count: accept other counts than those of the official files.

        Returns:
            the record that lists.json holds.

        Raises:
            InputError: missing or bad files, counts that differ, too few pictures, an unwritable folder.
        """
        query, train = query or self.query, train or self.train
        found = self.read(root, seed, any_count)
        count = len(found.ids)
        if query + train > count:
            raise InputError(f"{query} queries and {train} training images are more than the {count} {self.what} with "
                             "a label; choose --num-query and --num-train")
        if query + train == count and not self.inside:
            raise InputError(f"{query} queries and {train} training images leave no database of the {count} "
                             f"{self.what}")
        rows = self.draw(found, seed, query, train)
        return write(os.fspath(list_dir or self.folder), self.name, seed, self._files(found, rows), **found.record)

    def _files(self, found, rows):
        """dict file name -> text."""
        files = {f"{split}.txt": list_file.write_lines([found.ids[i] for i in some], found.labels[some])
                 for split, some in rows.items()}
        files["classes.txt"] = "".join(f"{name}\n" for name in found.classes)
        if found.texts is not None:
            files[TEXTS] = "".join(json.dumps({"image": name, "text": text}, ensure_ascii=self.ascii_texts) + "\n"
                                   for name, text in zip(found.ids, found.texts))
            files[TAGS] = "".join(f"{tag}\n" for tag in found.vocabulary or ())
        return files

    def make(self, request, any_count=False):
        """``make_lists`` of a Request, with a printed record."""
        if self.matrices and feature_files.mat_files(need_folder(request.root, "the official files")):
            raise InputError(f"{request.root} holds .mat files, which need no lists; look at them with: python -m "
                             f"utils.datasets check {self.name} --root ...")
        record = self.make_lists(request.root, request.list_dir, request.seed, request.sizes.get("num_query"),
                                 request.sizes.get("num_train"), any_count)
        show(request.list_dir or self.folder, record)

    # loading -------------------------------------------------------------------------------------
    def load(self, request):
        """Protocol of a Request, from the lists of ``make`` or, by ``list_dir``, of other people.

        Raises:
            InputError: no pictures, no lists, lists of another protocol or size; as ``lists.load_lists``.
        """
        if self.matrices and request.list_dir is None and feature_files.mat_files(
                need_folder(request.root, "the official files, or .mat files of features")):
            return feature_files.load_features_protocol(request.root, request.seed, self.name, **request.sizes)
        root = self.place(request.root) if self.place else None
        list_dir, note = self._find_lists(request)
        seed = recorded(list_dir, self.name).get("seed", request.seed)
        protocol = lists.load_lists(self.name, root or list_dir, list_dir, seed, self.topk, request.on_fault)
        for split, size in ((protocol.query, request.sizes.get("num_query")),
                            (protocol.train, request.sizes.get("num_train"))):
            if size is not None and len(split) != size:
                raise InputError(f"{split.list_file} holds {len(split)} items, not {size}; the sizes are set when the "
                                 f"lists are made (python -m utils.datasets make {self.name})")
        if self.resolve:
            self.resolve(protocol, root or request.root)
        add_texts(protocol, list_dir)
        protocol.notes += note
        return protocol

    def _find_lists(self, request):
        """(folder of the lists, list with a note where they were found beside the pictures)."""
        list_dir, beside = os.fspath(request.list_dir or self.folder), request.root and os.fspath(request.root)
        if _has_lists(list_dir):
            return list_dir, []
        if request.list_dir is None and beside and _has_lists(beside):
            return beside, [f"the lists in {beside} were taken; there are none in {list_dir}"]
        raise InputError(f"no {self.name} lists in {list_dir}; make them: python -m utils.datasets make {self.name} "
                         "--root DIR, or name the folder of yours with --list-dir")


def _has_lists(folder):
    return len(lists.find_lists(folder)) == len(lists.LIST_NAMES)


def compare_counts(same, message, any_count):
    """Raise InputError with ``message`` where the official counts are not the ``same``, unless any will do."""
    if not same and not any_count:
        raise InputError(f"{message} (--any-count accepts them)")


# the files of a folder of lists --------------------------------------------------------------------
def write(folder, protocol, seed, files, **more):
    """Write all files, or none (they are written beside, then renamed; lists.json is the last).

    Args:
        files: dict file name -> text. more: what else lists.json should say.

    Returns:
        the record that lists.json holds.

    Raises:
        InputError: the folder cannot be written.
    """
    counts = {split: files[f"{split}.txt"].count("\n") for split in ("query", "train", "database")}
    record = {"protocol": protocol, "seed": seed, **more, "counts": counts}
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as temporary:
            for name, text in files.items():
                with open(os.path.join(temporary, name), "w", encoding="utf-8", newline="\n") as file:
                    file.write(text)
            record["sha256"] = {name: sha256_file(os.path.join(temporary, name)) for name in files}
            for name in files:
                os.replace(os.path.join(temporary, name), os.path.join(folder, name))
    except OSError as error:
        raise InputError(f"cannot write the lists to {folder}: {error.strerror or error}") from error
    write_json(os.path.join(folder, RECORD), record)
    return record


def show(folder, record):
    """Print what was made: folder, notes, and the counts and SHA-256 of the files."""
    print(printable(f"{record['protocol']}: lists in {folder}, seed {record['seed']}"))
    for key, value in record.items():
        if key not in ("protocol", "seed", "counts", "sha256"):
            value = ", ".join(f"{name} {count}" for name, count in value.items()) if isinstance(value, dict) else value
            print(printable(f"  {key.replace('_', ' ')}: {value}"))
    for name, digest in record["sha256"].items():
        print(f"  {name:<13}{record['counts'].get(name[:-len('.txt')], ''):>7}  sha256 {digest}")


def recorded(list_dir, protocol):
    """lists.json of a folder as a dict; empty where there is none, as beside lists of other people.

    Raises:
        InputError: it is broken, or belongs to the lists of another protocol.
    """
    path = os.path.join(list_dir, RECORD)
    if not os.path.isfile(path):
        return {}
    try:
        record = read_json(path)
        record["seed"] = int(record["seed"])
    except (ValueError, KeyError, TypeError, OverflowError, OSError) as error:
        raise InputError(f"{path} is broken; make the lists again") from error
    if record.get("protocol") != protocol:
        raise InputError(f"the lists in {list_dir} are those of {record.get('protocol')}, not of {protocol}; "
                         "choose another --list-dir")
    return record


def add_texts(protocol: Protocol, list_dir):
    """Texts of all splits from texts.jsonl, and their 0/1 columns where tags.txt names words; without it: nothing.

    Raises:
        InputError: an item without a text, an unreadable file.
    """
    path = os.path.join(list_dir, TEXTS)
    if not os.path.isfile(path):
        return
    words = [tag for tag in text_files.read_lines(os.path.join(list_dir, TAGS)) if tag]
    text_files.add_texts(protocol, path)
    protocol.vocabulary = words or None
    column = {tag: i for i, tag in enumerate(words)}
    for split in protocol.splits if words else ():
        split.text_features = np.zeros((len(split), len(words)), np.float32)
        for row, text in zip(split.text_features, split.texts):
            row[[column[tag] for tag in text.split(" ") if tag in column]] = 1


# official files --------------------------------------------------------------------------------------
def find_folder(root, places, mark, what):
    """The first of ``places`` (sub-folders of ``root``; "" = itself) that holds ``mark``, a file or folder.

    Raises:
        InputError: there is no root, or none of them does; ``what`` says what is expected, and from where.
    """
    root = need_folder(root, what)
    for place in places:
        if os.path.exists(os.path.join(root, place, mark)):
            return os.path.normpath(os.path.join(root, place))
    raise InputError(f"{os.path.join(root, places[0], mark)} is missing; {root} should hold {what}")


def listing(folder, what):
    """Sorted names in a folder, read once. Raises InputError where it cannot be read."""
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror or error}; it should hold {what}") from None
