"""Features of a frozen backbone, kept per picture: any split, run, code length, seed or method finds them again.

A store is a folder. Below it one folder holds the features that one network makes in one way (its *space*: backbone
weights, preprocessing, kind of features, precision). In it lie *pieces*: safetensors files with the keys of their
pictures (16 bytes each), the features, and a checksum. A piece is written whole or not at all, under a name of its own,
so an interrupted extraction loses one piece at most and several processes may fill a store at once. Features are
mapped, not read. A picture's key follows its file (path, size, time), or its pixels where it has no file.

    python -m utils.training.feature_store list|clear [--feature-cache DIR]
"""
import hashlib
import json
import os
import shutil
import zlib

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from utils.errors import InputError, run_main
from utils.files import atomic_path
from utils.flags import read_options
from utils.plain_json import parse_json, read_json
from utils.settings import Setting

DEFAULT = os.path.join("output", "feature_store")
ABOUT = "space.json"
KEY_BYTES = 16


def image_keys(images, suffix=None):
    """Keys of all pictures of a split: list of bytes, None for one that is not there (reading it names it).

    Args:
        images: object of a Split.
        suffix: callable position -> text that belongs to the key (which augmented view), or None.
    """
    keys = []
    for i in range(len(images)):
        if hasattr(images, "stamp"):
            where = images.path(i) if hasattr(images, "path") else images.where(i)
            try:
                text = f"{os.path.abspath(where)} {images.stamp(i)}".encode("utf-8", "surrogateescape")
            except OSError:
                keys.append(None)
                continue
        else:
            pixels = images.read(i)
            text = f"{pixels.shape} ".encode() + pixels.tobytes()
        if suffix is not None:
            text += f" {suffix(i)}".encode()
        keys.append(hashlib.blake2b(text, digest_size=KEY_BYTES).digest())
    return keys


class Piece:
    """One file of a space, opened: ``keys`` (list of bytes) and ``rows`` (mapped float32 [n, ...]).

    Raises:
        ValueError: it is damaged; says how.
    """

    def __init__(self, path):
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, 1 << 20):
                raise ValueError("no header")
            header = parse_json(file.read(length))
        arrays = {}
        for name, kind in (("keys", "uint8"), ("rows", "float32")):
            entry = header[name]
            begin, end = entry["data_offsets"]
            shape = tuple(int(n) for n in entry["shape"])
            if entry["dtype"] != {"uint8": "U8", "float32": "F32"}[kind] or 8 + length + end > size \
                    or int(np.prod(shape, dtype=object)) * np.dtype(kind).itemsize != end - begin:
                raise ValueError(f"{name} do not fit the file")
            arrays[name] = np.memmap(path, kind, "r", 8 + length + begin, shape)
        if arrays["keys"].shape != (len(arrays["rows"]), KEY_BYTES):
            raise ValueError("another number of keys than of rows")
        if header["__metadata__"]["crc32"] != checksum(arrays["keys"], arrays["rows"]):
            raise ValueError("its checksum differs")
        raw = arrays["keys"].tobytes()
        self.keys = [raw[i:i + KEY_BYTES] for i in range(0, len(raw), KEY_BYTES)]
        self.rows = arrays["rows"]


def checksum(*arrays):
    """CRC-32 over the bytes of arrays, as text."""
    value = 0
    for array in arrays:
        for start in range(0, len(array), 1024):
            value = zlib.crc32(np.ascontiguousarray(array[start:start + 1024]), value)
    return f"{value:08x}"


class Space:
    """The pieces of one space: ``find`` looks up, ``add`` writes a piece.

    Args:
        folder: of the store.
        about: plain dict; its JSON names the space, and is kept in it for ``list``.
        say: callable of a line, for what is left out.

    Raises:
        InputError: the folder cannot be made.
    """

    def __init__(self, folder, about, say=print):
        text = json.dumps(about, sort_keys=True)
        self.folder = os.path.join(folder, hashlib.sha256(text.encode()).hexdigest()[:20])
        self.say = say
        self.pieces = {}  # file name -> Piece
        self.place = {}  # key -> (rows of its piece, row)
        path = os.path.join(self.folder, ABOUT)
        if not os.path.isfile(path):
            with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
                file.write(text + "\n")
        self.refresh()

    def refresh(self):
        """Open the pieces that were written since; a damaged one is removed, with a line: it can be made again."""
        for name in sorted(os.listdir(self.folder)):
            path = os.path.join(self.folder, name)
            if name in self.pieces or not name.endswith(".safetensors") or name.startswith("."):
                continue
            try:
                piece = Piece(path)
            except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
                self.say(f"note: {path} of the feature store is damaged ({error}); it is removed, its features are "
                         "computed again")
                if os.path.exists(path):
                    os.remove(path)
                continue
            self.pieces[name] = piece
            for row, key in enumerate(piece.keys):
                self.place.setdefault(key, (piece.rows, row))

    def add(self, keys, rows):
        """Write one piece: keys (list of bytes) and their features float32 [n, ...]. Raises InputError (full disk)."""
        keys = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES)
        rows = np.ascontiguousarray(rows, dtype="float32")
        crc = checksum(keys, rows)
        name = f"piece-{hashlib.sha256(keys.tobytes()).hexdigest()[:16]}.safetensors"
        with atomic_path(os.path.join(self.folder, name)) as temporary:
            try:
                save_file({"keys": keys, "rows": rows}, temporary, metadata={"crc32": crc})
            except SafetensorError as error:
                raise OSError(None, str(error)) from error

    def find(self, keys):
        """StoredFeatures of pictures that are all known (see ``missing``)."""
        return StoredFeatures([self.place[key] for key in keys])

    def missing(self, keys):
        """Positions, int64, of the keys that are not known; a key that occurs twice counts once."""
        seen, found = set(), []
        for i, key in enumerate(keys):
            if key is None or key not in self.place and key not in seen:
                found.append(i)
                seen.add(key)
        return np.array(found, "int64")


class StoredFeatures:
    """Rows that lie in mapped pieces, like an array: ``features[positions]`` float32 [n, ...], ``len``, ``shape``.

    ``features[positions, views]`` takes one of the views of each row.
    """

    def __init__(self, places):
        self.places = places
        self.shape = (len(places), *places[0][0].shape[1:])

    def __len__(self):
        return len(self.places)

    def __getitem__(self, positions):
        if isinstance(positions, slice):
            positions = range(*positions.indices(len(self)))
        if isinstance(positions, (int, np.integer)):
            rows, row = self.places[positions]
            return rows[row]
        positions, views = positions if isinstance(positions, tuple) else (positions, None)
        out = np.empty((len(positions), *self.shape[1 if views is None else 2:]), "float32")
        for i, position in enumerate(positions):
            rows, row = self.places[position]
            out[i] = rows[row] if views is None else rows[row, views[i]]
        return out

    def __array__(self, dtype=None, copy=None):
        return self[:].astype(dtype or "float32", copy=False)


# the command --------------------------------------------------------------------------------------
def spaces(folder):
    """(folder of a space, what it holds, files, bytes) of each space of a store."""
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        about = os.path.join(path, ABOUT)
        if os.path.isfile(about):
            text = read_json(about)
            files = [os.path.join(path, entry) for entry in os.listdir(path) if entry.endswith(".safetensors")]
            yield path, text, len(files), sum(map(os.path.getsize, files))


def main(argv):
    """List the spaces of a store, or remove them."""
    options = read_options(argv, "-m utils.training.feature_store", "Features of frozen backbones that runs have kept.",
                           {"feature_cache": Setting(DEFAULT, "folder of the store")},
                           {"what": Setting(None, "what to do with them", choices=("list", "clear"))})
    if not os.path.isdir(options.feature_cache):
        raise InputError(f"no feature store at {options.feature_cache}; name its folder with --feature-cache")
    total = 0
    for path, about, files, size in list(spaces(options.feature_cache)):
        total += size
        print(f"{path}: {about.get('backbone')}, {about.get('features')}, {about.get('engine')}, {files} files, "
              f"{size / 1e6:.1f} MB")
        if options.what == "clear":
            shutil.rmtree(path)
    print(f"{total / 1e6:.1f} MB " + ("removed" if options.what == "clear" else "in all"))


if __name__ == "__main__":
    run_main(main)
