"""ImageNet-100 for hashing: 100 classes of ILSVRC 2012 from an ImageNet folder (HashNet's protocol).

The queries are all validation pictures of 100 classes (5,000), the database is all their training pictures (about
128,000), and 100 of these a class train (``imagenet``: 10,000, as in the HashNet paper; ``imagenet-13k``: 130 a class,
as in the lists that the HashNet authors and others published). HashNet's 100 classes were chosen at random: to use
them, name the folder of their lists with ``list_dir``. Ours are another choice: the first 100 of ``permutation(1000,
seed, 70)`` over the sorted WordNet ids. The pictures of a class that train are the first of ``permutation(n, seed, 71,
WordNet number)`` over its sorted names; training set and database are stored in the orders ``permutation(n, seed, 72
and 73)``, the queries by name. Both protocols have the same classes, queries and database.

Folder: ``train/n01440764/*.JPEG`` and ``val/``. The classes of val come from class folders in it or, where it is flat,
from the first of these files:

    LOC_val_solution.csv                        WordNet ids (the Kaggle distribution)
    ILSVRC2012_validation_ground_truth.txt      numbers of the development kit, and its meta.mat or map_clsloc.txt
    val_list.txt or val.txt                     ``[val/]name.JPEG k``, k from 0 in the order of the sorted WordNet ids

The numbers of the ground truth are the development kit's own; they are not lines of synset_words.txt or
LOC_synset_mapping.txt, whose order is that of the sorted WordNet ids. Those two files only name the classes.

A picture's id is train/<class>/<name> or val/<name> wherever it is found, so lists and their hashes do not depend on
the layout. Lists of other people are accepted with any leading folders: the file names are unique and say the rest.
"""
import os
import re

import numpy as np

from utils.datasets import text_files
from utils.datasets.base import DATA, is_hidden, need_folder
from utils.datasets.protocols.list_maker import Annotations, ListMaker, compare_counts, find_folder, listing
from utils.datasets.seeded import permutation
from utils.errors import InputError
from utils.images import IMAGE_ENDINGS

CLASSES, ALL_CLASSES, QUERY, TOPK = 100, 1000, 5000, 1000
TRAIN = {"imagenet": 10000, "imagenet-13k": 13000}
_LISTS = {"imagenet": os.path.join(DATA, "imagenet"), "imagenet-13k": os.path.join(DATA, "imagenet", "13k")}
_WNID = re.compile(r"n[0-9]{8}")
_TRAIN_NAME = re.compile(r"(n[0-9]{8})_[0-9]+\.jpe?g", re.IGNORECASE)
_VAL_NAME = re.compile(r"ILSVRC2012_val_([0-9]{8})\.jpe?g", re.IGNORECASE)
_PLACES = ("", os.path.join("ILSVRC", "Data", "CLS-LOC"), os.path.join("Data", "CLS-LOC"), "ILSVRC2012")
_KIT = ("", "ILSVRC2012_devkit_t12/data", "devkit/data", "ILSVRC/devkit/data", "data", "meta", "val")
_WHAT = "train/n01440764/*.JPEG, ... and val/ of ILSVRC 2012 (https://image-net.org/download-images)"
_SOURCE = "non-commercial research, by agreement; https://image-net.org/download-images (ILSVRC 2012 train and val)"


# who is in which class --------------------------------------------------------------------------------------------
def _pictures(folder):
    """Sorted names of the pictures in a folder."""
    return [name for name in listing(folder, "pictures")
            if name.lower().endswith(IMAGE_ENDINGS) and not is_hidden(name)]


def _class_folders(folder):
    """Sorted names of the class folders in a folder."""
    return [name for name in listing(folder, "class folders") if _WNID.fullmatch(name)]


def _find_file(root, base, name):
    """The first place of a file below ``root`` or ``base``, or None."""
    for folder in (root, base):
        for place in _KIT:
            path = os.path.join(folder, place, name)
            if os.path.isfile(path):
                return path
    return None


def class_names(root, base):
    """dict WordNet id -> ``id name`` from LOC_synset_mapping.txt or synset_words.txt; empty where there is neither.

    Raises:
        InputError: a line that does not begin with a WordNet id, as file:line.
    """
    path = _find_file(root, base, "LOC_synset_mapping.txt") or _find_file(root, base, "synset_words.txt")
    names = {}
    for number, line in enumerate(text_files.read_lines(path) if path else [], 1):
        wnid = line.strip().partition(" ")[0]
        if wnid and not _WNID.fullmatch(wnid):
            raise InputError(f"{path}:{number}: '{line.strip()[:40]}' does not begin with a WordNet id")
        if wnid:
            names[wnid] = line.strip()
    return names


def _read_solution(path):
    """LOC_val_solution.csv -> dict picture without ending -> (WordNet id, line)."""
    found = {}
    for number, line in enumerate(text_files.read_lines(path), 1):
        picture, _, answer = line.strip().partition(",")
        if not picture or (number == 1 and picture == "ImageId"):
            continue
        wnid = answer.strip('" ').partition(" ")[0]
        if not _WNID.fullmatch(wnid):
            raise InputError(f"{path}:{number}: '{answer[:40]}' does not begin with a WordNet id")
        found[picture] = wnid, number
    return found


def kit_classes(root, base, truth):
    """dict number of the development kit -> WordNet id, from meta.mat or map_clsloc.txt.

    Raises:
        InputError: neither is there, or it cannot be read; ``truth`` is the file that needs it.
    """
    path = _find_file(root, base, "map_clsloc.txt")
    if path:
        kit = {}
        for line, text in enumerate(text_files.read_lines(path), 1):
            words = text.split()
            if words and (len(words) < 2 or not _WNID.fullmatch(words[0]) or not words[1].isdigit()):
                raise InputError(f"{path}:{line}: expected '<WordNet id> <number> <name>'")
            if words:
                kit[int(words[1])] = words[0]
        return kit
    path = _find_file(root, base, "meta.mat")
    if path is None:
        raise InputError(f"{truth} needs meta.mat (or map_clsloc.txt) of the development kit beside it: its numbers "
                         "are not those of synset_words.txt")
    from scipy.io import loadmat
    try:
        synsets = np.atleast_1d(loadmat(path, squeeze_me=True, variable_names=["synsets"])["synsets"])
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets if int(row["num_children"]) == 0}
    except Exception as error:  # scipy complains about damaged files in many ways
        raise InputError(f"{path} is no readable meta.mat of ILSVRC 2012 ({str(error).splitlines()[0][:80]})") from None


def _read_truth(path, kit):
    """ILSVRC2012_validation_ground_truth.txt -> dict picture without ending -> (WordNet id, line)."""
    found = {}
    for number, line in enumerate(text_files.read_lines(path), 1):
        line = line.strip()
        if not line:
            continue
        if not line.isdigit() or int(line) not in kit:
            raise InputError(f"{path}:{number}: '{line[:40]}' is none of the {len(kit)} class numbers")
        found[f"ILSVRC2012_val_{number:08d}"] = kit[int(line)], number
    return found


def _read_val_list(path, wnids):
    """val_list.txt or val.txt -> dict picture without ending -> (WordNet id, line)."""
    if len(wnids) != ALL_CLASSES:
        raise InputError(f"{path} counts all {ALL_CLASSES} classes by their sorted WordNet ids, and {len(wnids)} are "
                         "known; put synset_words.txt or LOC_synset_mapping.txt beside it")
    found = {}
    for number, line in enumerate(text_files.read_lines(path), 1):
        words = line.split()
        if not words:
            continue
        name = os.path.basename(words[0])
        if len(words) != 2 or not _VAL_NAME.fullmatch(name) or not words[1].isdigit() or int(words[1]) >= len(wnids):
            raise InputError(f"{path}:{number}: expected '<name>.JPEG <class 0 to {len(wnids) - 1}>'")
        found[os.path.splitext(name)[0]] = wnids[int(words[1])], number
    return found


def _flat_classes(root, base, known):
    """(file, dict picture without ending -> (WordNet id, line)) for a flat val folder."""
    path = _find_file(root, base, "LOC_val_solution.csv")
    if path:
        return path, _read_solution(path)
    path = _find_file(root, base, "ILSVRC2012_validation_ground_truth.txt")
    if path:
        return path, _read_truth(path, kit_classes(root, base, path))
    path = _find_file(root, base, "val_list.txt") or _find_file(root, base, "val.txt")
    if path:
        return path, _read_val_list(path, sorted(known))
    raise InputError(f"{os.path.join(base, 'val')} has no class folders, and {root} no LOC_val_solution.csv, no "
                     "ILSVRC2012_validation_ground_truth.txt (with meta.mat) and no val_list.txt that tell its classes")


def validation_pictures(root, base, wnids, known):
    """dict WordNet id -> sorted picture names in val, for the classes ``wnids``; ``known``: all WordNet ids.

    Raises:
        InputError: the classes are not told, a picture without class or a class without its picture, bad lines.
    """
    val = os.path.join(base, "val")
    folders = set(_class_folders(val))
    if folders:
        for wnid in wnids:
            if wnid not in folders:
                raise InputError(f"{os.path.join(val, wnid)} is missing; val has {len(folders)} other class folders")
        return {wnid: _pictures(os.path.join(val, wnid)) for wnid in wnids}
    names = {os.path.splitext(name)[0]: name for name in _pictures(val)}
    path, classes = _flat_classes(root, base, known)
    for stem, name in names.items():
        if stem not in classes:
            raise InputError(f"{path} does not tell the class of {os.path.join(val, name)}")
    found = {wnid: [] for wnid in wnids}
    for stem, (wnid, line) in classes.items():
        if wnid in found and stem not in names:
            raise InputError(f"{path}:{line}: {os.path.join(val, stem)}.JPEG is missing")
        if wnid in found:
            found[wnid].append(names[stem])
    return {wnid: sorted(some) for wnid, some in found.items()}


# annotations and draws ---------------------------------------------------------------------------------------------
def read(root, seed, any_count):
    """Annotations of 100 classes that the seed draws: all their training pictures, then their validation pictures.

    Args:
        root: the folder of train/ and val/, or that of the Kaggle distribution.
        any_count: accept other numbers of classes and queries than the official ones.

    Raises:
        InputError: a missing folder or file, classes that are not told, counts that differ.
    """
    base = find_folder(root, _PLACES, "train", _WHAT)
    known = _class_folders(os.path.join(base, "train"))
    if len(known) != ALL_CLASSES and not any_count or len(known) < CLASSES:
        raise InputError(f"{os.path.join(base, 'train')} has {len(known)} class folders (n01440764, ...), ILSVRC 2012 "
                         f"has {ALL_CLASSES}; the choice of {CLASSES} depends on them (--any-count accepts {CLASSES} "
                         "or more)")
    wnids = sorted(known[i] for i in permutation(len(known), seed, 70)[:CLASSES])
    names = class_names(root, base)
    queries = validation_pictures(root, base, wnids, set(names) if len(names) == ALL_CLASSES else set(known))
    paths, columns = [], []
    for column, wnid in enumerate(wnids):
        own = _pictures(os.path.join(base, "train", wnid))
        paths += [f"train/{wnid}/{name}" for name in own]
        columns += [column] * len(own)
    asked = sorted((f"val/{name}", column) for column, wnid in enumerate(wnids) for name in queries[wnid])
    compare_counts(len(asked) == QUERY, f"{len(asked)} validation pictures of {CLASSES} classes, but ILSVRC 2012 has "
                   f"{QUERY}; is val complete?", any_count)
    return Annotations(paths + [path for path, _ in asked],
                       np.eye(CLASSES, dtype=np.uint8)[columns + [column for _, column in asked]],
                       [names.get(wnid, wnid) for wnid in wnids])


def draw(found, seed, query, train):
    """Rows of the splits: as many training pictures of every class from the database; all validation pictures ask."""
    if train % CLASSES:
        raise InputError(f"--num-train must be a multiple of {CLASSES}, the number of classes, not {train}")
    trains = np.array([path.startswith("train/") for path in found.ids], bool)
    column, chosen = found.labels.argmax(1), []
    for c in range(CLASSES):
        rows = np.flatnonzero(trains & (column == c))
        wnid = found.ids[rows[0]].split("/")[1] if len(rows) else found.classes[c]
        if len(rows) < train // CLASSES:
            raise InputError(f"train/{wnid} has {len(rows)} pictures, {train // CLASSES} a class are to train")
        chosen.append(rows[permutation(len(rows), seed, 71, int(wnid[1:]))[:train // CLASSES]])
    chosen = np.concatenate(chosen)
    return {"train": chosen[permutation(len(chosen), seed, 72)], "database": permutation(int(trains.sum()), seed, 73),
            "query": np.flatnonzero(~trains)}


# loading -----------------------------------------------------------------------------------------------------------
def place(root):
    """The folder that listed paths start from."""
    root = need_folder(root, _WHAT)
    places = [os.path.normpath(os.path.join(root, place)) for place in _PLACES]
    return next((place for place in places if os.path.isdir(os.path.join(place, "train"))), root)


def resolve(protocol, base):
    """Ids and files of splits whose lists come from another layout, by the file names alone."""
    val = os.path.join(base, "val")
    folders = _class_folders(val) if os.path.isdir(val) else []
    for split in protocol.splits:
        if not len(split) or split.images.any_there():
            continue
        file_of = {name: f"val/{wnid}/{name}" for wnid in folders for name in _pictures(os.path.join(val, wnid))} \
            if any(_VAL_NAME.fullmatch(os.path.basename(path)) for path in split.ids) else {}
        ids, files = [], []
        for path in split.ids:
            name = os.path.basename(path)
            match = _TRAIN_NAME.fullmatch(name)
            if match:
                path = f"train/{match[1]}/{name}"
            elif _VAL_NAME.fullmatch(name):
                path = f"val/{name}"
            ids.append(path)
            files.append(file_of.get(name, path))
        split.ids, split.images.paths = ids, files


def recognises(folder):
    """Whether a folder holds class folders of ILSVRC 2012, as many as the protocol needs."""
    return any(sum(bool(_WNID.fullmatch(name)) for name in os.listdir(train)) >= CLASSES
               for train in (os.path.join(folder, place, "train") for place in _PLACES) if os.path.isdir(train))


MAKERS = {name: ListMaker(name, _LISTS[name], read, draw, 0, train, place, resolve, topk=TOPK)
          for name, train in TRAIN.items()}
DATA_SETS = tuple(maker.data_set(counts=(QUERY, maker.train, None), classes=CLASSES, sizes=("num_train",),
                                 source=_SOURCE, recognises=recognises) for maker in MAKERS.values())


def make_lists(*arguments, protocol="imagenet", **options):
    """``ListMaker.make_lists`` of a protocol."""
    return MAKERS[protocol].make_lists(*arguments, **options)
