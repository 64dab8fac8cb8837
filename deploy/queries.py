"""What is asked: a picture, a folder or list of pictures, words, or the first query of a data set -> relaxed codes."""
import os
from typing import List, NamedTuple, Tuple

import numpy as np

from utils.datasets.base import FileImages, Split
from utils.datasets.list_file import read_list
from utils.datasets.own.folders import scan
from utils.errors import InputError
from utils.images import read
from utils.picture_loader import PictureLoader
from utils.progress import Progress
from utils.retrieval.encode import encode

SKIPPED = 3  # exit status of a command that could not read all of what it was asked about


class Queries(NamedTuple):
    """Queries and their codes.

    Attributes:
        split: utils.datasets.base.Split of those that could be read; its ids are their names.
        relaxed: codes before the sign, float32 [Q, bits].
        skipped: (name, reason) of those that could not.
    """

    split: Split
    relaxed: np.ndarray
    skipped: List[Tuple[str, str]]

    def shown(self, count, spec):
        """The first ``count`` queries for people: pictures uint8 [H, W, 3], or texts."""
        split = self.split
        if split.texts is not None or split.images is None:
            return list(split.texts or split.ids)[:count]
        return [read(split.images, i, spec) for i in range(min(count, len(split)))]


def find_pictures(path, roots, say=print):
    """Picture files that --img names.

    Args:
        path: a picture, a folder (all pictures in it and below, as for data sets), or a .txt list in the format of the
            data sets (labels are ignored).
        roots: folders where the names of a list may start, beside the list's own.
        say: callable of a line.

    Returns:
        (paths, lost): lost are (name, reason) of listed pictures that are not there.

    Raises:
        InputError: no such folder, no picture in it, or an empty list.
    """
    if os.path.isdir(path):
        names, notes = scan(path)
        for note in notes:
            say(f"----- Note: {path}: {note}")
        return [os.path.join(path, name) for name in names], []
    if not path.lower().endswith(".txt"):
        return [path], []
    names, _, lines = read_list(path, form="auto")
    if not names:
        raise InputError(f"the list {path} is empty")
    found, lost = [], []
    for name, line in zip(names, lines):
        places = [os.path.join(root, name) for root in (os.path.dirname(path), *roots, ".", "/") if root is not None]
        there = next(filter(os.path.isfile, places), None)
        if there is None:
            lost.append((name, f"{path}:{line}: no picture {name} beside the list or in the data folder; correct the "
                               "list or --data-path"))
        else:
            found.append(there)
    return found, lost


def picture_queries(encoder, paths, lost=(), batch_size=32, workers=2):
    """Queries of picture files; those that cannot be read are skipped.

    Args:
        encoder: an Encoder that reads pictures.
        paths, lost: of ``find_pictures``.
        batch_size: pictures a call. workers: decoding threads.

    Raises:
        InputError: the model reads feature vectors, or not one picture can be read.
    """
    check_pictures(encoder)
    split = Split("query", list(paths), images=FileImages("", list(paths)))
    return _encoded(encoder, split, lost, batch_size, workers)


def first_query(encoder, data, batch_size=32):
    """The first query of a data set, as Queries. Raises InputError where there is none, or it cannot be read."""
    split = data.protocol.query
    if not len(split):
        raise InputError(f"the query split of {data.name} is empty; give --img")
    return _encoded(encoder, split.select([0]), [], batch_size, 1)


def text_query(encoder, text):
    """Queries of one text in words. Raises InputError as ``words_row``."""
    words_row(encoder, text)
    split = Split("query", [text], texts=[text])
    return Queries(split, encode(encoder, split, "text", relaxed=True).codes, [])


def check_pictures(encoder):
    """Raise InputError where a model does not read pictures."""
    if len(encoder.manifest["image"]["input"]) == 1:
        raise InputError("this model reads precomputed features, not pictures; leave --img out or ask with --text")


def words_row(encoder, text):
    """Text features float32 [T] of a text in words.

    Raises:
        InputError: the model reads images only, or features of texts but no words, or none of these words.
    """
    if not encoder.manifest.get("text"):
        raise InputError(f"method {encoder.manifest['method']} reads images only; --text needs a cross-modal "
                         "model")
    if encoder.vectorizer is None:
        raise InputError("this model has no vectorizer.json (it was trained on precomputed text features), so it "
                         "cannot read words")
    row, = encoder.vectorizer.transform([text])
    if not row.any():
        raise InputError(f"the model knows none of the words in {text!r}; try words of its training texts")
    return row


def _encoded(encoder, split, lost, batch_size, workers):
    load = PictureLoader(encoder.manifest["preprocess"], workers)
    with Progress(len(split), "encode queries") as progress:
        encoded = encode(encoder, split, on_broken="skip", load=load, batch_size=batch_size, relaxed=True,
                         progress=progress)
    missing = np.setdiff1d(np.arange(len(split)), encoded.positions)
    skipped = [*lost, *((split.ids[i], message) for i, message in zip(missing, encoded.messages))]
    if not len(encoded.positions):
        several = f"none of the {len(skipped)} queries can be read; the first: " if len(skipped) > 1 else ""
        raise InputError(several + skipped[0][1])
    return Queries(split.select(encoded.positions), encoded.codes, skipped)
