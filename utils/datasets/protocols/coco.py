"""COCO 2014 for hashing: lists from the official annotation files (HashNet's protocol).

All images of train2014 and val2014 with at least one object are taken in the order of their names and shuffled by
``permutation(n, seed, 20)``: the first 5,000 are the queries, the rest is the database in that order. The training
images are the first 10,000 of ``permutation(n - queries, seed, 21)`` over the database. A label is 1 where the image
has an object of the category; categories are ordered by their id. The lists of the papers were drawn unseeded: this
is another draw of the same protocol.
"""
import os
import reprlib

import numpy as np

from utils.datasets.base import DATA, holds, need_folder
from utils.datasets.protocols.list_maker import Annotations, ListMaker, compare_counts
from utils.datasets.seeded import permutation
from utils.datasets.text_files import whole_text
from utils.errors import InputError, printable
from utils.plain_json import read_json

FILES = ("instances_train2014.json", "instances_val2014.json")
IMAGES, QUERY, TRAIN, CATEGORIES, TOPK = 122218, 5000, 10000, 80, 5000
_SOURCE = ("annotations CC BY 4.0, images by Flickr's terms; https://cocodataset.org/#download (2014 train, val and "
           "their annotations)")


def read_file(path, folder):
    """One official file -> (paths ``folder/file_name``, category ids of each image as sets, dict id -> category name).

    Raises:
        InputError: unreadable, no JSON, or not the layout of COCO's instances files.
    """
    try:
        # outlines are most of the file and not needed: each of their numbers becomes the one object False or True
        content = read_json(path, parse_float=bool, largest=None)  # 450 MB are usual
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); download the annotations again") from error
    try:
        names = {_id(row["id"]): _name(row["file_name"]) for row in content["images"]}
        found = {image: set() for image in names}
        for row in content["annotations"]:
            found[_id(row["image_id"])].add(_id(row["category_id"]))
        categories = {_id(row["id"]): _name(row["name"]) for row in content["categories"]}
    except KeyError as error:
        raise InputError(f"{path} has not the layout of COCO's instances files ({error} is missing)") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} has not the layout of COCO's instances files ({error})") from error
    order = sorted(names, key=lambda image: names[image])
    return [f"{folder}/{names[image]}" for image in order], [found[image] for image in order], categories


def _id(value):
    if type(value) is not int:  # a fraction has become a bool
        raise TypeError(f"{reprlib.repr(value)} is no number of an image or category")
    return value


def _name(value):
    if whole_text(value) != printable(value) or value != value.strip() or not value:
        raise ValueError(f"'{value[:60]}' is no file name or category")
    return value


def read(root, seed, any_count):
    """Annotations of both official files, the pictures with an object in the order of their names.

    Args:
        root: folder with annotations/instances_train2014.json and instances_val2014.json (or these files directly).
        any_count: accept another number of images or categories than the official one.

    Raises:
        InputError: missing or foreign annotation files, counts that differ.
    """
    paths, objects, categories = [], [], {}
    for name in FILES:
        some = read_file(_annotation(root, name), name[len("instances_"):-len(".json")])
        paths += some[0]
        objects += some[1]
        categories.update(some[2])
    column = {category: i for i, category in enumerate(sorted(categories))}
    labelled = [i for i, found in enumerate(objects) if found]
    labels = np.zeros((len(labelled), len(column)), np.uint8)
    for row, i in enumerate(labelled):
        unknown = objects[i] - set(column)
        if unknown:
            raise InputError(f"{paths[i]} has an object of the unknown category {min(unknown)}")
        labels[row, [column[category] for category in objects[i]]] = 1
    compare_counts((len(labelled), len(column)) == (IMAGES, CATEGORIES),
                   f"{len(labelled)} images with an object and {len(column)} categories, but COCO 2014 has {IMAGES} "
                   f"and {CATEGORIES}; are the files complete?", any_count)
    return Annotations([paths[i] for i in labelled], labels, [categories[category] for category in column],
                       record={"pictures_with_a_label": len(labelled)})


def draw(found, seed, query, train):
    """Rows of the splits: queries first, training pictures from the database."""
    order = permutation(len(found.ids), seed, 20)
    database = order[query:]
    return {"train": database[permutation(len(database), seed, 21)[:train]], "query": order[:query],
            "database": database}


def _annotation(root, name):
    root = need_folder(root, "annotations/instances_train2014.json and annotations/instances_val2014.json")
    for path in (os.path.join(root, "annotations", name), os.path.join(root, name)):
        if os.path.isfile(path):
            return path
    raise InputError(f"{os.path.join(root, 'annotations', name)} is missing; unpack annotations_trainval2014.zip from "
                     f"https://cocodataset.org/#download in {root}, or have it done: python -m utils.datasets download "
                     f"coco --root {root}")


MAKER = ListMaker("coco", os.path.join(DATA, "coco"), read, draw, QUERY, TRAIN, topk=TOPK, what="images",
                  place=lambda root: need_folder(root, "train2014/ and val2014/ of COCO 2014"))
make_lists = MAKER.make_lists
DATA_SETS = (MAKER.data_set(counts=(QUERY, TRAIN, IMAGES - QUERY), classes=CATEGORIES, source=_SOURCE,
                            sizes=("num_query", "num_train"),
                            recognises=holds("train2014", "val2014", *FILES,
                                             *(f"annotations/{name}" for name in FILES))),)
