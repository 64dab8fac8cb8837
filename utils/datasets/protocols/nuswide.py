"""NUS-WIDE (Chua et al., CIVR 2009) for hashing: lists from the official annotation files, and lists of other people.

    nuswide_21     pictures with one of the 21 most frequent concepts (195,834); a concept: 100 query, 500 training
    nuswide_10     pictures with one of the 10 most frequent concepts (186,577); a concept: 200 query, 500 training;
                   with tags. Or the DJSRH authors' nus-wide-tc10-*.mat
    nuswide_81_m   the 223,496 pictures of thuml/HashNet that have one of the 81 concepts; 5,000 query, 10,000 training
    nuswide_21_m   the same pictures, 21 concepts; a concept: 100 query, 500 training

The most frequent concepts come in the order of their number of pictures, equal ones in the order of Concepts81.txt; the
81 stay in that file's order. Pictures without any of the concepts are dropped. The pictures of "_m" are those that the
data folder holds, as those of thuml/HashNet were the ones that could be fetched; they are recognised by the Flickr
number in ``<number>_<Flickr number>[_<secret>_m].jpg``.

Pictures are drawn in the order of their names: shares of a concept by ``draw_by_label``, others by
``permutation(n, seed, 31)``. The database is everything but the queries in the order of ``permutation(n, seed, 32)``.
The lists of the papers were drawn unseeded: these are another draw of the same protocols.

Texts of nuswide_10: the 1,000 tags of the papers where AllTags1k.txt is there, else the raw tags of All_Tags.txt, for a
vectoriser. A data folder that holds .mat files is read by feature_files.py, unless a folder of lists is
named.
"""
import collections
import functools
import os

import numpy as np

from utils.datasets import text_files
from utils.datasets.base import DATA, holds, need_folder
from utils.datasets.matrices.splits import SIZES, draw_by_label
from utils.datasets.matrices.splits import TOPK as TOPK_TEXT
from utils.datasets.protocols.list_maker import Annotations, ListMaker, compare_counts
from utils.datasets.protocols.nuswide_files import flickr_number, read_annotations, read_tags
from utils.datasets.seeded import permutation
from utils.errors import InputError

ROWS, CONCEPTS = 269648, 81
PICTURES_M = 223496
TOPK = 5000
# protocol: number of concepts (0 = all), query, training, pictures of the literature (0 = none known), "_m" pictures
PROTOCOLS = {"nuswide_21": (21, 2100, 10500, 195834, False), "nuswide_21_m": (21, 2100, 10500, 0, True),
             "nuswide_81_m": (0, 5000, 10000, 0, True), "nuswide_10": (10, 2000, 5000, 186577, False)}
_FOLDERS = ("Flickr", "images", "image", "")  # of the pictures
_PICTURES = "the pictures of NUS-WIDE: Flickr/<folder>/<picture>.jpg or images/<picture>.jpg"


def read(name, root, seed, any_count):
    """Annotations of the pictures with one of the concepts of ``name``, a key of ``PROTOCOLS``, by their names.

    Args:
        any_count: accept files other than the official ones (another number of pictures or concepts).

    Raises:
        InputError: missing or bad files, counts that differ from the literature's.
    """
    wanted, _, _, pictures, from_disk = PROTOCOLS[name]
    paths, labels, concepts = read_annotations(root)
    compare_counts((len(paths), len(concepts)) == (ROWS, CONCEPTS),
                   f"{root} has {len(paths)} pictures and {len(concepts)} concepts, but NUS-WIDE has {ROWS} and "
                   f"{CONCEPTS}; are the files complete?", any_count)
    record = {}
    if from_disk:
        paths, labels = _on_disk(root, paths, labels)
        record["pictures_in_the_folder"] = len(paths)
        compare_counts(len(paths) == PICTURES_M, f"{root} holds {len(paths)} pictures of NUS-WIDE, but the set of "
                       f"thuml/HashNet has {PICTURES_M}", any_count)
    frequency = labels.sum(0, dtype=np.int64)
    columns = np.argsort(-frequency, kind="stable")[:wanted] if wanted else np.arange(len(concepts))
    keep = np.flatnonzero(labels[:, columns].any(1))
    labels, paths, concepts = labels[keep][:, columns], [paths[i] for i in keep], [concepts[i] for i in columns]
    compare_counts(pictures in (0, len(paths)), f"{len(paths)} pictures have one of the {wanted} most frequent "
                   f"concepts, but the literature has {pictures}; are the files the official ones?", any_count)
    numbers = [number for number in map(flickr_number, paths) if number]
    record.update(pictures_with_a_label=len(paths), literature=pictures or "no count known",
                  pictures_under_two_names=len(numbers) - len(set(numbers)),
                  concepts={concept: int(count) for concept, count in zip(concepts, frequency[columns])})
    found = Annotations(paths, labels, concepts, record=record)
    if name == "nuswide_10":
        found.texts, found.vocabulary, foreign = read_tags(root, paths)
        record.update(tags_from=f"AllTags1k.txt, {len(found.vocabulary)} tags" if found.vocabulary else "All_Tags.txt",
                      without_a_tag=sum(not text for text in found.texts), tag_lines_read_as_latin_1=foreign)
    return found


def draw(name, found, seed, query, train):
    """Rows of the splits, training pictures in the database."""
    if PROTOCOLS[name][0]:
        chosen = draw_by_label(found.labels, query, train, seed=seed)
    else:
        chosen = np.split(permutation(len(found.ids), seed, 31)[:query + train], [query])
    order = permutation(len(found.ids), seed, 32)
    is_query, is_train = (np.isin(order, some) for some in chosen)
    return {"train": order[is_train], "query": order[is_query], "database": order[~is_query]}


def _on_disk(root, paths, labels):
    """Paths (below the picture folder) and labels of the pictures that the data folder holds, by the Flickr number."""
    row_of = {}
    for row, number in enumerate(map(flickr_number, paths)):
        if number:
            row_of.setdefault(number, row)
    found = {}
    for place in ("images", "image", "Flickr", ""):
        folder = os.path.join(root, place)
        for parent, _, names in os.walk(folder):
            for name in names:
                number = flickr_number(name)
                if number in row_of:
                    path = os.path.relpath(os.path.join(parent, name), folder)
                    found[path.replace(os.sep, "/")] = row_of[number]
        if found:
            break
    if not found:
        raise InputError(f"{root} holds no picture of NUS-WIDE (<number>_<Flickr number>_<secret>_m.jpg); the pictures "
                         "there are the set of this protocol; unpack nus_wide.tar.gz of thuml/HashNet there, or make "
                         "nuswide_21")
    names = sorted(found)
    return names, labels[[found[name] for name in names]]


def find_pictures(root, paths):
    """Where the pictures of a list are, whatever folders were kept when they were unpacked.

    Returns:
        folder, n: a picture is ``folder`` + the last n parts of its path in the list; that which finds most of them.

    Raises:
        InputError: none of the pictures of the list is below ``root``.
    """
    names_in, names_of = collections.defaultdict(list), functools.lru_cache(None)(text_files.names_of)
    for path in paths:
        folder, _, name = path.rpartition("/")
        names_in[folder].append(name)

    def found(place, n):
        """How many pictures are there when the last n parts of their folders are kept."""
        count = 0
        for folder, names in names_in.items():
            below = os.path.join(root, place, *folder.split("/")[-n:] if n else ())
            count += len(names_of(below).intersection(names))
        return count

    deepest = max((path.count("/") for path in paths), default=0)
    places = [(place, n) for place in _FOLDERS for n in range(deepest, -1, -1)]
    best = max(places, key=lambda at: found(*at))
    if not found(*best):
        first = ", ".join(paths[:1]) or "it is empty"
        raise InputError(f"{root} holds none of the first pictures of the list ({first}); it should hold {_PICTURES}")
    return os.path.join(root, best[0]), best[1] + 1


def resolve(protocol, root):
    """Point the splits at the pictures below ``root``; their ids stay as listed."""
    folder, depth = find_pictures(need_folder(root, _PICTURES), protocol.query.ids)
    for split in protocol.splits:
        split.images.root = folder
        split.images.paths = ["/".join(item.split("/")[-depth:]) for item in split.ids]


_LICENCE = "images by Flickr's terms, for research"
_OFFICIAL = "https://lms.comp.nus.edu.sg/wp-content/uploads/2019/research/nuswide/NUS-WIDE.html"
_HASHNET = f"pictures and lists of https://github.com/thuml/HashNet, annotations of {_OFFICIAL}"
_OBTAIN = {"nuswide_21": _OFFICIAL, "nuswide_21_m": _HASHNET, "nuswide_81_m": _HASHNET,
           "nuswide_10": f"{_OFFICIAL}, or nus-wide-tc10-iall.mat, -yall.mat, -lall.mat (DJSRH)"}
_RECOGNISES = {"nuswide_21": holds("Groundtruth/*Labels", "NUS-WIDE/Groundtruth/*Labels", "ImageList/Imagelist.txt",
                                   "NUS-WIDE/ImageList/Imagelist.txt"),
               "nuswide_10": holds("nus-wide-tc10*.mat", "NUS-WIDE-TC10*.mat")}
MAKERS = {name: ListMaker(name, os.path.join(DATA, "nuswide", name), functools.partial(read, name),
                          functools.partial(draw, name), query, train, resolve=resolve, ascii_texts=False,
                          topk=TOPK_TEXT if name == "nuswide_10" else TOPK, matrices=name == "nuswide_10")
          for name, (_, query, train, _, _) in PROTOCOLS.items()}
DATA_SETS = tuple(
    maker.data_set(counts=(maker.query, maker.train, pictures - maker.query if pictures else None), sizes=SIZES,
                   classes=concepts or CONCEPTS, source=f"{_LICENCE}; {_OBTAIN[name]}",
                   recognises=_RECOGNISES.get(name))
    for (name, maker), (concepts, _, _, pictures, _) in zip(MAKERS.items(), PROTOCOLS.values()))


def make_lists(name, *arguments, **options):
    """``ListMaker.make_lists`` of a protocol."""
    return MAKERS[name].make_lists(*arguments, **options)
