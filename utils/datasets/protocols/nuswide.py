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
vectoriser. A data folder that holds .mat files is read by features.py, unless a folder of lists is named.
"""
import functools
import json
import os

import numpy as np

from utils.datasets import lists
from utils.datasets.base import DATA, Spec, holds, need_folder
from utils.datasets.matrices import feature_files as features
from utils.datasets.matrices.splits import SIZES, draw_by_label
from utils.datasets.matrices.splits import TOPK as TOPK_TEXT
from utils.datasets.protocols import list_maker as made
from utils.datasets.protocols import shapes
from utils.datasets.protocols.nuswide_files import flickr_number, read_annotations, read_tags
from utils.datasets.seeded import permutation
from utils.errors import InputError

ROWS, CONCEPTS = 269648, 81
PICTURES_M = 223496
TOPK = 5000
# protocol: number of concepts (0 = all), query, training, pictures of the literature (0 = none known), "_m" pictures
PROTOCOLS = {"nuswide_21": (21, 2100, 10500, 195834, False), "nuswide_21_m": (21, 2100, 10500, 0, True),
             "nuswide_81_m": (0, 5000, 10000, 0, True), "nuswide_10": (10, 2000, 5000, 186577, False)}
DEFAULT_LISTS = {name: os.path.join(DATA, "nuswide", name) for name in PROTOCOLS}
_FOLDERS = ("Flickr", "images", "image", "")  # of the pictures
_PICTURES = "the pictures of NUS-WIDE: Flickr/<folder>/<picture>.jpg or images/<picture>.jpg"


def make_lists(name, root, list_dir=None, seed=0, query=None, train=None, any_count=False):
    """Write train.txt, query.txt, database.txt, classes.txt, lists.json (and the tags of nuswide_10) to ``list_dir``.

    Args:
        name: a key of ``PROTOCOLS``. list_dir: data/nuswide/<name> by default. query, train: other sizes.
        any_count: accept files other than the official ones (another number of pictures or concepts).

    Returns:
        the record that lists.json holds.

    Raises:
        InputError: missing or bad files, counts that differ from the literature's, too few pictures.
    """
    wanted, num_query, num_train, pictures, from_disk = PROTOCOLS[name]
    num_query, num_train = query or num_query, train or num_train
    paths, labels, concepts = read_annotations(root)
    if (len(paths), len(concepts)) != (ROWS, CONCEPTS) and not any_count:
        raise InputError(f"{root} has {len(paths)} pictures and {len(concepts)} concepts, but NUS-WIDE has {ROWS} and "
                         f"{CONCEPTS}; are the files complete? (--any-count accepts them)")
    found = {}
    if from_disk:
        paths, labels = _on_disk(root, paths, labels)
        found["pictures_in_the_folder"] = len(paths)
        if len(paths) != PICTURES_M and not any_count:
            raise InputError(f"{root} holds {len(paths)} pictures of NUS-WIDE, but the set of thuml/HashNet has "
                             f"{PICTURES_M}; (--any-count accepts them)")
    frequency = labels.sum(0, dtype=np.int64)
    columns = np.argsort(-frequency, kind="stable")[:wanted] if wanted else np.arange(len(concepts))
    keep = np.flatnonzero(labels[:, columns].any(1))
    labels, paths, concepts = labels[keep][:, columns], [paths[i] for i in keep], [concepts[i] for i in columns]
    if pictures and len(paths) != pictures and not any_count:
        raise InputError(f"{len(paths)} pictures have one of the {wanted} most frequent concepts, but the literature "
                         f"has {pictures}; are the files the official ones? (--any-count accepts them)")
    if num_query + num_train > len(paths):
        raise InputError(f"{num_query} queries and {num_train} training images are more than the {len(paths)} pictures "
                         "with a label; choose --num-query and --num-train")
    if wanted:
        chosen = draw_by_label(labels, num_query, num_train, seed=seed)
    else:
        chosen = np.split(permutation(len(paths), seed, 31)[:num_query + num_train], [num_query])
    order = permutation(len(paths), seed, 32)
    is_query, is_train = (np.isin(order, some) for some in chosen)
    rows = {"train": order[is_train], "query": order[is_query], "database": order[~is_query]}
    texts = made.list_texts(paths, labels, rows, concepts)
    numbers = [number for number in map(flickr_number, paths) if number]
    found.update(pictures_with_a_label=len(paths), literature=pictures or "no count known",
                 pictures_under_two_names=len(numbers) - len(set(numbers)),
                 concepts={concept: int(count) for concept, count in zip(concepts, frequency[columns])})
    if name == "nuswide_10":
        tags, vocabulary, foreign = read_tags(root, paths)
        texts["texts.jsonl"] = "".join(json.dumps({"image": path, "text": text}, ensure_ascii=False) + "\n"
                                       for path, text in zip(paths, tags))
        texts["tags.txt"] = "".join(f"{tag}\n" for tag in vocabulary or ())
        found.update(tags_from=f"AllTags1k.txt, {len(vocabulary)} tags" if vocabulary else "All_Tags.txt",
                     without_a_tag=sum(not text for text in tags), tag_lines_read_as_latin_1=foreign)
    return made.write(os.fspath(list_dir or DEFAULT_LISTS[name]), name, seed, texts, **found)


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
        folder, n: a picture is ``folder`` + the last n parts of its path in the list.

    Raises:
        InputError: none of the first pictures of the list is below ``root``.
    """
    for path in paths[:20]:
        parts = path.split("/")
        for place in _FOLDERS:
            for n in range(len(parts), 0, -1):
                if os.path.isfile(os.path.join(root, place, *parts[-n:])):
                    return os.path.join(root, place), n
    raise InputError(f"{root} holds none of the first pictures of the list ({', '.join(paths[:1]) or 'it is empty'}); "
                     f"it should hold {_PICTURES}")


def _add_tags(protocol, list_dir):
    """Texts of all splits from texts.jsonl, and their 0/1 columns where tags.txt names such; lists without: nothing."""
    path = os.path.join(list_dir, "texts.jsonl")
    if not os.path.isfile(path):
        return
    text_of = shapes.read_texts(path)
    names = os.path.join(list_dir, "tags.txt")
    column = {tag: i for i, tag in enumerate(filter(None, lists.read_lines(names) if os.path.isfile(names) else ()))}
    protocol.vocabulary = list(column) or None
    for split in protocol.splits:
        unknown = next((i for i, item in enumerate(split.ids) if item not in text_of), None)
        if unknown is not None:
            raise InputError(f"{path} has no text for {split.ids[unknown]} ({split.where(unknown)}); make the lists "
                             "again")
        split.texts = [text_of[item] for item in split.ids]
        if column:
            split.text_features = np.zeros((len(split), len(column)), np.float32)
            for row, text in zip(split.text_features, split.texts):
                row[[column[tag] for tag in text.split(" ") if tag in column]] = 1


def load_lists(name, root, seed=0, list_dir=None, sizes=None, on_fault=None):
    """Protocol from lists that ``make`` has written, or from those of a public repository."""
    root = need_folder(root, _PICTURES)
    list_dir = os.fspath(list_dir or DEFAULT_LISTS[name])
    # the lists' own folder as the root: ids stay as listed, whatever folders the pictures are in
    protocol = made.load(name, list_dir, list_dir, seed, sizes or {}, TOPK_TEXT if name == "nuswide_10" else TOPK,
                         on_fault)
    folder, depth = find_pictures(root, protocol.query.ids)
    for split in protocol.splits:
        split.images.root = folder
        split.images.paths = ["/".join(item.split("/")[-depth:]) for item in split.ids]
    _add_tags(protocol, list_dir)
    return protocol


def load(name, root, seed, list_dir, sizes, on_fault):
    """As ``load_lists``; nuswide_10 from the DJSRH authors' files where ``root`` holds .mat files."""
    if name == "nuswide_10" and list_dir is None and features.mat_files(need_folder(root, _PICTURES)):
        return features.load_features_protocol(root, seed, name, **sizes)
    return load_lists(name, root, seed, list_dir, sizes, on_fault)


def make(name, root, seed, list_dir, sizes, any_count=False):
    """``make_lists`` with a printed record."""
    record = make_lists(name, root, list_dir, seed, sizes.get("num_query"), sizes.get("num_train"), any_count)
    made.show(list_dir or DEFAULT_LISTS[name], record)


_LICENCE = "images by Flickr's terms, for research"
_OFFICIAL = "https://lms.comp.nus.edu.sg/wp-content/uploads/2019/research/nuswide/NUS-WIDE.html"
_HASHNET = f"pictures and lists of https://github.com/thuml/HashNet, annotations of {_OFFICIAL}"
_OBTAIN = {"nuswide_21": _OFFICIAL, "nuswide_21_m": _HASHNET, "nuswide_81_m": _HASHNET,
           "nuswide_10": f"{_OFFICIAL}, or nus-wide-tc10-iall.mat, -yall.mat, -lall.mat (DJSRH)"}
_RECOGNISES = {"nuswide_21": holds("Groundtruth/*Labels", "NUS-WIDE/Groundtruth/*Labels", "ImageList/Imagelist.txt",
                                   "NUS-WIDE/ImageList/Imagelist.txt"),
               "nuswide_10": holds("nus-wide-tc10*.mat", "NUS-WIDE-TC10*.mat")}
SPECS = tuple(
    Spec(name=name, load=functools.partial(load, name), make=functools.partial(make, name),
         counts=(query, train, pictures - query if pictures else None), sizes=SIZES, classes=concepts or CONCEPTS,
         topk=TOPK_TEXT if name == "nuswide_10" else TOPK, source=f"{_LICENCE}; {_OBTAIN[name]}",
         recognises=_RECOGNISES.get(name))
    for name, (concepts, query, train, pictures, _) in PROTOCOLS.items())
