"""python -m utils.datasets shard NAME_OR_PATH --out DIR: the pictures of a data set as ``.tar`` shards (shards.py).

Picture files are copied byte for byte, other pictures (CIFAR-10) stored as PNG, so that every picture, and every code
made from it, is the same as before. ``001.jpg`` comes with ``001.cls`` (one class) and ``001.txt`` (a text), or with
``001.json`` (several classes or none, by name; a text with blanks around it; an id that is no fitting member name).
``classes.txt`` names the classes. A data set that brings its split also gets its lists train.txt, query.txt and
database.txt, so that the folder is the same data set again: ``--dataset DIR``; the others are split by the same flags
as before.

The bytes depend on the data only: sorted ids, no times, owners or machine names. The folder appears when it is whole.
"""
import io
import json
import os
import re
import tarfile

import cv2
import numpy as np

from utils.datasets import list_file, lists
from utils.datasets.base import FileImages, Request
from utils.datasets.own import shards, tar_items
from utils.datasets.own import splits as own_splits
from utils.errors import InputError
from utils.files import forget_dead_writer
from utils.folders import replaced
from utils.images import IMAGE_ENDINGS

PER_SHARD = 10_000
_ENDINGS = {b"\xff\xd8": ".jpg", b"\x89PNG": ".png", b"GIF8": ".gif", b"BM": ".bmp", b"RIFF": ".webp",
            b"II*\0": ".tif", b"MM\0*": ".tif", b"P": ".ppm"}


def collect(path, load, root=None, list_dir=None, named=False):
    """What is to be stored.

    Args:
        path: name of a data set, or a path of one's own pictures.
        load: callable -> Protocol.
        root, list_dir: as in ``load_protocol``. named: ``path`` is the name of a protocol.

    Returns:
        (list of Splits, class names, True where the splits are to be kept as lists).
    """
    listed = os.path.isdir(path) and (list_dir or lists.find_lists(path))
    if named:
        listed = True
    elif shards.names_shards(path):
        pool, classes = shards.open_shards(path)
        return [pool], classes, False
    if not listed and (os.path.isdir(path) or path.lower().endswith(own_splits.ENDINGS)):
        table = own_splits.read(path, Request(root=root))
        if table.splits is None:
            return [table.whole()], table.classes, False
    protocol = load()
    return list(protocol.splits), protocol.classes, True


def write_shards(splits, classes, folder, per_shard=PER_SHARD, with_lists=False, say=print):
    """Write the items of all splits, each once, to ``folder/000000.tar`` and so on.

    Args:
        splits: list of Splits with pictures. classes: class names.
        folder: new, or empty.
        per_shard: pictures in a shard.
        with_lists: also write a list of each split.
        say: gets a line when it is done.

    Raises:
        InputError: no pictures, a picture file that cannot be read, a folder with contents, a full disk.
    """
    for split in splits:
        if split.images is None:
            raise InputError(f"the {split.name} split has features and no pictures, there is nothing to store")
    folder = os.path.abspath(folder)
    forget_dead_writer(folder)
    _need_empty(folder)
    with replaced(folder, set(), "", flag="--out") as temporary:
        _need_empty(folder)  # another process may have been first
        places = {item: (split, i) for split in reversed(splits) for i, item in enumerate(split.ids)}
        count = _write_all(temporary, places, classes, per_shard)
        if with_lists:
            for split in splits:
                _write_text(os.path.join(temporary, f"{split.name}.txt"),
                            list_file.write_lines(split.ids, split.labels))
        if classes:
            _write_text(os.path.join(temporary, "classes.txt"), "".join(f"{name}\n" for name in classes))
    say(f"{len(places)} pictures in {count} shards of {folder}{', with their lists' if with_lists else ''}")


def _need_empty(folder):
    """Raise InputError unless ``folder`` is new or empty."""
    if os.path.exists(folder) and (not os.path.isdir(folder) or os.listdir(folder)):
        raise InputError(f"{folder} has contents already; choose a new folder")


def _write_all(folder, places, classes, per_shard):
    """The shards of all items; returns their number."""
    ids = sorted(places)
    stems = [os.path.splitext(name)[0] for name in ids]
    twice = {a for a, b in zip(sorted(stems), sorted(stems)[1:]) if a == b}
    # pictures without labels must not get the names of their folders as labels
    bare = all(split.labels is None for split, _ in places.values()) and shards.class_folders(ids)
    from tqdm import tqdm
    for number, start in enumerate(tqdm(range(0, len(ids), per_shard), desc="shards", leave=False, disable=None)):
        with tarfile.open(os.path.join(folder, f"{number:06d}.tar"), "w", format=tarfile.PAX_FORMAT) as tar:
            for name, stem in zip(ids[start:start + per_shard], stems[start:start + per_shard]):
                for member, data in _members(name, *places[name], classes, stem in twice, bare):
                    info = tarfile.TarInfo(member)
                    info.size, info.mode = len(data), 0o644
                    tar.addfile(info, io.BytesIO(data))
    return number + 1


def _members(name, split, i, classes, twice, bare):
    """[(member name, bytes)] of one item.

    Args:
        twice: another item differs in the ending only.
        bare: say that there are no labels.
    """
    data, ending = _picture(split, i)
    stem = os.path.splitext(name)[0]
    folder, slash, base = stem.rpartition("/")
    known = os.path.splitext(name)[1].lower() in IMAGE_ENDINGS
    plain = known and not twice and not re.search(r"^__|[.%]", base) and tar_items.is_member_name(name)
    key, picture = stem, name
    if not plain:
        # no dot may be left in the key, nor two underscores at its beginning; the id is kept beside
        key = re.sub(r"(^|/)__", r"\1%5F_", name.replace("%", "%25").replace(".", "%2E"))
        picture = key + ending
    members = [(picture, data)]
    labels = None if split.labels is None else np.flatnonzero(split.labels[i])
    text = None if split.texts is None else split.texts[i]
    if bare:
        labels = np.zeros(0, np.int64)
    elif plain and (labels is None or len(labels) == 1) and (text is None or text == text.strip()):
        members += [] if labels is None else [(f"{key}.cls", str(labels[0]).encode())]
        members += [] if text is None else [(f"{key}.txt", text.encode("utf-8", "surrogatepass"))]
        return members
    note = {} if plain else {"__id__": name}
    note.update({} if labels is None else {"labels": [classes[c] for c in labels]})
    note.update({} if text is None else {"text": text})
    return members + [(f"{key}.json", json.dumps(note).encode())]


def _picture(split, i):
    """(bytes of the picture file, its ending)."""
    images = split.images
    if hasattr(images, "encoded"):
        data = images.encoded(i)
    elif isinstance(images, FileImages):
        try:
            with open(images.path(i), "rb") as file:
                data = file.read()
        except OSError as error:
            raise InputError(f"{split.where(i)}: {images.path(i)} cannot be read: {error.strerror}") from error
    else:
        return cv2.imencode(".png", cv2.cvtColor(images.read(i), cv2.COLOR_RGB2BGR))[1].tobytes(), ".png"
    ending = os.path.splitext(split.ids[i])[1].lower()
    if ending not in IMAGE_ENDINGS:
        ending = next((known for magic, known in _ENDINGS.items() if data.startswith(magic)), ".jpg")
    return data, ending


def _write_text(path, text):
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        file.write(text)


# the command -------------------------------------------------------------------------------------
def add_command(commands):
    """Add ``shard`` to the sub-parsers of ``python -m utils.datasets``; returns its parser."""
    parser = commands.add_parser("shard", help="copy the pictures into .tar shards")
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder for the shards")
    parser.add_argument("--per-shard", type=int, default=PER_SHARD, metavar="N", help="pictures in a shard")
    return parser


def command(options, load, named):
    """Run ``shard``; ``load``: callable -> Protocol; ``named``: as in ``collect``."""
    if options.per_shard < 1:
        raise InputError(f"--per-shard {options.per_shard}: must be 1 or more")
    splits, classes, with_lists = collect(options.name, load, options.root, options.list_dir, named)
    write_shards(splits, classes, options.out, options.per_shard, with_lists)
