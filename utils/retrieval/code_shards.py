"""Code shards: packed codes with ids and labels in one file that is mapped into memory, not read.

A shard is the unit of work of the bulk encoder and of an index that grows: one file, written whole or not at all, and
never changed afterwards. Opening one costs a read of 4 KiB, whatever its size; what is searched is read from the disk
when it is looked at, and shared by all processes that do.

The file: a header of ``HEADER`` bytes, then the pieces, each aligned to 64 bytes, the codes always first:

    codes       words [W, rows] of ``hamming.prepare``: what a search reads, at offset 4096
    ends        uint64 [rows + 1]; the id of row i is ids[ends[i]:ends[i + 1]]
    ids         UTF-8, lone surrogates kept (names of files that are no valid Unicode)
    keys        uint64 [rows], ascending: 64-bit hashes of the ids (BLAKE2b)
    key_rows    uint32 [rows]: the row of each key; with ``keys`` an id is found without reading the others
    label_bits  uint8 [rows, ceil(C / 8)], numpy.packbits of the 0/1 label rows; only where there are labels
    relaxed     float16 [rows, bits]: the network's output before the sign; only where it was kept
    meta        JSON, whatever the writer wants to know of this shard again

All numbers are little-endian. The header is JSON, padded with blanks: format, version, bits, rows, labels (columns or
null), fingerprint, precision, and the offset, size and SHA-256 of each piece; its last 65 bytes are its own SHA-256 in
hex and a newline. That digest stands for the whole file. Equal contents give equal bytes.
"""
import hashlib
import json
import mmap
import os

import numpy as np

from utils.errors import InputError
from utils.files import atomic_path
from utils.plain_json import parse_json
from utils.retrieval.codes import CodeFile
from utils.retrieval.hamming import MAX_BITS
from utils.retrieval.shard_rows import Rows
from utils.schema import check, either, mapping, row, table, text, whole

HEADER = 4096
_FORMAT = "PaddleDeepHash code shard"
_VERSION = 1
_ALIGN = 64
_RANGE = 1 << 24
DIGEST = text("[0-9a-f]{64}", "64 hex digits")
_KIND = table({"format": text(), "version": whole(1), "bits": whole(1, MAX_BITS), "word": whole(1, 8), "rows": whole(0),
               "labels": either(whole(1)), "fingerprint": text(), "precision": text(),
               "pieces": mapping(row(whole(HEADER), whole(0), DIGEST))})


# writing ------------------------------------------------------------------------------------
def write_shard(path, rows, info, meta=None):
    """Write a shard atomically and durably.

    Args:
        path: file, usually ``shard-00000000.codes``.
        rows: Rows, or a CodeFile.
        info: ``CodesInfo`` of the collection (utils.retrieval.shard_set): what the rows are.
        meta: plain JSON values.

    Returns:
        the digest that stands for the file: 64 hex digits.

    Raises:
        InputError: a CodeFile whose parts do not fit, meta that is no JSON, or a path that cannot be written.
    """
    if isinstance(rows, CodeFile):
        rows.check()
        rows = Rows.of(rows)
    try:
        notes = json.dumps(meta or {}, allow_nan=False).encode("ascii")
    except (TypeError, ValueError) as error:
        raise InputError(f"meta of a shard must be plain JSON values: {error}") from error
    order = np.argsort(rows.keys, kind="stable")
    arrays = {"codes": rows.words, "ends": rows.ends, "ids": rows.names, "keys": rows.keys[order],
              "key_rows": order.astype("<u4"), "label_bits": rows.label_bits, "relaxed": rows.relaxed,
              "meta": np.frombuffer(notes, np.uint8)}
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items() if array is not None}
    sizes = {name: (array.nbytes, hashlib.sha256(_bytes(array)).hexdigest()) for name, array in arrays.items()}
    header, digest = make_header(info, len(rows), rows.words.itemsize, sizes)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(header)
        for array in arrays.values():
            file.write(bytes(-file.tell() % _ALIGN))
            file.write(_bytes(array))
    return digest


def _bytes(array):
    return memoryview(array).cast("B") if array.size else b""


def make_header(info, rows, word, sizes):
    """The header of a shard.

    Args:
        info: CodesInfo. rows: their number. word: bytes of a word of the codes.
        sizes: dict name -> (bytes, SHA-256) of the pieces, in the order of the file.

    Returns:
        (the header, bytes [4096]; its digest).
    """
    pieces, offset = {}, HEADER
    for name, (size, digest) in sizes.items():
        offset += -offset % _ALIGN
        pieces[name] = [offset, size, digest]
        offset += size
    text = json.dumps({"format": _FORMAT, "version": _VERSION, "bits": info.bits, "word": word, "rows": rows,
                       "labels": info.labels, "fingerprint": info.fingerprint, "precision": info.precision,
                       "pieces": pieces}).encode("ascii")
    if len(text) > HEADER - 65:
        raise InputError("fingerprint or precision of a shard are too long")
    text = text.ljust(HEADER - 65)
    digest = hashlib.sha256(text).hexdigest()
    return text + digest.encode("ascii") + b"\n", digest


# reading ------------------------------------------------------------------------------------
class Shard:
    """A shard file, mapped. All arrays are read-only views of the file.

    Attributes:
        path; digest, rows, bits, labels (columns or None), fingerprint, precision: as in the header; size: bytes.
        words: unsigned [W, rows], the database of ``hamming.topk``.
        label_bits: uint8 [rows, ceil(labels / 8)] or None. relaxed: float16 [rows, bits] or None.
    """

    def __init__(self, path, digest=None):
        """
        Args:
            path: shard file.
            digest: the one that ``write_shard`` gave; None accepts any.

        Raises:
            FileNotFoundError: there is none (a reader may be late: see ``ShardSet``).
            InputError: no shard, damaged as far as header and size tell, or not the shard of that digest.
        """
        self.path = os.fspath(path)
        with open(self.path, "rb") as file:
            header = self._read_header(file.read(HEADER))
            if digest is not None and digest != self.digest:
                raise InputError(f"{self.path} is not the shard that the manifest names (copied from elsewhere, or "
                                 "damaged): copy the folder again or encode again")
            self._fit(header)
            self.size = max(offset + size for offset, size, _ in self._pieces.values())
            found = os.fstat(file.fileno()).st_size
            if found != self.size:
                raise InputError(f"{self.path} is damaged: {found} bytes where {self.size} are announced; copy it "
                                 "again or encode again")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.bits, self.rows, self.labels = header["bits"], header["rows"], header["labels"]
        self.fingerprint, self.precision = header["fingerprint"], header["precision"]
        words = -(-(-(-self.bits // 8)) // header["word"])
        self.words = self._array("codes", f"<u{header['word']}", (words, self.rows))
        self._ends, self._names = self._array("ends", "<u8"), self._array("ids", np.uint8)
        self._keys, self._key_rows = self._array("keys", "<u8"), self._array("key_rows", "<u4")
        self.label_bits = self._array("label_bits", np.uint8, (self.rows, -(-(self.labels or 0) // 8)))
        self.relaxed = self._array("relaxed", "<f2", (self.rows, self.bits))

    def _read_header(self, data):
        text, digest = data[:HEADER - 65], data[HEADER - 65:]
        try:
            header = parse_json(text)
            if header["format"] != _FORMAT:
                raise ValueError("another format")
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.path} is no code shard or damaged: copy it again or encode again") from error
        if header["version"] != _VERSION:
            raise InputError(f"{self.path} has shard format {header['version']}, this program reads {_VERSION}: "
                             "encode again")
        self.digest = hashlib.sha256(text).hexdigest()
        if digest != self.digest.encode("ascii") + b"\n":
            raise InputError(f"{self.path} is damaged (its header): copy it again or encode again")
        check(header, _KIND, self.path, "encode again")
        self._pieces = header["pieces"]
        return header

    def _fit(self, header):
        """Raise InputError unless the pieces are those of so many rows; ids and meta may have any size."""
        rows, word = header["rows"], header["word"]
        sizes = {"codes": -(-(-(-header["bits"] // 8)) // word) * rows * word, "ends": 8 * (rows + 1), "ids": None,
                 "keys": 8 * rows, "key_rows": 4 * rows, "meta": None}
        if header["labels"] is not None:
            sizes["label_bits"] = rows * -(-header["labels"] // 8)
        if "relaxed" in self._pieces:
            sizes["relaxed"] = 2 * rows * header["bits"]
        if word & word - 1 or set(sizes) != set(self._pieces):
            raise InputError(f"{self.path} is damaged: its pieces are not those of a shard; encode again")
        for name, wanted in sizes.items():
            offset, size, _ = self._pieces[name]
            if offset % _ALIGN or wanted not in (None, size):
                raise InputError(f"{self.path} is damaged: its {name} do not fit its {rows} rows; encode again")

    def _array(self, name, dtype, shape=None):
        if name not in self._pieces:
            return None
        offset, size, _ = self._pieces[name]
        dtype = np.dtype(dtype)
        array = np.frombuffer(self._map, dtype, size // dtype.itemsize, offset)
        return array if shape is None else array.reshape(shape)

    def __len__(self):
        return self.rows

    @property
    def meta(self):
        """What the writer noted, a dict."""
        return parse_json(self._array("meta", np.uint8).tobytes())

    def codes(self, rows=slice(None)):
        """Packed codes uint8 [n, ceil(bits / 8)] of rows (int array, mask or slice)."""
        words = np.ascontiguousarray(self.words[:, rows].T)
        return words.view(np.uint8).reshape(len(words), -1)[:, :-(-self.bits // 8)]

    def ids(self, rows=slice(None)):
        """Ids of rows (int array, mask or slice), a list."""
        names = memoryview(self._names)
        try:
            return [str(names[start:end], "utf-8", "surrogatepass")
                    for start, end in zip(self._ends[:-1][rows].tolist(), self._ends[1:][rows].tolist())]
        except UnicodeDecodeError as error:
            raise InputError(f"{self.path} is damaged (its ids): copy it again or encode again") from error

    def label_rows(self, rows=slice(None)):
        """Labels uint8 [n, labels] of 0 and 1 of rows, or None."""
        if self.label_bits is None:
            return None
        return np.unpackbits(self.label_bits[rows], axis=1, count=self.labels)

    def find(self, names, keys):
        """Yield (i, row) for the ids that are here; an id that stands in several rows comes several times.

        Args:
            names: encoded ids (``encode_ids``). keys: their ``id_keys``.
        """
        first = np.searchsorted(self._keys, keys)
        hit = first < self.rows
        hit[hit] = self._keys[first[hit]] == keys[hit]
        for i in np.flatnonzero(hit).tolist():
            place = int(first[i])
            while place < self.rows and self._keys[place] == keys[i]:
                row = int(self._key_rows[place])
                if self._names[int(self._ends[row]):int(self._ends[row + 1])].tobytes() == names[i]:
                    yield i, row
                place += 1

    def _ids_of_key(self, key, live):
        first, last = np.searchsorted(self._keys, key), np.searchsorted(self._keys, key, "right")
        rows = self._key_rows[first:last]
        return self.ids(rows if live is None else rows[live[rows]])

    def starts_with(self, prefix):
        """Mask bool [rows] of the ids that start with the encoded ``prefix``."""
        starts = self._ends[:-1]
        rows = np.flatnonzero(np.diff(self._ends) >= len(prefix))
        for place, byte in enumerate(prefix):
            rows = rows[self._names[starts[rows] + np.uint64(place)] == byte]
        mask = np.zeros(self.rows, bool)
        mask[rows] = True
        return mask

    def has_label(self, column):
        """Mask bool [rows] of the rows that carry a label."""
        return (self.label_bits[:, column // 8] >> (7 - column % 8) & 1).astype(bool)

    def as_rows(self):
        """All rows, to be written into another shard."""
        keys = np.empty(self.rows, np.uint64)
        keys[self._key_rows] = self._keys
        return Rows(self.words, self._ends, self._names, keys, self.label_bits, self.relaxed)

    def check(self):
        """Read everything and compare it with the digests.

        Raises:
            InputError: a piece is damaged.
        """
        for name, (offset, size, digest) in self._pieces.items():
            if hashlib.sha256(memoryview(self._map)[offset:offset + size]).hexdigest() != digest:
                raise InputError(f"{self.path} is damaged (its {name}): copy it again or encode again")
        ends = self._ends
        if ends[0] != 0 or (ends[1:] < ends[:-1]).any() or ends[-1] != len(self._names) or \
                not np.array_equal(np.sort(self._key_rows), np.arange(self.rows)):
            raise InputError(f"{self.path} is damaged: its ids do not fit its rows; encode again")


def repeated_id(parts):
    """An id that stands in more than one row, or None.

    Args:
        parts: list of (Shard, mask of the rows that count, None for all).

    Memory: 8 bytes for each of at most ``_RANGE`` keys at a time; the shards keep theirs sorted.
    """
    ranges = 1 + sum(shard.rows for shard, _ in parts) // _RANGE
    edges = [(part * (1 << 64)) // ranges for part in range(1, ranges)]
    cuts = [[0, *np.searchsorted(shard._keys, np.array(edges, np.uint64)).tolist(), shard.rows] for shard, _ in parts]
    for number in range(ranges):
        keys = np.sort(np.concatenate([shard._keys[cut[number]:cut[number + 1]] for (shard, _), cut in zip(parts, cuts)]
                                      + [np.zeros(0, np.uint64)]))
        for key in np.unique(keys[1:][keys[1:] == keys[:-1]]):
            ids = [name for shard, live in parts for name in shard._ids_of_key(key, live)]
            twice = sorted(name for name in set(ids) if ids.count(name) > 1)
            if twice:
                return twice[0]
    return None
