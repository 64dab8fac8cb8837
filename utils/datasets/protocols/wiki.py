r"""Wikipedia (Rasiwasia et al., ACM MM 2010): 2,866 pairs of an article's section and its picture, 10 categories.

The official distribution (svcl.ucsd.edu/projects/crossmodal, wikipedia_dataset) is read as it is:

    trainset_txt_img_cat.list   2,173 lines "<text id>\t<image id>\t<category, 1 to 10>": training split = database
    testset_txt_img_cat.list    693 such lines: queries
    images/<category>/<image id>.jpg
    texts/<text id>.xml         the section between <text> and </text>
    raw_features.mat            T_tr, T_te [N, 10] topics (LDA); I_tr, I_te [N, 128] SIFT histograms

Texts: where there is a folder ``texts``, the sections themselves, from which a vectoriser is fitted and saved, so that
a person can type words; else T_tr and T_te, the ten topics of the papers (raw_features.mat is needed only then).
Pictures: the folder ``images``, or without it I_tr and I_te.
"""
import html
import os
import re

import numpy as np

from utils.datasets import text_files
from utils.datasets.base import DataSet, FileImages, holds, need_folder
from utils.datasets.matrices import mat
from utils.datasets.matrices.splits import TOPK, make_protocol
from utils.datasets.protocols.list_maker import compare_counts
from utils.errors import InputError

FEATURES = "raw_features.mat"
LISTS = ("trainset_txt_img_cat.list", "testset_txt_img_cat.list")
CLASSES = ("art", "biology", "geography", "history", "literature", "media", "music", "royalty", "sport", "warfare")
QUERY, TRAIN = 693, 2173
_WHAT = f"{', '.join(LISTS)}, images/, and texts/ or {FEATURES} of wikipedia_dataset"
_SOURCE = "terms of Wikipedia; http://www.svcl.ucsd.edu/projects/crossmodal/ (wikipedia_dataset)"
_TEXT = re.compile("<text>(.*?)</text>", re.DOTALL)


def read_variables(folder):
    """Variables (see matrices/splits.py) of the distribution in ``folder``.

    Raises:
        InputError: a file that is missing or not in the official layout, as ``file:line`` where there is a line.
    """
    parts = [_read_list(os.path.join(folder, name)) for name in LISTS]
    rows = parts[0] + parts[1]
    if os.path.isdir(os.path.join(folder, "texts")):
        text = [_read_text(folder, row) for row in rows]
    else:
        text = _features(folder, ("T_tr", "T_te"), parts)
    names = [f"{CLASSES[row['label']]}/{row['image']}.jpg" for row in rows]
    if os.path.isdir(os.path.join(folder, "images")):
        image = FileImages(os.path.join(folder, "images"), names)
    else:
        image = _features(folder, ("I_tr", "I_te"), parts)
    # a picture may illustrate two articles: the article's id makes the row's id unique
    return {"image": image, "text": text, "label": np.eye(len(CLASSES), dtype="uint8")[[row["label"] for row in rows]],
            "is_train": np.arange(len(rows)) < len(parts[0]), "classes": list(CLASSES),
            "ids": [f"{name}#{row['text']}" for name, row in zip(names, rows)]}


def load(request):
    """The official split; the seed only shuffles the database."""
    root = need_folder(request.root, _WHAT)
    return make_protocol(read_variables(root), "wiki", request.seed, request.sizes, root)


def make(request, any_count=False):
    """Nothing to write, the split is official: read everything and compare the counts with the literature's."""
    protocol = load(request)
    counts = len(protocol.query), len(protocol.train)
    compare_counts(counts == (QUERY, TRAIN), f"{request.root} has {counts[0]} queries and {counts[1]} training pairs, "
                   f"but Wikipedia has {QUERY} and {TRAIN}; are the lists complete?", any_count)
    text = "the sections of texts/" if protocol.train.texts is not None else \
        f"{protocol.train.text_features.shape[1]} topics of {FEATURES}"
    print(f"wiki: the official split needs no lists; {counts[0]} queries (literature {QUERY}), {counts[1]} training "
          f"pairs = database (literature {TRAIN}); texts: {text}")
    for split in protocol.splits:
        print(f"  {split.name:<13}{len(split):>7}  sha256 {split.sha256()}")


def _read_list(path):
    """Rows of a ``*_txt_img_cat.list`` as dicts text, image, label (from 0), where (``file:line``)."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        raise InputError(f"{path} is missing; the folder should hold {_WHAT}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    rows = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        if len(words) != 3 or not words[2].isdigit() or not 1 <= int(words[2]) <= len(CLASSES) or \
                any("/" in word or "\\" in word for word in words):
            raise InputError(f"{path}:{number}: expected '<text id> <image id> <label 1 to {len(CLASSES)}>'")
        rows.append({"text": words[0], "image": words[1], "label": int(words[2]) - 1, "where": f"{path}:{number}"})
    if not rows:
        raise InputError(f"{path} is empty; unpack it again")
    return rows


def _read_text(folder, row):
    """The section of one XML file, without markup, blanks unified. A file that is not UTF-8 is read as Latin-1."""
    path = os.path.join(folder, "texts", f"{row['text']}.xml")
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise InputError(f"{row['where']}: {path} is missing or unreadable ({error.strerror})") from None
    found = _TEXT.search(text_files.utf8_or_latin1(data)[0])
    if not found:
        raise InputError(f"{row['where']}: {path} has no <text> ... </text>")
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", found[1])).split())


def _features(folder, names, parts):
    """float [N, D], the training rows first, of two variables in raw_features.mat."""
    path = os.path.join(folder, FEATURES)
    missing = "texts/*.xml" if names[0].startswith("T") else "images/art/<image id>.jpg, ..."
    if not os.path.isfile(path):
        raise InputError(f"{folder} has neither {missing} nor {FEATURES}")
    found = mat.variables(path)
    for name in names:
        if name not in found:
            raise InputError(f"{path} has no {name}, and there is no {missing}; it holds "
                             f"{', '.join(found) or 'nothing'}")
    values = [mat.read_matrix(path, name) for name in names]
    for name, list_name, part, value in zip(names, LISTS, parts, values):
        if len(part) != len(value):
            raise InputError(f"{os.path.join(folder, list_name)} has {len(part)} lines, and {name} of {FEATURES} "
                             f"{len(value)} rows")
    return np.concatenate(values)


DATA_SETS = (DataSet(name="wiki", load=load, make=make, counts=(QUERY, TRAIN, TRAIN), topk=TOPK, classes=len(CLASSES),
              source=_SOURCE, recognises=holds(*LISTS)),)
