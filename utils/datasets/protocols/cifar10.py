"""CIFAR-10 from the official ``cifar-10-python.tar.gz``, in the three splits that hashing papers use.

The pool is all 60,000 images, train batches first, then the test batch; ids are ``cifar10/train/00042`` and
``cifar10/test/00042``. The public code draws its splits unseeded; ours are drawn class by class from a seed (draw.py):
the images of class c in the order ``permutation(n_c, seed, 10, c)``, first the queries, then the training images, then
the rest. The database is stored in the order ``permutation(n, seed, 11)``, so position tells nothing about the class.

The batches are pickles, which could run any code. Ours is not a pickle reader with a list of harmless numpy names: the
numpy names are mapped to two small classes here that accept uint8 arrays and nothing else.
"""
import gzip
import io
import os
import pickle
import tarfile
import zlib

import numpy as np

from utils.datasets.base import DATA, ArrayImages, Protocol, Spec, Split, holds
from utils.datasets.seeded import permutation
from utils.errors import InputError

DEFAULT_ROOT = os.path.join(DATA, "cifar10")
ARCHIVE = "cifar-10-python.tar.gz"
FOLDER = "cifar-10-batches-py"
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
PER_CLASS = {"cifar10": (100, 500), "cifar10-1": (100, 500), "cifar10-2": (1000, None)}
_LARGEST = 64 << 20  # bytes of a batch; the official ones have 31 MB


class _Dtype:
    """Stands in for numpy.dtype in a batch file."""

    def __init__(self, code, *_):
        if code not in ("u1", b"u1"):
            raise pickle.UnpicklingError(f"an array of type {code!r}")

    def __setstate__(self, state):
        pass


class _Array:
    """Stands in for numpy.ndarray in a batch file: uint8, C order; ``value`` is the array."""

    value = None

    def __setstate__(self, state):
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Dtype) or fortran:
            raise pickle.UnpicklingError("an array of another type or order")
        data = data.encode("latin1") if isinstance(data, str) else data
        self.value = np.frombuffer(data, np.uint8).reshape(shape)


def _reconstruct(*_):
    return _Array()


def _encode(text, encoding):
    """Stands in for _codecs.encode, by which Python 3 writes bytes in old pickle protocols."""
    if encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"text encoding {encoding!r}")
    return (text.decode("latin1") if isinstance(text, bytes) else text).encode("latin1")


_ALLOWED = {("numpy.core.multiarray", "_reconstruct"): _reconstruct,
            ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
            ("numpy", "ndarray"): _Array, ("numpy", "dtype"): _Dtype, ("_codecs", "encode"): _encode}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ALLOWED[module, name]


def read_batch(data, name):
    """Bytes of a batch file -> (images uint8 [N, 32, 32, 3] RGB, labels int64 [N]).

    Raises:
        InputError: not a CIFAR-10 batch. No code of the file is ever run.
    """
    try:
        batch = _Unpickler(io.BytesIO(data), encoding="bytes").load()
        batch = {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
        pixels = batch["data"].value if isinstance(batch["data"], _Array) else None
        labels = np.array([int(label) for label in batch["labels"]], np.int64)
    except Exception as error:  # unpickling hostile bytes raises nearly any type
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise InputError(f"{name} is not a CIFAR-10 batch file ({reason})") from error
    if pixels is None or pixels.ndim != 2 or pixels.shape != (len(labels), 3072):
        raise InputError(f"{name} is not a CIFAR-10 batch file (no uint8 array of one row of 3072 an image)")
    if len(labels) and not (0 <= labels.min() and labels.max() < len(CLASSES)):
        raise InputError(f"{name}: a label is outside 0..{len(CLASSES) - 1}")
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def find(root):
    """The archive file or the unpacked folder at ``root`` (data/cifar10 by default).

    Args:
        root: the archive, a folder that holds it or the unpacked folder, or the unpacked folder itself.

    Raises:
        InputError: nothing there; says what to place where.
    """
    root = os.fspath(root or DEFAULT_ROOT)
    if os.path.isfile(root):
        return root
    for folder in (root, os.path.join(root, FOLDER)):
        if os.path.isfile(os.path.join(folder, BATCHES[-1])):
            return folder
    archive = os.path.join(root, ARCHIVE)
    if os.path.isfile(archive):
        return archive
    raise InputError(f"no CIFAR-10 in {root}: python -m utils.datasets download cifar10 --root {root} fetches it; or "
                     f"download {URL} and place {ARCHIVE} (or the unpacked {FOLDER}) there, or "
                     "name its folder with --data-path")


def recognises(path):
    """Whether a path is the archive, the unpacked folder, or a folder that holds one of them."""
    if os.path.isfile(path):
        return os.path.basename(path) == ARCHIVE
    return os.path.isdir(path) and holds(ARCHIVE, BATCHES[-1], f"{FOLDER}/{BATCHES[-1]}")(path)


def read_all(root):
    """All images.

    Returns:
        images uint8 [N, 32, 32, 3], labels int64 [N], ids list of str; train batches first.

    Raises:
        InputError: nothing at ``root``, a broken archive, a missing or foreign batch file.
    """
    place = find(root)
    batches = _from_folder(place) if os.path.isdir(place) else _from_archive(place)
    missing = [name for name in BATCHES if name not in batches]
    if missing:
        raise InputError(f"{place} lacks the batch file {missing[0]}; is it the official {ARCHIVE}?")
    parts = [read_batch(batches.pop(name), f"{place}:{name}") for name in BATCHES]
    train = sum(len(labels) for _, labels in parts[:-1])
    test = len(parts[-1][1])
    ids = [f"cifar10/train/{i:05d}" for i in range(train)] + [f"cifar10/test/{i:05d}" for i in range(test)]
    return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts]), ids


def _from_folder(folder):
    batches = {}
    for name in BATCHES:
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            if os.path.getsize(path) > _LARGEST:
                raise InputError(f"{path} is not a CIFAR-10 batch file (too large)")
            with open(path, "rb") as file:
                batches[name] = file.read()
    return batches


def _from_archive(path):
    """dict batch name -> bytes. Nothing is unpacked to disk, so member names cannot lead anywhere."""
    batches = {}
    try:
        with tarfile.open(path, "r:*") as tar:
            for member in tar:
                name = os.path.basename(member.name)
                if name in BATCHES and member.isfile():
                    if member.size > _LARGEST:
                        raise InputError(f"{path}:{name} is not a CIFAR-10 batch file (too large)")
                    batches[name] = tar.extractfile(member).read()
    except (OSError, EOFError, zlib.error, tarfile.TarError, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is broken or cut short ({error}); download it again from {URL}") from error
    return batches


def split_rows(labels, seed, query_per_class, train_per_class, name):
    """Row numbers (query, train, rest), each int64, class by class.

    Args:
        labels: int64 [N].
        train_per_class: None = all that are no queries.

    Raises:
        InputError: a class has too few images.
    """
    query, train, rest = [], [], []
    for c in range(len(CLASSES)):
        rows = np.nonzero(labels == c)[0]
        rows = rows[permutation(len(rows), seed, 10, c)]
        want = len(rows) - query_per_class if train_per_class is None else train_per_class
        if want < 1 or query_per_class + want > len(rows):
            raise InputError(f"{name} needs {query_per_class} query + {max(want, 1)} training images a class, but "
                             f"there are {len(rows)} of class {CLASSES[c]}; pass smaller query_per_class and "
                             "train_per_class")
        query.append(rows[:query_per_class])
        train.append(rows[query_per_class:query_per_class + want])
        rest.append(rows[query_per_class + want:])
    return np.concatenate(query), np.concatenate(train), np.concatenate(rest)


def _loader(name):
    def load(root, seed, list_dir, sizes, on_fault):
        images, labels, ids = read_all(root)
        per_query, per_train = PER_CLASS[name]
        query, train, rest = split_rows(labels, seed, sizes.get("query_per_class", per_query),
                                        sizes.get("train_per_class", per_train), name)
        database = {"cifar10": rest, "cifar10-1": np.concatenate([train, rest]), "cifar10-2": train}[name]
        pool = Split("pool", ids, np.eye(len(CLASSES), dtype=np.uint8)[labels], ArrayImages(images))
        order = permutation(len(database), seed, 11)
        return Protocol(name, pool.select(train, "train"), pool.select(query, "query"),
                        pool.select(database[order], "database"), list(CLASSES), topk=0, seed=seed)
    return load


_SOURCE = f"research use, cite Krizhevsky 2009; {URL}"
SPECS = tuple(Spec(name=name, load=_loader(name), counts=counts, classes=10, inside=name != "cifar10",
                   sizes=("query_per_class", "train_per_class"), source=_SOURCE, recognises=recognises)
              for name, counts in (("cifar10", (1000, 5000, 54000)), ("cifar10-1", (1000, 5000, 59000)),
                                   ("cifar10-2", (10000, 50000, 50000))))
