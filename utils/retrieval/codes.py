"""Code files: packed codes with ids, labels and the fingerprint of the model that made them; and a health check.

One file format feeds metrics, search and every index. It is an uncompressed .npz without pickled objects:
``codes`` uint8 [N, nb]; ``label_bits`` uint8, the 0/1 label rows through ``numpy.packbits`` (only where there are
labels); ``relaxed`` float16 [N, bits] (only where it was kept); ``ids`` and ``header``, UTF-8 JSON as uint8 bytes.
JSON escapes keep any id intact: newlines, NUL, names of files that are no valid Unicode.
"""
import dataclasses
import json
import os
from typing import List, Optional

import numpy as np

from utils import limits
from utils.errors import InputError
from utils.files import write_npz
from utils.npz import open_zip, read_entries
from utils.plain_json import parse_json
from utils.retrieval.hamming import check_codes, to_words, unpack
from utils.schema import anything, check, each, either, mapping, one_of, scalar, table, text, whole

_FORMAT = "PaddleDeepHash codes"
_VERSION = 1
MOST_SHARE, FEW_SHARE = 0.99, 0.001  # of the items, with one code; different codes: beyond them codes have collapsed
FEWEST_ITEMS = 16  # of which a common bit says something
_ROWS = 8192  # rows unpacked at once: bounds the memory of code_health
_ARRAYS = ("header", "ids", "codes", "label_bits", "relaxed")
# what the commands look at; whoever makes code files may note more
_META = table({}, {"classes": each(text()), "modality": one_of("image", "text"), "sha256": text(),
                   "precision": text(), "vectorizer": text(), "root": either(text()), "skipped": whole(0),
                   "stamps": each(either(whole())), "broken": mapping(either(whole())),
                   "data": table({}, {"gallery": text(), "dataset": text(), "split_seed": either(whole(0)),
                                      "sizes": mapping(scalar)}, others=anything)}, others=anything)
_HEADER = table({"bits": whole(1), "items": whole(0), "classes": either(whole(1)), "fingerprint": text(),
                 "meta": either(_META)}, others=anything)


@dataclasses.dataclass(eq=False)
class CodeFile:
    """Codes of a split.

    Attributes:
        codes: uint8 [N, ceil(bits / 8)], numpy.packbits order, zero padded.
        bits: code length.
        ids: N strings, by which items are shown to the user (usually relative paths).
        labels: uint8 [N, C] of 0 and 1, or None.
        fingerprint: of the model that made the codes.
        meta: plain values for people and tools (protocol, classes, versions, ...).
        relaxed: the network's output before the sign [N, bits], or None: the finer half of a ranking. float32 as the
            network gave it (what ``score`` wants: float16 may lose a sign), float16 in a file.
    """

    codes: np.ndarray
    bits: int
    ids: List[str]
    labels: Optional[np.ndarray] = None
    fingerprint: str = ""
    meta: dict = dataclasses.field(default_factory=dict)
    relaxed: Optional[np.ndarray] = None

    def __len__(self):
        return len(self.codes)

    def check(self):
        """Raise InputError where the parts do not fit together."""
        check_codes(self.codes, self.bits)
        if len(self.ids) != len(self.codes):
            raise InputError(f"{len(self.codes)} codes but {len(self.ids)} ids")
        if not all(isinstance(i, str) for i in self.ids):
            raise InputError("ids of a code file must be strings")
        relaxed = self.relaxed
        if relaxed is not None and (relaxed.dtype != np.float16 or relaxed.shape != (len(self.codes), self.bits)):
            raise InputError(f"relaxed codes of a code file must be float16 [{len(self.codes)}, {self.bits}], got "
                             f"{relaxed.dtype} {list(relaxed.shape)}")
        labels = self.labels
        if labels is None:
            return
        if not isinstance(labels, np.ndarray) or labels.dtype != np.uint8 or labels.ndim != 2 or not labels.shape[1]:
            raise InputError("labels of a code file must be uint8 [items, classes]")
        if len(labels) != len(self.codes):
            raise InputError(f"{len(self.codes)} codes but {len(labels)} rows of labels")
        if labels.size and labels.max() > 1:
            raise InputError(f"labels of a code file must be 0 or 1, found {labels.max()}")

    def check_meta(self):
        """Raise InputError where what the meta says of items and classes does not fit the codes."""
        if self.labels is not None and len(self.meta.get("classes", ())) > self.labels.shape[1]:
            raise InputError(f"{len(self.meta['classes'])} classes but {self.labels.shape[1]} columns of labels")
        if len(self.meta.get("stamps", self.ids)) != len(self.ids):
            raise InputError(f"{len(self.meta['stamps'])} stamps but {len(self.ids)} ids")

    def save(self, path):
        """Write the file atomically.

        Raises:
            InputError: parts that do not fit, meta that is not plain JSON, or a path that cannot be written.
        """
        self.check()
        header = {"format": _FORMAT, "version": _VERSION, "bits": int(self.bits), "items": len(self.codes),
                  "classes": None if self.labels is None else self.labels.shape[1],
                  "fingerprint": self.fingerprint, "meta": self.meta}
        try:
            arrays = {"header": _to_bytes(header), "ids": _to_bytes(list(self.ids)), "codes": self.codes}
        except (TypeError, ValueError) as error:
            raise InputError(f"meta of a code file must be plain JSON values: {error}") from error
        if self.labels is not None:
            arrays["label_bits"] = np.packbits(self.labels, axis=1)
        if self.relaxed is not None:
            arrays["relaxed"] = self.relaxed
        write_npz(path, arrays)

    @classmethod
    def load(cls, path, fingerprint=None):
        """Read a code file.

        Args:
            path: file written by ``save``.
            fingerprint: of the model that will search it; None accepts any.

        Raises:
            InputError: missing, truncated or damaged, no code file, a newer format, or made by another model.
        """
        path = os.fspath(path)
        if not os.path.isfile(path):
            raise InputError(f"no code file at {path}; encode the database first")
        try:
            # zipfile checks the CRC of every member that is read to its end
            with open_zip(path, limits.limit(limits.ARRAY_BYTES)) as archive:
                arrays = read_entries(archive, _ARRAYS)
                if not {f"{name}.npy" for name in _ARRAYS}.issuperset(archive.namelist()):
                    raise ValueError("other contents")  # the name of an array that may be missing can be damaged too
            header, ids, codes = _from_bytes(arrays["header"]), _from_bytes(arrays["ids"]), arrays["codes"]
            if header["format"] != _FORMAT or type(ids) is not list:
                raise ValueError("other contents")
            version = header["version"]
        except InputError:
            raise
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from error
        except Exception as error:  # a damaged archive can raise nearly anything in zipfile, numpy and json
            raise InputError(f"{path} is damaged or no code file: delete it and encode the database again") from error
        if version != _VERSION:
            raise InputError(f"{path} has code file format {version!r}, this program reads {_VERSION}: encode the "
                             "database again")
        check(header, _HEADER, path, "delete it and encode the database again")
        bits, count, classes, found, meta = (
            header[key] for key in ("bits", "items", "classes", "fingerprint", "meta"))
        if fingerprint is not None and found != fingerprint:
            raise InputError(f"{path} was made by another model (fingerprint {found or 'unknown'}, the model at hand "
                             f"has {fingerprint}): encode the database again, or choose the other model")
        try:
            labels = None if classes is None else _label_rows(arrays.get("label_bits"), count, classes)
            loaded = cls(codes, bits, ids, labels, found, meta or {}, arrays.get("relaxed"))
            loaded.check()
            loaded.check_meta()
            if len(loaded) != count:
                raise InputError(f"{len(loaded)} codes where {count} are announced")
        except InputError as error:
            raise InputError(f"{path} is damaged: {error}") from error
        return loaded


def stored(relaxed):
    """Relaxed codes as files keep them: float16, what is beyond its range at its ends."""
    most = np.finfo(np.float16).max
    return np.clip(relaxed, -most, most).astype(np.float16)


def _to_bytes(value):
    return np.frombuffer(json.dumps(value, allow_nan=False).encode("ascii"), np.uint8)


def _from_bytes(array):
    return parse_json(array.tobytes().decode("ascii"))


def _label_rows(packed, items, classes):
    """uint8 [items, classes] of 0 and 1 of packed rows. Raises InputError where there are not so many of them."""
    if packed is None or packed.dtype != np.uint8 or packed.shape != (items, -(-classes // 8)):
        found = "no" if packed is None else f"{packed.dtype} {list(packed.shape)}"
        raise InputError(f"{found} packed rows of labels where {items} of {classes} columns are announced")
    return np.unpackbits(packed, axis=1, count=classes)


def code_health(packed, bits):
    """Figures that show collapsed or wasted codes.

    Args:
        packed: uint8 [N, ceil(bits / 8)].
        bits: code length.

    Returns:
        dict: ``bit_balance``, mean over bits of 1 - |p(1) - p(0)|: 1 when every bit is on for half of the items, 0
        when every bit is constant; ``mean_abs_correlation``, mean |Pearson correlation| over pairs of different bits
        that vary (0 where there are none); ``distinct_codes``; ``constant_bits``; ``items``.

    Raises:
        InputError: no codes, or codes of another length.
    """
    check_codes(packed, bits)
    items = len(packed)
    if not items:
        raise InputError("no codes to look at")
    total, product = np.zeros(bits), np.zeros((bits, bits))
    for start in range(0, items, _ROWS):
        signs = unpack(packed[start:start + _ROWS], bits).astype(np.float32)
        total += signs.sum(0)
        product += signs.T @ signs  # whole numbers below 2 ** 24: exact
    mean = total / items
    varying = np.abs(total) < items
    covariance = product / items - np.outer(mean, mean)
    scale = np.sqrt(np.where(varying, 1 - mean ** 2, 1))
    correlation = np.abs(covariance / np.outer(scale, scale))[np.ix_(varying, varying)]
    pairs = varying.sum() * (varying.sum() - 1)
    off_diagonal = correlation.sum() - np.trace(correlation)
    words = to_words(packed)
    words = words[:, np.lexsort(words)]
    return {"bit_balance": float((1 - np.abs(mean)).mean()),
            "mean_abs_correlation": float(off_diagonal / pairs) if pairs else 0.0,
            "distinct_codes": int(1 + (words[:, 1:] != words[:, :-1]).any(0).sum()),
            "constant_bits": int(bits - varying.sum()), "items": items}


def collapse(packed, classes=0):
    """What is wrong where codes hardly tell items apart, as one line; None where they do.

    A good code of ten classes may have ten values: few values are a fault only where they are fewer than the classes.

    Args:
        packed: uint8 [N, ceil(bits / 8)].
        classes: label columns, 0 = not known.
    """
    items, words = len(packed), to_words(packed)
    words = words[:, np.lexsort(words)]
    ends = np.flatnonzero(np.append((words[:, 1:] != words[:, :-1]).any(0), True))
    counts = np.diff(ends, prepend=-1)
    if items < 2:
        return None
    if len(counts) == 1:
        return f"all {items} items share one code: the codes say nothing"
    if counts.max() > MOST_SHARE * items:
        return f"{counts.max()} of {items} items share one code: the codes say next to nothing"
    if len(counts) <= FEW_SHARE * items and not len(counts) >= classes > 0:
        return f"{items} items have only {len(counts)} different codes: the codes say little"
    return None


def running_together(packed, bits):
    """Whether the codes of a batch are about to collapse, as one line; None where they are not.

    A batch is too few codes for ``collapse``. What precedes it is seen in any batch: most bits are the same for all.

    Args:
        packed: uint8 [N, ceil(bits / 8)].
        bits: code length.
    """
    constant = code_health(packed, bits)["constant_bits"]
    if len(packed) < FEWEST_ITEMS or constant <= bits / 2:
        return None
    return f"{constant} of {bits} bits are the same for all of {len(packed)} training images"


def format_health(health):
    """The result of ``code_health`` as one line of text."""
    return (f"code health: bit balance {health['bit_balance']:.3f}, mean |bit correlation| "
            f"{health['mean_abs_correlation']:.3f}, {health['distinct_codes']} distinct codes of {health['items']}, "
            f"{health['constant_bits']} constant bits")
