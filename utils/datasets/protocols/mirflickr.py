"""MIRFLICKR-25000 for hashing, from the official distribution: the supervised and the image-text protocol.

Official files: pictures im1.jpg to im25000.jpg; ``mirflickr25k_annotations_v080/<label>.txt``, the numbers of the
pictures that have the label, one a line: 24 potential labels and 14 stricter ones (``_r1``, relevant), each a subset of
the potential label of its name; ``meta/tags/tags<number>.txt``, the tags of a picture, one a line.

``mirflickr``: all 25,000 pictures, 38 labels in the order of their names. Shuffled by ``permutation(n, seed, 61)``, the
first 1,000 are the queries, the next 4,000 train, the remaining 20,000 are the database. Pictures without any label
are part of it, as they are of the public lists (their queries have nothing to find, so their precision is 0).

``mirflickr_crossmodal``: the 24 potential labels; the tags that at least 20 pictures have (1,386); pictures without a
label or without any of these tags are left out (20,015 stay). 2,000 queries and 5,000 training pictures with equal
shares of every label, the first label's doubled (matrices/splits.py), the database is all but the queries in the
order of ``permutation(n, seed, 62)``. A text is the picture's tags with blanks between; its features are 1 for each of
the 1,386 tags it has. A root with ``.mat`` files is read by feature_files.py, unless ``list_dir`` is given: that is the
one rule that tells the authors' matrices from the official files.

Tag files that are not UTF-8 are read as Latin-1; how many is said. The published splits are unseeded: this is another
draw of the same protocols.
"""
import collections
import os
import re

import numpy as np

from utils.datasets import text_files
from utils.datasets.base import DATA, holds
from utils.datasets.matrices.splits import SIZES, TOPK, draw_by_label
from utils.datasets.protocols.list_maker import Annotations, ListMaker, compare_counts, find_folder, listing
from utils.datasets.seeded import permutation
from utils.errors import InputError

POTENTIAL = ("animals", "baby", "bird", "car", "clouds", "dog", "female", "flower", "food", "indoor", "lake", "male",
             "night", "people", "plant_life", "portrait", "river", "sea", "sky", "structures", "sunset", "transport",
             "tree", "water")
RELEVANT = ("baby_r1", "bird_r1", "car_r1", "clouds_r1", "dog_r1", "female_r1", "flower_r1", "male_r1", "night_r1",
            "people_r1", "portrait_r1", "river_r1", "sea_r1", "tree_r1")
IMAGES, QUERY, TRAIN = 25000, 1000, 4000
CROSSMODAL, CROSSMODAL_QUERY, CROSSMODAL_TRAIN, TAGS, MIN_PICTURES = 20015, 2000, 5000, 1386, 20
ANNOTATIONS = "mirflickr25k_annotations_v080"
_WHAT = ("mirflickr/im1.jpg, ... and mirflickr25k_annotations_v080/ (mirflickr25k.zip and its annotations from "
         "https://press.liacs.nl/mirflickr/mirdownload.html)")
_SOURCE = "Creative Commons, per image; https://press.liacs.nl/mirflickr/mirdownload.html"


# official files --------------------------------------------------------------------------------------------------
def picture_folder(root):
    """The folder of im1.jpg: ``root``/mirflickr, ``root``/mirflickr25k or ``root``. Raises InputError."""
    return find_folder(root, ("mirflickr", "mirflickr25k", ""), "im1.jpg", _WHAT)


def picture_numbers(folder, any_count):
    """The numbers of the pictures im<number>.jpg in ``folder``, ascending.

    Raises:
        InputError: they are not 1 to 25000 and ``any_count`` is false.
    """
    found = (re.fullmatch(r"im([1-9][0-9]*)\.jpg", name) for name in listing(folder, _WHAT))
    numbers = sorted(int(match[1]) for match in found if match)
    if numbers != list(range(1, IMAGES + 1)) and not any_count:
        lost = sorted(set(range(1, IMAGES + 1)) - set(numbers))
        which = f"im{lost[0]}.jpg is missing" if lost else f"im{numbers[-1]}.jpg is none of them"
        raise InputError(f"{folder} holds {len(numbers)} pictures, but MIRFLICKR has im1.jpg to im{IMAGES}.jpg "
                         f"({which}); unpack mirflickr25k.zip again (--any-count accepts them)")
    return numbers


def read_annotations(root, names, numbers):
    """uint8 [pictures, labels]: row i belongs to picture ``numbers[i]``, column k to ``names[k]``.

    Raises:
        InputError: a missing file, or a line that is no number of a picture, as file:line.
    """
    folder = find_folder(root, (ANNOTATIONS, ""), f"{names[0]}.txt", _WHAT)
    row = {number: i for i, number in enumerate(numbers)}
    labels = np.zeros((len(numbers), len(names)), np.uint8)
    for column, name in enumerate(names):
        path = os.path.join(folder, f"{name}.txt")
        if not os.path.isfile(path):
            raise InputError(f"{path} is missing; unpack {ANNOTATIONS}.zip again")
        for line, text in enumerate(text_files.read_lines(path), 1):
            text = text.strip()
            if not text:
                continue
            if not re.fullmatch("[0-9]{1,9}", text):
                raise InputError(f"{path}:{line}: '{text[:40]}' is no picture number")
            if int(text) not in row:
                raise InputError(f"{path}:{line}: {text} is none of the {len(numbers)} pictures, im{numbers[0]}.jpg to "
                                 f"im{numbers[-1]}.jpg")
            labels[row[int(text)], column] = 1
    return labels


def read_tags(folder, numbers):
    """Tags of every picture, and how many files are not UTF-8 (they are read as Latin-1).

    Args:
        folder: of the pictures, which holds meta/tags.

    Returns:
        list of lists of str (blanks inside a tag are dropped, as the official clean tags have none), int.

    Raises:
        InputError: a missing or unreadable file.
    """
    folder = os.path.join(folder, "meta", "tags")
    there = set(listing(folder, "tags1.txt, ..., which are in mirflickr25k.zip"))
    tags, foreign = [], 0
    for number in numbers:
        path = os.path.join(folder, f"tags{number}.txt")
        if f"tags{number}.txt" not in there:
            raise InputError(f"{path} is missing; unpack mirflickr25k.zip again")
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
        text, is_foreign = text_files.utf8_or_latin1(data)
        foreign += is_foreign
        words = ("".join(line.split()) for line in text.split("\n"))
        tags.append([word for word in words if word])
    return tags, foreign


def common_tags(tags, min_pictures=MIN_PICTURES):
    """The tags that at least ``min_pictures`` pictures have: the most frequent first, equals by code points."""
    count = collections.Counter(tag for some in tags for tag in set(some))
    return sorted((tag for tag, n in count.items() if n >= min_pictures), key=lambda tag: (-count[tag], tag))


# annotations and draws -------------------------------------------------------------------------------------------
def read(root, seed, any_count):
    """Annotations of all pictures, 38 labels in the order of their names.

    Args:
        root: folder with mirflickr/ (or mirflickr25k/) and mirflickr25k_annotations_v080/.
        any_count: accept other pictures than the official 25,000.

    Raises:
        InputError: a missing or broken file, other pictures.
    """
    names = sorted(POTENTIAL + RELEVANT)
    numbers = picture_numbers(picture_folder(root), any_count)
    return Annotations([f"im{number}.jpg" for number in numbers], read_annotations(root, names, numbers), names)


def draw(found, seed, query, train):
    """Rows of the splits, which share nothing; the record gets how many pictures of each have no label."""
    order = permutation(len(found.ids), seed, 61)
    rows = {"query": order[:query], "train": order[query:query + train], "database": order[query + train:]}
    found.record["without_a_label"] = {split: int((~found.labels[some].any(1)).sum()) for split, some in rows.items()}
    return rows


def read_crossmodal(root, seed, any_count):
    """Annotations of the pictures with a potential label and a common tag; texts are their tags.

    Raises:
        InputError: as ``read``; counts of pictures or tags that differ from 20,015 and 1,386.
    """
    folder = picture_folder(root)
    numbers = picture_numbers(folder, any_count)
    labels = read_annotations(root, POTENTIAL, numbers)
    tags, foreign = read_tags(folder, numbers)
    vocabulary = common_tags(tags)
    known = set(vocabulary)
    tagged = np.array([not known.isdisjoint(some) for some in tags], bool)
    kept = np.flatnonzero(labels.any(1) & tagged)
    compare_counts((len(kept), len(vocabulary)) == (CROSSMODAL, TAGS),
                   f"{len(kept)} pictures with labels and tags and {len(vocabulary)} tags that at least {MIN_PICTURES} "
                   f"pictures have, but the literature has {CROSSMODAL} and {TAGS}; are the files complete?", any_count)
    return Annotations([f"im{numbers[i]}.jpg" for i in kept], labels[kept], list(POTENTIAL),
                       [" ".join(tags[i]) for i in kept], vocabulary,
                       {"pictures": len(kept), "tags": len(vocabulary),
                        "without_a_label": int((~labels.any(1)).sum()),
                        "with_labels_but_no_common_tag": int((labels.any(1) & ~tagged).sum()),
                        "tag_files_read_as_latin_1": foreign})


def draw_crossmodal(found, seed, query, train):
    """Rows of the splits: equal shares of every label, training pictures in the database."""
    query_rows, train_rows = draw_by_label(found.labels, query, train, 2, seed)
    database = np.setdiff1d(np.arange(len(found.ids)), query_rows)
    return {"query": np.sort(query_rows), "train": np.sort(train_rows),
            "database": database[permutation(len(database), seed, 62)]}


MAKER = ListMaker("mirflickr", os.path.join(DATA, "mirflickr"), read, draw, QUERY, TRAIN, picture_folder, inside=False)
CROSSMODAL_MAKER = ListMaker("mirflickr_crossmodal", os.path.join(DATA, "mirflickr", "crossmodal"), read_crossmodal,
                             draw_crossmodal, CROSSMODAL_QUERY, CROSSMODAL_TRAIN, picture_folder, topk=TOPK,
                             matrices=True)
make_lists, make_crossmodal = MAKER.make_lists, CROSSMODAL_MAKER.make_lists
DATA_SETS = (
    MAKER.data_set(counts=(QUERY, TRAIN, IMAGES - QUERY - TRAIN), classes=len(POTENTIAL + RELEVANT), unlabelled=True,
                   sizes=SIZES, source=_SOURCE,
                   recognises=holds(ANNOTATIONS, "mirflickr/im1.jpg", "mirflickr25k/im1.jpg", f"im{IMAGES}.jpg")),
    CROSSMODAL_MAKER.data_set(counts=(CROSSMODAL_QUERY, CROSSMODAL_TRAIN, CROSSMODAL - CROSSMODAL_QUERY),
                              classes=len(POTENTIAL), sizes=SIZES,
                              source=f"{_SOURCE}, or the .mat files of the DJSRH authors",
                              recognises=holds("[mM][iI][rR][fF][lL][iI][cC][kK][rR]25[kK]*.mat", "FLICKR-25K.mat")))
