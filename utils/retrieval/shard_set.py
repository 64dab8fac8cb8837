"""A folder of code shards: one manifest says which shards make up the collection, and which of their rows are gone.

``manifest.json`` is the only file that changes, by a rename. Whoever reads it sees one state of the whole, and keeps
seeing it: shards are never changed, and a mapped file outlives its name. The bulk encoder writes such a folder
(``shard_writer``), and ``exact`` searches it as it is.

The manifest, JSON: ``format``, ``version``; ``bits``, ``fingerprint``, ``precision``, ``labels`` (columns or null),
``classes`` (names of the columns, as far as they have some), ``relaxed``, ``meta``; ``items`` (without rows that are
gone); ``epoch`` (grows when rows are renumbered); ``next`` (number of the next file); ``engine`` (what a search engine
keeps beside, or null); ``shards``: for each its ``name``, ``rows``, ``digest`` and ``removed``, null or the ``name``,
``rows`` and ``digest`` of a file of numpy.packbits, a bit per row that is gone; ``digest``, SHA-256 of all the rest.
"""
import dataclasses
import hashlib
import json
import os
from typing import List, Optional

import numpy as np

from utils.errors import InputError
from utils.files import write_text
from utils.plain_json import read_json
from utils.retrieval.code_shards import DIGEST, Shard, repeated_id
from utils.retrieval.codes import CodeFile
from utils.retrieval.hamming import MAX_BITS
from utils.retrieval.shard_rows import concatenate, encode_ids, id_keys
from utils.schema import check, each, either, plain_table, table, text, truth, whole

MANIFEST = "manifest.json"
_FORMAT = "PaddleDeepHash code shards"
_VERSION = 1
_NAME = text(r"[A-Za-z0-9][\w.-]*", "the name of a file beside the manifest")
_REMOVED = table({"name": _NAME, "rows": whole(0), "digest": DIGEST})
_ENTRY = table({"name": _NAME, "rows": whole(0), "digest": DIGEST, "removed": either(_REMOVED)})
_ENGINE = table({"name": text()}, {"lists": whole(1), "probes": whole(1), "recall": plain_table, "file": _NAME,
                                   "digest": DIGEST, "epoch": whole(0), "rows": whole(0)})
_KIND = table({"bits": whole(1, MAX_BITS), "fingerprint": text(), "precision": text(), "labels": either(whole(1)),
               "classes": each(text()), "relaxed": truth, "meta": plain_table, "items": whole(0), "epoch": whole(0),
               "next": whole(0), "engine": either(_ENGINE), "shards": each(_ENTRY), "format": text(),
               "version": whole(1)})
_TRIES = 50  # a writer may replace shards between a reader's look at the manifest and at the shards


# what the codes are -------------------------------------------------------------------------
@dataclasses.dataclass
class CodesInfo:
    """What all codes of a collection have in common.

    Attributes:
        bits: code length. fingerprint: of the model. precision: ``fp32``, ``bf16``, ``int8``, as its maker says.
        labels: columns of the label rows, None where there are none.
        classes: names of the columns, as far as they have some.
        relaxed: whether the relaxed codes are kept too.
        meta: plain values for people and tools.
    """

    bits: int
    fingerprint: str = ""
    precision: str = "fp32"
    labels: Optional[int] = None
    classes: List[str] = dataclasses.field(default_factory=list)
    relaxed: bool = False
    meta: dict = dataclasses.field(default_factory=dict)

    # what concerns single rows, and would make every manifest as long as the collection
    _ROWWISE = ("stamps", "broken", "classes", "precision")

    @classmethod
    def of(cls, codefile):
        """What a CodeFile says of itself."""
        meta = codefile.meta or {}
        return cls(codefile.bits, codefile.fingerprint, meta.get("precision", "fp32"),
                   None if codefile.labels is None else codefile.labels.shape[1], list(meta.get("classes") or []),
                   codefile.relaxed is not None, {key: meta[key] for key in meta if key not in cls._ROWWISE})

    def refuse(self, other, what="codes"):
        """Raise InputError where codes that are ``other`` (CodesInfo) do not belong to these.

        Another precision of the same model does: only some bits differ. Relaxed codes that these do not keep are left
        out by the writer.
        """
        if other.bits != self.bits:
            raise InputError(f"{what} have {other.bits} bits, the collection has {self.bits}: encode with its model")
        if other.fingerprint != self.fingerprint:
            raise InputError(f"{what} were made by another model (fingerprint {other.fingerprint or 'unknown'}, the "
                             f"collection has {self.fingerprint or 'unknown'}): encode with the collection's model")
        if other.labels != self.labels:
            raise InputError(f"{what} have {other.labels or 'no'} label columns, the collection has "
                             f"{self.labels or 'none'}: bring both to the same classes")
        if self.classes and other.classes and self.classes != other.classes:
            raise InputError(f"{what} have other class names than the collection: bring both to the same classes")
        if self.relaxed and not other.relaxed:
            raise InputError(f"{what} come without relaxed codes, which the collection keeps: encode with "
                             "--keep-relaxed")

    def codefile(self, codes, ids, labels, relaxed=None):
        """A CodeFile of rows of the collection."""
        meta = {**self.meta, "classes": list(self.classes), "precision": self.precision}
        return CodeFile(codes, self.bits, ids, labels, self.fingerprint, meta, relaxed)


# the manifest -------------------------------------------------------------------------------
def write_manifest(folder, info, shards, epoch=0, following=None, engine=None):
    """Write the manifest: from here on this is what the folder holds.

    Args:
        folder: where the shards are. info: CodesInfo.
        shards: list of dicts ``name``, ``rows``, ``digest``, ``removed`` as in the manifest.
        epoch, engine: as in the manifest. following: number of the next file; that of ``shards`` by default.
    """
    manifest = {"format": _FORMAT, "version": _VERSION, **dataclasses.asdict(info), "items": _items(shards),
                "epoch": epoch, "next": len(shards) if following is None else following, "engine": engine,
                "shards": shards}
    try:
        manifest["digest"] = _digest(manifest)
    except (TypeError, ValueError) as error:
        raise InputError(f"meta of a collection must be plain JSON values: {error}") from error
    write_text(os.path.join(folder, MANIFEST), json.dumps(manifest, separators=(",\n", ": "), allow_nan=False) + "\n")


def read_manifest(folder):
    """The manifest as a dict.

    Raises:
        InputError: no such folder, no manifest in it, or a damaged one.
    """
    path = os.path.join(folder, MANIFEST)
    try:
        manifest = read_json(path)
        found = manifest["format"], manifest["version"]
        if found[0] != _FORMAT:
            raise ValueError("another format")
        whole_file = manifest.pop("digest", None) == _digest(manifest)
    except FileNotFoundError:
        begun = os.path.isdir(folder) and any(name.endswith(".codes") for name in os.listdir(folder))
        advice = "its shards are not all there yet: run what encodes them to the end" if begun else "build one"
        raise InputError(f"no collection of codes at {folder}: it holds no {MANIFEST}; {advice}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged or no manifest of codes: copy it again or build again") from error
    if found[1] != _VERSION:
        raise InputError(f"{path} has format {found[1]}, this program reads {_VERSION}: build again")
    if not whole_file:
        raise InputError(f"{path} is damaged: copy it again or build again")
    check(manifest, _KIND, path, "build again")
    if manifest["items"] != _items(manifest["shards"]):
        raise InputError(f"{path} is damaged: its shards have another number of items than it says; build again")
    return manifest


def _items(entries):
    """Rows of shards that are there."""
    return sum(entry["rows"] - (entry["removed"] or {"rows": 0})["rows"] for entry in entries)


def _digest(manifest):
    return hashlib.sha256(json.dumps(manifest, sort_keys=True, allow_nan=False).encode("ascii")).hexdigest()


# reading ------------------------------------------------------------------------------------
@dataclasses.dataclass(eq=False)
class Part:
    """A shard of a set: its first position, which of its rows are there (mask, or None for all), its manifest entry."""

    shard: Shard
    first: int
    live: Optional[np.ndarray]
    entry: dict


class ShardSet:
    """One state of a folder of shards: a consistent view that later changes do not touch.

    Rows are counted over all shards, those that are gone included: the *position* of an item.

    Attributes:
        folder, manifest; info: CodesInfo; parts: list of Part; rows; items (rows that are there).
    """

    def __init__(self, folder, fingerprint=None, reuse=None):
        """
        Args:
            folder: of ``ShardWriter`` or an index.
            fingerprint: of the model that will search it; None accepts any.
            reuse: an earlier ShardSet of the folder, whose mapped shards are taken over.

        Raises:
            InputError: no collection, damaged as far as manifest, headers and sizes tell, or of another model.
        """
        self.folder = os.fspath(folder)
        known = {part.entry["digest"]: part for part in reuse.parts} if reuse else {}
        for remaining in reversed(range(_TRIES)):
            try:
                self._open(known)
                break
            except FileNotFoundError as error:  # replaced meanwhile: a newer manifest is there
                if not remaining or read_manifest(self.folder) == self.manifest:
                    raise InputError(f"{error.filename} is missing: copy the folder again or build again") from None
            except OSError as error:
                raise InputError(f"cannot open {error.filename or self.folder}: {error.strerror or error}; with too "
                                 "many open files, raise `ulimit -n` or compact the index") from error
        if fingerprint is not None and self.info.fingerprint != fingerprint:
            found = self.info.fingerprint or "unknown"
            raise InputError(f"{self.folder} was made by another model (fingerprint {found}, the model at hand has "
                             f"{fingerprint}): encode again, or choose the other model")

    def _open(self, known):
        self.manifest = read_manifest(self.folder)
        self.info = CodesInfo(**{field.name: self.manifest[field.name] for field in dataclasses.fields(CodesInfo)})
        self.parts, self.rows = [], 0
        _allow_files(len(self.manifest["shards"]))
        for entry in self.manifest["shards"]:
            part = known.get(entry["digest"])
            shard = part.shard if part else Shard(os.path.join(self.folder, entry["name"]), entry["digest"])
            if shard.rows != entry["rows"] or shard.bits != self.info.bits or shard.labels != self.info.labels:
                raise InputError(f"{shard.path} does not fit its manifest: copy the folder again or build again")
            live = part.live if part and part.entry == entry else self._live(entry)
            self.parts.append(Part(shard, self.rows, live, entry))
            self.rows += shard.rows
        self.items = self.manifest["items"]

    def _live(self, entry):
        if entry["removed"] is None:
            return None
        path = os.path.join(self.folder, entry["removed"]["name"])
        with open(path, "rb") as file:
            data = file.read()
        if hashlib.sha256(data).hexdigest() != entry["removed"]["digest"]:
            raise InputError(f"{path} is damaged: copy the folder again or build again")
        return ~np.unpackbits(np.frombuffer(data, np.uint8), count=entry["rows"]).astype(bool)

    def __len__(self):
        return self.items

    def _split(self, positions):
        """Yield (Part, places in ``positions``, rows of that part)."""
        positions = np.asarray(positions, np.int64)
        firsts = np.array([part.first for part in self.parts], np.int64)
        owner = np.searchsorted(firsts, positions, "right") - 1
        for number in np.unique(owner):
            places = np.flatnonzero(owner == number)
            yield self.parts[number], places, positions[places] - firsts[number]

    def take(self, positions):
        """CodeFile of the items at int positions [n], in that order."""
        n, info = len(positions), self.info
        codes, ids = np.empty((n, -(-info.bits // 8)), np.uint8), [""] * n
        labels = None if info.labels is None else np.empty((n, info.labels), np.uint8)
        relaxed = np.empty((n, info.bits), np.float16) if info.relaxed else None
        for part, places, rows in self._split(positions):
            codes[places] = part.shard.codes(rows)
            for place, name in zip(places.tolist(), part.shard.ids(rows)):
                ids[place] = name
            if labels is not None:
                labels[places] = part.shard.label_rows(rows)
            if relaxed is not None:
                relaxed[places] = part.shard.relaxed[rows]
        return info.codefile(codes, ids, labels, relaxed)

    def find(self, ids):
        """Positions int64 [n] of ids, -1 for those that are not there."""
        names = encode_ids(ids)
        keys, found = id_keys(names), np.full(len(ids), -1, np.int64)
        for part in self.parts:
            for i, row in part.shard.find(names, keys):
                if part.live is None or part.live[row]:
                    found[i] = part.first + row
        return found

    def batches(self, size=1 << 16):
        """Yield (positions int64, CodeFile) of all items in order, ``size`` at a time."""
        for part in self.parts:
            for start in range(0, part.shard.rows, size):
                stop = min(start + size, part.shard.rows)
                rows = np.arange(start, stop) if part.live is None else start + np.flatnonzero(part.live[start:stop])
                if len(rows):
                    yield part.first + rows, self.take(part.first + rows)

    def to_codefile(self):
        """All items as one CodeFile, in memory."""
        batches = [self.take(np.zeros(0, np.int64))] + [batch for _, batch in self.batches()]
        codes, labels, relaxed = (concatenate([getattr(batch, name) for batch in batches])
                                  for name in ("codes", "labels", "relaxed"))
        return self.info.codefile(codes, [name for batch in batches for name in batch.ids], labels, relaxed)

    def check(self):
        """Read every byte and compare it with the digests; every id stands once.

        Raises:
            InputError: something is damaged, or two items have one id.
        """
        for part in self.parts:
            part.shard.check()
        twice = repeated_id([(part.shard, part.live) for part in self.parts])
        if twice is not None:
            raise InputError(f"{self.folder} holds the id {twice!r} more than once: remove it and add it again")


def _allow_files(count):
    """Every mapped shard holds a file open: raise this process's own limit where the system lets it."""
    if os.name != "posix":
        return
    import resource
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 256
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def shard_name(number):
    """File name of a shard."""
    return f"shard-{number:08d}.codes"
