"""NUS-WIDE (Chua et al., CIVR 2009): lists from the official annotation files, and the sets of other people.

The official distribution, in one folder (zip folders may be kept or left out):

    Groundtruth/AllLabels/Labels_<concept>.txt   81 files, a line 0 or 1 for each of the 269,648 pictures
    ConceptsList/Concepts81.txt                  names of the concepts, one a line
    ImageList/Imagelist.txt                      "<folder>\\\\<number>_<Flickr number>.jpg", in the order of the labels
    NUS_WID_Tags/All_Tags.txt                    "<Flickr number> tag tag ...", mostly UTF-8
    NUS_WID_Tags/AllTags1k.txt, TagList1k.txt    1,000 numbers 0 or 1 a line; names of these tags

Where AllLabels is not there, Groundtruth/TrainTestLabels/Labels_<concept>_{Train,Test}.txt with
ImageList/{Train,Test}Imagelist.txt give the same lists: pictures are drawn in the order of their names.

    nuswide_21     pictures with one of the 21 most frequent concepts (195,834); a concept: 100 query, 500 training
    nuswide_10     pictures with one of the 10 most frequent concepts (186,577); a concept: 200 query, 500 training;
                   with tags. Or the DJSRH authors' nus-wide-tc10-*.mat, if such are in the data folder.
    nuswide_81_m   the 223,496 pictures of thuml/HashNet that have one of the 81 concepts; 5,000 query, 10,000 training
    nuswide_21_m   the same pictures, 21 concepts; a concept: 100 query, 500 training

Concepts are ordered by their number of pictures, equal ones by their place in Concepts81.txt; the columns of the
81-concept lists stay in that file's order. The pictures of "_m" are those that the data folder holds (they were the ones
that could be fetched from Flickr), recognised by the Flickr number in ``<number>_<Flickr number>[_<secret>_m].jpg``.
Shares of a concept are drawn by ``draw_by_label``, others by ``permutation(n, seed, 31)``; the database is
everything but the queries in the order of ``permutation(n, seed, 32)``. The lists of the papers were drawn unseeded:
these are another draw of the same protocols.
"""
import functools
import json
import os
import re

import numpy as np

from utils.datasets import features, lists, made, shapes
from utils.datasets.base import FileImages, Spec, need_folder
from utils.datasets.draw import permutation
from utils.datasets.tables import TOPK as TOPK_TEXT
from utils.datasets.tables import draw_by_label
from utils.errors import InputError
from utils.transforms import IMAGE_ENDINGS

ROWS, CONCEPTS = 269648, 81
PICTURES_M = 223496
TOPK = 5000
# protocol: number of concepts (0 = all), query, training, pictures of the literature (0 = none known), "_m" pictures
PROTOCOLS = {"nuswide_21": (21, 2100, 10500, 195834, False), "nuswide_21_m": (21, 2100, 10500, 0, True),
             "nuswide_81_m": (0, 5000, 10000, 0, True), "nuswide_10": (10, 2000, 5000, 186577, False)}
SIZES = ("num_query", "num_train")
_WHAT = "Groundtruth/, ConceptsList/ and ImageList/ of NUS-WIDE (lms.comp.nus.edu.sg)"
_BLOCK = 1 << 24
_FOLDERS = ("Flickr", "images", "image", "")  # of the pictures
_PICTURE = re.compile(r"\d+_(\d+)(_\w+)?\.jpg", re.IGNORECASE)
_LICENCE = "images by Flickr's terms, for research"


# the official files ---------------------------------------------------------------------------------------------
def read_rows(path, width, rows=None):
    """Lines of ``width`` numbers 0 or 1, as uint8 blocks [n, width]; blanks, tabs and CR between them are free.

    Args:
        rows: (number, name of the file it comes from) of lines that there must be.

    Raises:
        InputError: unreadable file, another character, another number of values in a line, or of lines.
    """
    done, rest = 0, b""
    try:
        with open(path, "rb") as file:
            while True:
                data = file.read(_BLOCK)
                block = rest + data
                core = block[:block.rfind(b"\n") + 1].rstrip() if data else block.rstrip()
                # blank lines are a fault unless nothing follows: they wait for the next block
                rest = block[block.find(b"\n", len(core)) + 1:] if core else block
                if core:
                    values = _values(path, np.frombuffer(core, np.uint8), width, done)
                    done += len(values)
                    yield values
                if not data:
                    break
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if rows and done < rows[0]:
        raise InputError(f"{path}:{done}: the file ends after {done} lines, {rows[1]} has {rows[0]}")
    if rows and done > rows[0]:
        raise InputError(f"{path}:{rows[0] + 1}: the file has {done} lines, {rows[1]} only {rows[0]}")


def _values(path, data, width, before):
    """uint8 [n, width] of a block of whole lines; ``before``: lines that came before it."""
    zero = data == 48
    value = zero | (data == 49)
    newline = data == 10
    other = np.flatnonzero(~(value | newline | (data == 32) | (data == 9) | (data == 13)))
    ends = np.flatnonzero(newline)
    if len(ends) == 0 or ends[-1] != len(data) - 1:
        ends = np.append(ends, len(data))
    if len(other):
        line = int(np.searchsorted(ends, other[0]))
        text = data[ends[line - 1] + 1 if line else 0:ends[line]].tobytes().decode("latin-1").strip()
        raise InputError(f"{path}:{before + line + 1}: '{text[:20]}' where 0 or 1 is expected")
    starts = np.concatenate([[0], ends[:-1] + 1])
    counts = np.add.reduceat(value, starts, dtype=np.int64)
    wrong = np.flatnonzero(counts != width)
    if len(wrong):
        raise InputError(f"{path}:{before + wrong[0] + 1}: {counts[wrong[0]]} values where {width} "
                         f"{'is' if width == 1 else 'are'} expected")
    return (data[value] - 48).reshape(-1, width)


def read_pictures(path):
    """Paths of an image list, with "/", as the file orders them.

    Raises:
        InputError: unreadable file; a line that is no picture's path below the data folder, or the path of an earlier
            line, as file:line.
    """
    paths, first = [], {}
    for number, line in enumerate(lists.read_lines(path), 1):
        name = line.strip().replace("\\", "/").lstrip("/")
        if not name:
            continue
        if not name.lower().endswith(IMAGE_ENDINGS) or ".." in name.split("/") or ":" in name:
            raise InputError(f"{path}:{number}: '{name[:60]}' is not the path of a picture in the data folder")
        if name in first:
            raise InputError(f"{path}:{number}: {name} is already in line {first[name]}; a picture must not be query "
                             "and database item at once")
        first[name] = number
        paths.append(name)
    return paths


def read_annotations(root):
    """The official labels, pictures in the order of their names.

    Returns:
        paths (list of str, ``<folder>/<picture>.jpg``), labels (uint8 [N, C]), concepts (list of C names).

    Raises:
        InputError: a missing file, a bad line, files of different lengths.
    """
    folder = need_folder(root, _WHAT)
    concepts = [line.strip() for line in lists.read_lines(_place(folder, "ConceptsList", "Concepts81.txt"))
                if line.strip()]
    parts = [("AllLabels", "", "Imagelist.txt")]
    if not _find(folder, "Groundtruth", "AllLabels") and _find(folder, "Groundtruth", "TrainTestLabels"):
        parts = [("TrainTestLabels", f"_{part}", f"{part}Imagelist.txt") for part in ("Train", "Test")]
    paths, tables = [], []
    for labels, ending, pictures in parts:
        image_list = _place(folder, "ImageList", pictures)
        some = read_pictures(image_list)
        labels = _place(folder, "Groundtruth", labels)
        table = np.empty((len(some), len(concepts)), np.uint8)
        for column, concept in enumerate(concepts):
            file = os.path.join(labels, f"Labels_{concept}{ending}.txt")
            if not os.path.isfile(file):
                raise InputError(f"{file} is missing; unpack Groundtruth.zip again")
            table[:, column] = np.concatenate([*read_rows(file, 1, (len(some), image_list)), np.empty((0, 1), "u1")])[:, 0]
        paths += some
        tables.append(table)
    order = sorted(range(len(paths)), key=paths.__getitem__)
    for row, after in zip(order, order[1:]):
        if paths[row] == paths[after]:
            raise InputError(f"{paths[row]} is in both TrainImagelist.txt and TestImagelist.txt")
    return [paths[row] for row in order], np.concatenate(tables)[order], concepts


def _find(root, folder, name):
    """``root/folder/name``, ``root/NUS-WIDE/folder/name`` or ``root/name``, whichever is there; None else."""
    for place in (folder, os.path.join("NUS-WIDE", folder), ""):
        path = os.path.join(root, place, name)
        if os.path.exists(path):
            return path
    return None


def _place(root, folder, name):
    path = _find(root, folder, name)
    if path is None:
        raise InputError(f"{os.path.join(root, folder, name)} is missing; {root} should hold {_WHAT}")
    return path


# tags -----------------------------------------------------------------------------------------------------------
def read_tags(root, paths):
    """Texts of pictures: the names of their frequent tags where AllTags1k.txt is there, else their raw tags.

    Args:
        paths: pictures, as Imagelist.txt names them (with "/").

    Returns:
        texts (list of str, tags with blanks between), vocabulary (list of the 1,000 tags, None with raw tags), number
        of lines that were not UTF-8 and were read as Latin-1.

    Raises:
        InputError: neither file, a line of another picture, files of different lengths, bad rows of numbers.
    """
    image_list = _place(root, "ImageList", "Imagelist.txt")
    row_of = {path: row for row, path in enumerate(read_pictures(image_list))}
    unknown = next((path for path in paths if path not in row_of), None)
    if unknown:
        raise InputError(f"{image_list} has no line for {unknown}, so its tags cannot be found")
    rows = np.array([row_of[path] for path in paths], np.int64)
    length = len(row_of), image_list
    numbers = _find(root, "NUS_WID_Tags", "AllTags1k.txt")
    if numbers is None:
        return _raw_tags(_find(root, "NUS_WID_Tags", "All_Tags.txt"), root, paths, rows, length)
    names = _place(root, "NUS_WID_Tags", "TagList1k.txt")
    vocabulary = [line.strip() for line in lists.read_lines(names) if line.strip()]
    found, start = [], 0
    for block in read_rows(numbers, len(vocabulary), length):
        at = np.flatnonzero(block)
        found.append(at + start * len(vocabulary))
        start += len(block)
    place, tag = np.divmod(np.concatenate(found), len(vocabulary))
    ends = np.searchsorted(place, np.arange(start + 1))
    return ([" ".join(vocabulary[i] for i in tag[ends[row]:ends[row + 1]]) for row in rows], vocabulary, 0)


def _raw_tags(path, root, paths, rows, length):
    if path is None:
        raise InputError(f"{os.path.join(root, 'NUS_WID_Tags', 'All_Tags.txt')} is missing, and so is AllTags1k.txt; "
                         "unpack NUS_WID_Tags.zip")
    try:
        with open(path, "rb") as file:
            lines = file.read().rstrip().split(b"\n")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(lines) != length[0]:
        raise InputError(f"{path}:{min(len(lines), length[0])}: the file has {len(lines)} lines, {length[1]} {length[0]}")
    texts, foreign = [], 0
    for name, row in zip(paths, rows):
        number, tags = (*lines[row].split(None, 1), b"", b"")[:2]
        if flickr_number(name) not in (None, number.decode("latin-1")):
            raise InputError(f"{path}:{row + 1}: tags of picture {number[:20].decode('latin-1')}, but the image list has "
                             f"{name} here")
        try:
            text = tags.decode("utf-8")
        except UnicodeDecodeError:
            text = tags.decode("latin-1")
            foreign += 1
        texts.append(" ".join(text.split()))
    return texts, None, foreign


def flickr_number(path):
    """The Flickr number in ``.../<number>_<Flickr number>[_<secret>_m].jpg`` as a string, None in other names."""
    found = _PICTURE.fullmatch(path[path.rfind("/") + 1:])
    return found[1] if found else None


# making and loading ---------------------------------------------------------------------------------------------
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
        raise InputError(f"{len(paths)} pictures have one of the {wanted} most frequent concepts, but the literature has "
                         f"{pictures}; are the files the official ones? (--any-count accepts them)")
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
    return made.write(os.fspath(list_dir or os.path.join(made.DATA, "nuswide", name)), name, seed, texts, **found)


def _on_disk(root, paths, labels):
    """Paths (below the picture folder) and labels of the pictures that the data folder holds, by the Flickr number."""
    row_of = {}
    for row, path in enumerate(paths):
        row_of.setdefault(flickr_number(path), row)
    folder = next(os.path.join(root, place) for place in _FOLDERS if os.path.isdir(os.path.join(root, place)))
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            row = row_of.get(flickr_number(name))
            if row is not None and flickr_number(name):
                found[os.path.relpath(os.path.join(place, name), folder).replace(os.sep, "/")] = row
    if not found:
        raise InputError(f"{folder} holds no picture of NUS-WIDE (<number>_<Flickr number>_<secret>_m.jpg); the pictures "
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
    raise InputError(f"{root} holds none of the first pictures of the list ({paths[0] if paths else 'it is empty'}); it "
                     "should hold Flickr/<folder>/<picture>.jpg or images/<picture>.jpg")


def _add_tags(protocol, list_dir):
    """Texts of all splits from texts.jsonl, and their 0/1 columns where tags.txt names such; lists without: nothing."""
    path = os.path.join(list_dir, "texts.jsonl")
    if not os.path.isfile(path):
        return
    text_of = shapes.read_texts(path)
    names = os.path.join(list_dir, "tags.txt")
    column = {tag: i for i, tag in enumerate(filter(None, lists.read_lines(names) if os.path.isfile(names) else ()))}
    for split in protocol.splits:
        unknown = next((i for i, item in enumerate(split.ids) if item not in text_of), None)
        if unknown is not None:
            raise InputError(f"{path} has no text for {split.ids[unknown]} ({split.where(unknown)}); make the lists again")
        split.texts = [text_of[item] for item in split.ids]
        if column:
            split.text_features = np.zeros((len(split), len(column)), np.float32)
            for row, text in zip(split.text_features, split.texts):
                row[[column[tag] for tag in text.split(" ") if tag in column]] = 1


def load_lists(name, root, seed=0, list_dir=None, sizes=None, on_fault=None):
    """Protocol from lists that ``make`` has written, or from those of a public repository."""
    root = need_folder(root, "the pictures of NUS-WIDE: Flickr/<folder>/<picture>.jpg or images/<picture>.jpg")
    list_dir = os.fspath(list_dir or os.path.join(made.DATA, "nuswide", name))
    # the lists' own folder as the root: ids stay as listed, whatever folders the pictures are in
    protocol = made.load(name, list_dir, list_dir, seed, sizes or {}, TOPK_TEXT if name == "nuswide_10" else TOPK,
                         on_fault)
    folder, depth = find_pictures(root, protocol.query.ids)
    for split in protocol.splits:
        split.images = FileImages(folder, ["/".join(item.split("/")[-depth:]) for item in split.ids])
    _add_tags(protocol, list_dir)
    return protocol


def load(name, root, seed, list_dir, sizes, on_fault):
    """As ``load_lists``; nuswide_10 from the DJSRH authors' files where ``root`` holds .mat files and no lists are named."""
    if name == "nuswide_10" and list_dir is None and features.mat_files(need_folder(root, _OBTAIN_10)):
        return features.load_features_protocol(root, seed, name, **sizes)
    return load_lists(name, root, seed, list_dir, sizes, on_fault)


def make(name, root, seed, list_dir, sizes, any_count=False):
    """``make_lists`` with a printed record."""
    record = make_lists(name, root, list_dir, seed, sizes.get("num_query"), sizes.get("num_train"), any_count)
    made.show(list_dir or os.path.join(made.DATA, "nuswide", name), record)


_OBTAIN = "annotations: lms.comp.nus.edu.sg/wp-content/uploads/2019/research/nuswide/NUS-WIDE.html; images: on request there"
_OBTAIN_M = "images and lists of github.com/thuml/HashNet (nus_wide.tar.gz)"
_OBTAIN_10 = "the same with NUS_WID_Tags.zip, or nus-wide-tc10-iall.mat, -yall.mat, -lall.mat (DJSRH)"
SPECS = tuple(
    Spec(name=name, load=functools.partial(load, name), make=functools.partial(make, name),
         counts=(query, train, pictures - query if pictures else None), topk=TOPK_TEXT if name == "nuswide_10" else TOPK,
         classes=concepts or CONCEPTS, sizes=SIZES,
         source=f"{_LICENCE}; {_OBTAIN_M if from_disk else _OBTAIN_10 if name == 'nuswide_10' else _OBTAIN}")
    for name, (concepts, query, train, pictures, from_disk) in PROTOCOLS.items())
