"""From a split to codes: the one way there, for training, evaluation, deployment and tests.

A split is anything with ``ids``, ``images``, ``features``, ``texts`` and ``text_features`` (see
utils/datasets/base.py); how its pictures become arrays is the business of ``load``.
"""
from typing import List, NamedTuple

import numpy as np

from utils.errors import InputError
from utils.retrieval.hamming import pack

FEW = 512  # fewer pictures than this do not pay for making a static graph
SAMPLE = 64  # pictures on which engines are compared


class Encoded(NamedTuple):
    """Codes of the items that could be read.

    Attributes:
        codes: packed uint8 [n, ceil(bits / 8)], or relaxed float32 [n, bits].
        positions: int64 [n], where they stand in the split.
        messages: one for each item that could not be read.
    """

    codes: np.ndarray
    positions: np.ndarray
    messages: List[str]


def encode(encoder, split, modality="image", positions=None, on_broken="raise", load=None, batch_size=32,
           relaxed=False, progress=None):
    """Codes of a split.

    Args:
        encoder: an Encoder (encoder.py).
        split: its pictures, or its feature rows where it has them (``modality="image"``), or its texts.
        modality: ``image`` or ``text``.
        positions: which items, int [n]; None = all.
        on_broken: ``raise`` ends with the first item that cannot be read, ``skip`` leaves such items out.
        load: callable (split, pieces) that reads pictures: for each int64 array of positions it yields (positions that
            could be read, images [n, 3, H, W], messages of the others). Not needed where there are rows.
        batch_size: items a call of the encoder.
        relaxed: return the codes before the sign.
        progress: callable of the number of items that were done since the last call.

    Returns:
        Encoded.

    Raises:
        InputError: the split has nothing of this modality that the model can read; with ``raise``, a broken item.
    """
    positions = np.arange(len(split)) if positions is None else np.asarray(positions, dtype="int64")
    pieces = [positions[start:start + batch_size] for start in range(0, len(positions), batch_size)]
    rows = _rows(encoder, split, modality)
    if rows is None and len(split) >= FEW and len(positions):
        encoder.prepare(lambda: next(iter(load(split, [positions[:SAMPLE]])))[1])
    batches = load(split, pieces) if rows is None else ((piece, rows(piece), []) for piece in pieces)
    run = encoder.encode_text if modality == "text" else encoder.encode
    codes, read, messages = [_none(encoder, relaxed)], [], []
    for good, inputs, broken in batches:
        if broken and on_broken == "raise":
            raise InputError(broken[0])
        messages += broken
        if len(good):
            found = run(inputs)
            codes.append(found if relaxed else pack(found))
            read += list(good)
        if progress:
            progress(len(good) + len(broken))
    return Encoded(np.concatenate(codes), np.asarray(read, dtype="int64"), messages)


def need_codes(encoded, split):
    """``encoded``, or InputError where not one item of the split could be read."""
    if not len(encoded.positions):
        raise InputError(f"no picture of the {split.name} split can be read: "
                         + (encoded.messages[0] if encoded.messages else "it is empty"))
    return encoded


def _none(encoder, relaxed):
    return np.zeros([0, encoder.bits], "float32") if relaxed else np.zeros([0, (encoder.bits + 7) // 8], "uint8")


def _rows(encoder, split, modality):
    """Callable positions -> float32 rows of a split, None where its pictures have to be read."""
    if modality == "text":
        if split.text_features is not None:
            return lambda piece: np.asarray(split.text_features[piece], dtype="float32")
        if split.texts is not None and encoder.vectorizer is not None:
            return lambda piece: np.asarray(encoder.vectorizer.transform([split.texts[i] for i in piece]), "float32")
        raise InputError(f"the {split.name} split has no texts that the model can read; choose another --dataset")
    if split.features is not None:
        return lambda piece: np.ascontiguousarray(split.features[piece], dtype="float32")
    if split.images is None:
        raise InputError(f"the {split.name} split has no pictures; choose another --dataset")
    return None
