"""PASCAL VOC 2012 for hashing: lists from the official annotation files.

The set is the 11,540 pictures of the classification task, ``ImageSets/Main/trainval.txt``; the other pictures of the
archive (17,125 in all) belong to the segmentation and action tasks. A label is 1 where ``Annotations/<id>.xml`` has an
object of the class that is not marked ``difficult``, which is what the official class files (Main/cat_trainval.txt)
call a positive. A picture whose objects are all difficult would have no label and is left out, with a count; the
official set has none. Parts of persons (head, hand, foot) are no objects.

The pictures in the order of trainval.txt's ids are shuffled by ``permutation(n, seed, 60)``: the first 1,000 are the
queries, the next 4,000 train, the remaining 6,540 are the database. The lists of the public code were drawn unseeded:
this is another draw of the same protocol.

An annotation with a document type declaration is refused, and so are entities, which could grow to gigabytes.
"""
import os
import re
from xml.etree import ElementTree

import numpy as np

from utils.datasets import text_files
from utils.datasets.base import DATA, holds
from utils.datasets.protocols.list_maker import Annotations, ListMaker, compare_counts, find_folder, listing
from utils.datasets.seeded import permutation
from utils.errors import InputError

CLASSES = ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
           "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor")
NAME = "voc2012"
IMAGES, QUERY, TRAIN = 11540, 1000, 4000
LARGEST = 1 << 20  # bytes of an annotation; the official ones have a few kB
_PLACES = (os.path.join("VOCdevkit", "VOC2012"), "VOC2012", "")
_TRAINVAL = os.path.join("ImageSets", "Main", "trainval.txt")
_WHAT = "VOCdevkit/VOC2012 (unpack VOCtrainval_11-May-2012.tar from http://host.robots.ox.ac.uk/pascal/VOC/voc2012/)"
_SOURCE = "images by Flickr's terms, for research; http://host.robots.ox.ac.uk/pascal/VOC/voc2012/ (trainval)"


def read_annotation(path):
    """uint8 [20], 1 where the picture has an object of the class that is not difficult.

    Raises:
        InputError: unreadable, no XML, a document type declaration, an object without a name or of an unknown class.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(data) > LARGEST:
        raise InputError(f"{path} is larger than {LARGEST >> 20} MB: no annotation of VOC")
    labels = np.zeros(len(CLASSES), np.uint8)
    try:
        text = data.decode("utf-8-sig")
        # decoded here, so that no other encoding can hide a declaration
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise InputError(f"{path} has a document type declaration, which no annotation of VOC has")
        objects = ElementTree.fromstring(text).findall("object")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start})") from None
    except (ElementTree.ParseError, ValueError) as error:
        raise InputError(f"{path} is broken XML ({error}); unpack the annotations again") from None
    for number, item in enumerate(objects, 1):
        name = (item.findtext("name") or "").strip()
        if name not in CLASSES:
            raise InputError(f"{path}: object {number} is of the unknown class '{name[:40]}'")
        if (item.findtext("difficult") or "0").strip() != "1":
            labels[CLASSES.index(name)] = 1
    return labels


def read_ids(path):
    """The picture ids of trainval.txt, in order.

    Raises:
        InputError: unreadable file, or a line that is no id or comes twice, as file:line.
    """
    ids = {}
    for number, line in enumerate(text_files.read_lines(path), 1):
        name = line.strip()
        if not name:
            continue
        if not re.fullmatch(r"[A-Za-z0-9_]+", name):
            raise InputError(f"{path}:{number}: '{name[:40]}' is no picture id such as 2008_000008")
        if name in ids:
            raise InputError(f"{path}:{number}: {name} is already in line {ids[name]}")
        ids[name] = number
    return ids


def read(root, seed, any_count):
    """Annotations of the pictures of trainval.txt that have a label, in the order of their ids.

    Args:
        root: the folder that holds VOCdevkit, or VOCdevkit or VOC2012 itself.
        any_count: accept another number of pictures than the official one.

    Raises:
        InputError: a missing or broken file, counts that differ.
    """
    base = find_folder(root, _PLACES, _TRAINVAL, _WHAT)
    trainval = os.path.join(base, _TRAINVAL)
    ids = read_ids(trainval)
    for folder, ending in (("JPEGImages", ".jpg"), ("Annotations", ".xml")):
        there = set(listing(os.path.join(base, folder), f"the {folder} of VOC 2012"))
        for name, number in ids.items():
            if name + ending not in there:
                raise InputError(f"{trainval}:{number}: {os.path.join(base, folder, name + ending)} is missing")
    names = sorted(ids)
    labels = np.array([read_annotation(os.path.join(base, "Annotations", f"{name}.xml")) for name in names], np.uint8)
    labels = labels.reshape(len(names), len(CLASSES))
    kept = np.flatnonzero(labels.any(1))
    compare_counts(len(kept) == IMAGES, f"{len(kept)} pictures with a label, but VOC 2012 has {IMAGES}; are the files "
                   "complete?", any_count)
    return Annotations([f"JPEGImages/{names[i]}.jpg" for i in kept], labels[kept], list(CLASSES),
                       record={"pictures": len(kept), "left_out_without_a_label": len(names) - len(kept)})


def draw(found, seed, query, train):
    """Rows of the splits, which share nothing."""
    order = permutation(len(found.ids), seed, 60)
    return {"query": order[:query], "train": order[query:query + train], "database": order[query + train:]}


MAKER = ListMaker(NAME, os.path.join(DATA, NAME), read, draw, QUERY, TRAIN, inside=False,
                  place=lambda root: find_folder(root, _PLACES, "JPEGImages", _WHAT))
make_lists = MAKER.make_lists
DATA_SETS = (MAKER.data_set(counts=(QUERY, TRAIN, IMAGES - QUERY - TRAIN), classes=len(CLASSES), source=_SOURCE,
                            sizes=("num_query", "num_train"),
                            recognises=holds(*(os.path.join(place, _TRAINVAL) for place in _PLACES))),)
