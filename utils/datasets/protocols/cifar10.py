"""CIFAR-10 from the official ``cifar-10-python.tar.gz``, in the three splits that hashing papers use.

The pool is all 60,000 images, train batches first, then the test batch; ids are ``cifar10/train/00042`` and
``cifar10/test/00042``. The public code draws its splits unseeded; ours are drawn class by class from a seed
(seeded.py): the images of class c in the order ``permutation(n_c, seed, 10, c)``, first the queries, then the training
images, then the rest. The database is stored in the order ``permutation(n, seed, 11)``, so position tells nothing about
the class.

The batches are pickles, which could run any code; utils.safe_pickle reads arrays and plain values only.
"""
import lzma
import os
import tarfile
import zlib

import numpy as np

from utils import safe_pickle
from utils.datasets.base import DATA, ArrayImages, DataSet, Protocol, Split, holds
from utils.datasets.seeded import permutation
from utils.datasets.tar_stream import open_tar
from utils.errors import InputError

DEFAULT_ROOT = os.path.join(DATA, "cifar10")
ARCHIVE = "cifar-10-python.tar.gz"
FOLDER = "cifar-10-batches-py"
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
PER_CLASS = {"cifar10": (100, 500), "cifar10-1": (100, 500), "cifar10-2": (1000, None)}
_LARGEST = 64 << 20  # bytes of a batch; the official ones have 31 MB
_LARGEST_ALL = 512 << 20  # bytes of the whole tar, unpacked; the official one has 186 MB


def read_batch(data, name):
    """Bytes of a batch file -> (images uint8 [N, 32, 32, 3] RGB, labels int64 [N]).

    Raises:
        InputError: not a CIFAR-10 batch. No code of the file is ever run.
    """
    try:
        batch, _ = safe_pickle.load(data)
    except safe_pickle.PickleError as error:
        raise InputError(f"{name} is not a CIFAR-10 batch file ({error})") from error
    pixels, labels = (batch.get(key) if type(batch) is dict else None for key in ("data", "labels"))
    pixels = pixels.array if type(pixels) is safe_pickle.Array else None
    if type(labels) is not list or any(type(label) is not int for label in labels):
        raise InputError(f"{name} is not a CIFAR-10 batch file (no list of labels)")
    if pixels is None or pixels.dtype != np.uint8 or pixels.shape != (len(labels), 3072):
        raise InputError(f"{name} is not a CIFAR-10 batch file (no uint8 array of one row of 3072 an image)")
    if labels and not 0 <= min(labels) <= max(labels) < len(CLASSES):
        raise InputError(f"{name}: a label is outside 0..{len(CLASSES) - 1}")
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.array(labels, np.int64)


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
    batches, room = {}, _LARGEST_ALL
    try:
        with open_tar(path, packed=True, most=_LARGEST) as tar:
            for member in tar:
                name, room = os.path.basename(member.name), room - 512 - member.size
                if room < 0 or member.size > _LARGEST:
                    raise InputError(f"{path}:{name} is not a CIFAR-10 batch file (too large)")
                if name in BATCHES and member.isfile():
                    batches[name] = tar.extractfile(member).read()
    except (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, ValueError) as error:
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
    def load(request):
        images, labels, ids = read_all(request.root)
        seed, sizes, (per_query, per_train) = request.seed, request.sizes, PER_CLASS[name]
        query, train, rest = split_rows(labels, seed, sizes.get("query_per_class", per_query),
                                        sizes.get("train_per_class", per_train), name)
        database = {"cifar10": rest, "cifar10-1": np.concatenate([train, rest]), "cifar10-2": train}[name]
        pool = Split("pool", ids, np.eye(len(CLASSES), dtype=np.uint8)[labels], ArrayImages(images))
        order = permutation(len(database), seed, 11)
        return Protocol(name, pool.select(train, "train"), pool.select(query, "query"),
                        pool.select(database[order], "database"), list(CLASSES), topk=0, seed=seed)
    return load


_SOURCE = f"research use, cite Krizhevsky 2009; {URL}"
DATA_SETS = tuple(DataSet(name=name, load=_loader(name), counts=counts, classes=10, inside=name != "cifar10",
                   sizes=("query_per_class", "train_per_class"), source=_SOURCE, recognises=recognises)
              for name, counts in (("cifar10", (1000, 5000, 54000)), ("cifar10-1", (1000, 5000, 59000)),
                                   ("cifar10-2", (10000, 50000, 50000))))
