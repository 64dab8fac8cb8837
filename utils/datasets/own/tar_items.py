"""One ``.tar`` of the WebDataset layout -> arrays: names, offsets, labels and texts of its items (shards.py).

``tarfile`` reads the headers, in one pass; nothing is unpacked. What it found can be kept in an index file.
"""
import array
import contextlib
import json
import os
import re
import tarfile

import numpy as np

from utils.datasets.labels import MOST_CLASSES
from utils.datasets.tar_stream import open_tar
from utils.datasets.text_files import whole_text
from utils.errors import InputError
from utils.files import write_npz
from utils.images import IMAGE_ENDINGS
from utils.npz import read_npz
from utils.plain_json import parse_json

_VERSION = 1
_LARGEST_NOTE = 1 << 20  # bytes of a .cls, .json or .txt
_MAGIC = {b"\x1f\x8b": "gzip -d", b"BZh": "bzip2 -d", b"\xfd7zXZ": "xz -d", b"\x28\xb5\x2f\xfd": "zstd -d"}
_COLUMNS = {"name_size": np.int32, "offset": np.int64, "size": np.uint32, "label_count": np.int32,
            "label": np.int32, "text_size": np.int32}


# the pass over the headers -----------------------------------------------------------------------
def scan(path, fault):
    """One pass over the headers of a tar.

    Args:
        path: uncompressed tar.
        fault: callable of a message.

    Returns:
        (dict of arrays, number of members). Arrays: ``names`` uint8 (UTF-8 of the ids, one after the other),
        ``name_size`` int32 [N], ``offset`` int64 [N] and ``size`` uint32 [N] of the pictures, ``label_count`` int32
        [N] (-1 = none given), ``label`` int32 (places in ``values``, item by item), ``values`` uint8 (JSON list of
        class numbers and names), ``texts`` uint8, ``text_size`` int32 [N] (-1 = none).

    Raises:
        InputError: no tar, or a compressed one.
    """
    items = _Items(path, fault)
    count, last, at = 0, None, -1
    with contextlib.ExitStack() as stack:
        tar, file = _open_tar(path, stack), stack.enter_context(open(path, "rb", 0))
        length = os.fstat(file.fileno()).st_size
        while True:
            reason = "there is no end mark"
            try:
                member = tar.next()
            except (tarfile.TarError, OSError, ValueError, EOFError) as error:
                member, reason = None, str(error)
            if member is None and not any(os.pread(file.fileno(), 512, tar.offset) or b"\1"):
                if any(os.pread(file.fileno(), 1 << 20, tar.offset)):
                    fault(f"{path} goes on behind its end mark (tars that were joined with cat?); tar them anew")
                break
            # a header that is cut or damaged reads as the end, too; one with a size below 0 leads back
            if member is None or member.size < 0 or tar.offset <= at:
                fault(f"{path} ends early or is damaged ({reason}) behind "
                      f"{f'its last whole member {last}' if last else 'no whole member'} ({count} members are whole); "
                      "copy it again")
                break
            at = tar.offset
            tar.members.clear()  # tarfile would keep every header
            if member.isreg() and member.offset_data + member.size > length:
                continue  # the next step tells that the tar ends here
            count, last = count + 1, member.name
            if not member.isdir():
                items.add(member, file)
    return items.columns(), count


def _open_tar(path, stack):
    """tarfile.TarFile, closed with ``stack``. Raises InputError: no tar, or a compressed one."""
    try:
        with open(path, "rb") as file:
            start = file.read(8)
        for magic, command in _MAGIC.items():
            if start.startswith(magic):
                raise InputError(f"{path} is compressed, and pictures are read at random places; unpack it first: "
                                 f"{command} {path}")
        return stack.enter_context(open_tar(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except tarfile.TarError as error:
        raise InputError(f"{path} is no tar, or is damaged at its start ({error})") from error


class _Items:
    """Items of one shard while it is scanned: columns that grow, and the row of each key."""

    def __init__(self, path, fault):
        self.path, self.fault = path, fault
        self.rows, self.notes, self.dotted = {}, {}, []
        self.names, self.ends = bytearray(), array.array("q", [0])
        self.offset, self.size = array.array("q"), array.array("q")

    def add(self, member, file):
        """Take a member that is no folder."""
        name = re.sub(r"^(\.?/+)+", "", member.name)
        folder, slash, base = name.rpartition("/")
        stem, _, ending = base.partition(".")
        ending = ending.lower()
        if base.startswith((".", "__")):
            return
        picture = f".{ending}" in IMAGE_ENDINGS
        dotted = not picture and ending.endswith(IMAGE_ENDINGS)
        if not picture and not dotted and ending not in _NOTES:
            return
        where = f"{self.path}:{member.name}"
        if not is_member_name(name):
            self.fault(f"{where}: the name leaves the tar; pack it anew with names below one folder")
        elif not member.isreg() or member.sparse is not None:
            self.fault(f"{where}: is {_kind(member)}, not a plain file; pack it anew (tar --dereference "
                       "--hard-dereference)")
        elif picture and f"{folder}{slash}{stem}" in self.rows:
            self.fault(f"{where}: a second picture of the item {folder}{slash}{stem}")
        elif picture:
            self.rows[folder + slash + stem] = len(self.offset)
            self.take(name, member)
        elif dotted:
            self.dotted.append((folder + slash + stem, name, member))
        elif member.size > _LARGEST_NOTE:
            self.fault(f"{where}: {member.size} bytes are too many for labels or a text")
        else:
            data = os.pread(file.fileno(), member.size, member.offset_data)
            try:
                found = _NOTES[ending](data)
            except (ValueError, RecursionError) as error:
                self.fault(f"{where}: {' '.join(str(error).split())[:150]}")
            else:
                self.notes.setdefault(folder + slash + stem, {}).update(found)

    def take(self, name, member):
        if member.size >= 1 << 32:
            self.fault(f"{self.path}:{member.name}: a picture of 4 GB")
            return
        self.names += name.encode("utf-8", "surrogateescape")
        self.ends.append(len(self.names))
        self.offset.append(member.offset_data)
        self.size.append(member.size)

    def columns(self):
        """The arrays of ``scan``."""
        for key, name, member in self.dotted:
            if key in self.rows:
                continue  # a further field of the item
            if key in self.notes:
                self.fault(f"{self.path}:{name}: {key} has labels or a text, and no picture with one ending only")
            else:
                self.take(name, member)
        notes, told = {}, {key for key, _, _ in self.dotted}
        for key, note in self.notes.items():
            if key in self.rows:
                notes[self.rows[key]] = note
            elif key not in told:
                self.fault(f"{self.path}: {key} has labels or a text, but no picture; add it, or take them out "
                           "(tar --delete)")
        count = len(self.offset)
        names, values, label, texts = [], {}, array.array("i"), []
        label_count, text_size = np.full(count, -1, np.int32), np.full(count, -1, np.int32)
        for row in range(count):
            note = notes.get(row, {})
            own = bytes(self.names[self.ends[row]:self.ends[row + 1]])
            names.append(note["id"].encode("utf-8") if "id" in note else own)
            if "labels" in note:
                label_count[row] = len(note["labels"])
                label.extend(values.setdefault(value, len(values)) for value in note["labels"])
            if "text" in note:
                texts.append(note["text"].encode("utf-8"))
                text_size[row] = len(texts[-1])
        return {"names": _bytes(b"".join(names)), "name_size": np.array([len(n) for n in names], np.int32),
                "offset": np.array(self.offset, np.int64), "size": np.array(self.size, np.uint32),
                "label_count": label_count, "label": np.array(label, np.int32),
                "values": _bytes(json.dumps(list(values)).encode()), "texts": _bytes(b"".join(texts)),
                "text_size": text_size}


def is_member_name(name):
    """False for names that lead out of a folder."""
    return bool(name) and not name.startswith("/") and ".." not in name.split("/") and "\0" not in name


def _kind(member):
    return "a link" if member.islnk() or member.issym() else "sparse" if member.isreg() else "a device"


def _bytes(data):
    return np.frombuffer(data, np.uint8)


# labels and texts --------------------------------------------------------------------------------
def _cls(data):
    try:
        return {"labels": [_value(int(data.decode("ascii").strip()))]}
    except ValueError:
        raise ValueError(f"{data[:40]!r} is no class number") from None


def _txt(data):
    try:
        return {"text": data.decode("utf-8-sig").strip()}
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text (byte {error.start})") from None


def _json(data):
    try:
        found = parse_json(data)
    except ValueError as error:
        raise ValueError(f"is broken JSON ({error})") from None
    if not isinstance(found, dict):
        raise ValueError("is no JSON object with label, labels or text")
    note = {}
    labels = [found["label"]] if found.get("label") is not None else found.get("labels")
    if labels is not None:
        if not isinstance(labels, list) or len(set(map(str, labels))) < len(labels):
            raise ValueError("labels must be a list of class numbers or names, each once")
        note["labels"] = [_value(value) for value in labels]
    text = found.get("text", found.get("caption"))
    if isinstance(text, str):
        note["text"] = whole_text(text)
    if isinstance(found.get("__id__"), str) and found["__id__"]:
        note["id"] = whole_text(found["__id__"])
    return note


def _value(value):
    """A class number or name. Raises ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, str)) or value == "":
        raise ValueError(f"label {value!r} is no class number or name")
    if isinstance(value, int) and not 0 <= value < MOST_CLASSES:
        raise ValueError(f"class number {str(value)[:20]} is not within 0 to {MOST_CLASSES - 1}")
    return whole_text(value) if isinstance(value, str) else value


_NOTES = {"cls": _cls, "json": _json, "txt": _txt}


# the index of a shard ----------------------------------------------------------------------------
def stamp_of(path):
    """int64 [3]: format of the index, size and time of the shard."""
    info = os.stat(path)
    return np.array([_VERSION, info.st_size, info.st_mtime_ns], np.int64)


def read_index(path, stamp):
    """Columns of a shard from its index file; None where there is none that fits the shard's ``stamp``."""
    try:
        columns, _ = read_npz(f"{path}.index")
        end = columns["offset"].astype(np.uint64) + columns["size"]
        fits = (np.array_equal(columns.pop("stamp"), stamp)
                and all(columns[name].dtype == dtype and columns[name].ndim == 1 for name, dtype in _COLUMNS.items())
                and len({len(columns[name]) for name in _COLUMNS if name != "label"}) == 1
                and columns["name_size"].min(initial=0) >= 0 and columns["name_size"].sum() == len(columns["names"])
                and columns["text_size"].clip(0).sum() == len(columns["texts"])
                and columns["label_count"].clip(0).sum() == len(columns["label"])
                and end.max(initial=0) <= stamp[1])
        values = parse_json(columns["values"].tobytes())
        fits = fits and columns["label"].min(initial=0) >= 0 and columns["label"].max(initial=-1) < len(values)
        return columns if fits else None
    except Exception:  # a damaged archive can raise nearly anything; the shard itself is read instead
        return None


def write_index(path, columns, stamp):
    """Keep the columns beside the shard, if the folder can be written."""
    try:
        write_npz(f"{path}.index", {"stamp": stamp, **columns})
    except InputError:
        pass
