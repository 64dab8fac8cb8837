"""A folder of code shards that changes: what the engines ``exact`` and ``faiss`` keep on the disk.

One writer at a time (a lock that a killed process does not leave behind), any number of readers. A change writes new
files beside the old ones and becomes true by the rename of the manifest: a process that is killed before it has changed
nothing, one that is killed behind it has changed all. When a call returns, the change is on the disk.

Adding a few rows again and again does not leave as many files: a new shard takes over the small ones in front of it, as
a binary counter carries, up to ``MERGE`` rows. Positions stay as they are until ``compact``, which drops the rows that
are gone and makes full shards of small ones.
"""
import contextlib
import dataclasses
import hashlib
import os
from typing import Optional, Union

import numpy as np

from deploy.index.base import few, make_folder
from utils.errors import InputError
from utils.files import owned, write_bytes
from utils.retrieval.code_shards import Shard, repeated_id, write_shard
from utils.retrieval.shard_rows import Rows
from utils.retrieval.shard_set import MANIFEST, CodesInfo, ShardSet, read_manifest, shard_name, write_manifest

ROWS = 1 << 20  # rows of a full shard
MERGE = 1 << 14  # rows up to which a new shard takes over small ones: written in a few milliseconds
_AT_ONCE = 1 << 16  # rows that are picked out at once
PATIENCE = 10.0  # seconds that a writer waits for another one
_OWN = ("shard-", ".shard-", "faiss-", ".faiss-", ".manifest.")  # how names of the store's own files begin


class Store:
    """A changing collection.

    Attributes:
        folder; view: ShardSet, the state that was last looked at. Calls that change the collection look at it first.
    """

    def __init__(self, folder, fingerprint=None):
        """Open the collection of ``folder``; errors are those of ShardSet."""
        self.folder, self._fingerprint = os.fspath(folder), fingerprint
        self._seen = self._stamp()
        self.view = ShardSet(folder, fingerprint)

    @classmethod
    def build(cls, folder, info, batches, overwrite=False):
        """A new collection, all of it or nothing.

        Args:
            folder: made when missing. info: CodesInfo. batches: iterable of CodeFile.
            overwrite: in place of the collection that is there.

        Raises:
            InputError: there is one already, an id stands twice, or the folder cannot be written.
        """
        with _locked(folder, make=True):
            there = os.path.exists(os.path.join(folder, MANIFEST))
            old = read_manifest(folder) if there else {"shards": [], "engine": None, "next": 0, "epoch": -1}
            if there and not overwrite:
                raise InputError(f"{folder} holds a collection already: add to it, or build with --overwrite")
            draft = _Draft(folder, info, [], old["epoch"] + 1, None, old["next"])
            for rows in Rows.regroup(map(Rows.of, batches), ROWS):
                draft.append(rows)
            twice = repeated_id([(Shard(os.path.join(folder, entry["name"])), None) for entry in draft.entries()])
            if twice is not None:
                raise InputError(f"the id {twice!r} stands more than once in what the index is to be built of: leave "
                                 "one out")
            draft.commit()
            _sweep(folder, read_manifest(folder))
        return cls(folder)

    def refresh(self):
        """Look at the newest state. Returns whether it is another one than before."""
        return self._stamp() != self._seen and self._reload()

    def _stamp(self):
        try:
            found = os.stat(os.path.join(self.folder, MANIFEST))
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _reload(self):
        stamp = self._stamp()
        changed = read_manifest(self.folder) != self.view.manifest
        if changed:
            self.view = ShardSet(self.folder, self._fingerprint, reuse=self.view)  # it may have been built anew
        self._seen = stamp  # last: what could not be read is looked at again
        return changed

    def add(self, codefile, replace=False):
        """Append items.

        Args:
            codefile: CodeFile, its ids distinct. replace: items of the same ids go; else they are refused.

        Returns:
            number of items replaced.

        Raises:
            InputError: ids that are there already (unless ``replace``), or the disk is full; nothing has changed then.
        """
        with self._change() as draft:
            found = self.view.find(codefile.ids)
            old = found[found >= 0]
            if len(old) and not replace:
                names = [codefile.ids[i] for i in np.flatnonzero(found >= 0)]
                raise InputError(f"{few(names)} in the index already: nothing was added; leave "
                                 f"{'it' if len(names) == 1 else 'them'} out or give --replace")
            draft.remove(self.view, old)
            draft.append(Rows.of(codefile))
            draft.info.precision = "+".join(sorted({*draft.info.precision.split("+"),
                                                    CodesInfo.of(codefile).precision}))
        return len(old)

    def remove(self, positions):
        """Mark the items of ids as gone.

        Args:
            positions: callable (ShardSet) -> int64 positions of what is to go, in the state that is changed.
        """
        with self._change() as draft:
            draft.remove(self.view, positions(self.view))

    def compact(self):
        """Drop rows that are gone, join small shards. Positions change.

        Returns:
            number of rows dropped.
        """
        with self._change() as draft:
            dropped = self.view.rows - self.view.items
            draft.compact()
        return dropped

    def set_engine(self, engine, epoch):
        """Note what a search engine keeps beside the shards; nothing happens where rows were renumbered meanwhile.

        Args:
            engine: dict; its ``file`` names a file of the folder. epoch: of the state that it was made of.

        Returns:
            whether it was noted.
        """
        with self._change() as draft:
            if draft.epoch == epoch:
                draft.engine = engine
            return draft.epoch == epoch

    @contextlib.contextmanager
    def _change(self):
        with _locked(self.folder):
            self._reload()
            before = self.view.manifest
            draft = _Draft(self.folder, dataclasses.replace(self.view.info),
                           [_Piece(part.shard, part.live, part.entry) for part in self.view.parts],
                           before["epoch"], before["engine"], before["next"])
            yield draft
            if draft.changed(before):
                draft.commit()
                self._reload()
            _sweep(self.folder, self.view.manifest)


@dataclasses.dataclass(eq=False)
class _Piece:
    """A shard of the next state: an old one or rows to be written; which rows are there; its manifest entry, if any."""

    source: Union[Shard, Rows]
    live: Optional[np.ndarray] = None
    entry: Optional[dict] = None

    def __len__(self):
        return len(self.source)

    def mask(self):
        return np.ones(len(self), bool) if self.live is None else self.live

    def rows(self):
        return self.source.as_rows() if isinstance(self.source, Shard) else self.source


class _Draft:
    """The next state of a collection, until it is committed. Attributes as in the manifest."""

    def __init__(self, folder, info, pieces, epoch, engine, following):
        self.folder, self.info, self.epoch, self.engine = folder, info, epoch, engine
        self._pieces, self._next = pieces, following

    def remove(self, view, positions):
        """Mark rows as gone, by positions of the view that the draft began as."""
        for piece, part in zip(self._pieces, view.parts):
            rows = positions[(positions >= part.first) & (positions < part.first + len(piece))] - part.first
            if len(rows):
                piece.live = piece.mask().copy()
                piece.live[rows] = False
                piece.entry = {**part.entry, "removed": None}

    def append(self, rows):
        """New rows at the end, in one shard with the small shards in front of them. A large one is written at once."""
        if not len(rows):
            return
        taken, total = [_Piece(rows)], len(rows)
        while self._pieces and len(self._pieces[-1]) <= total and total + len(self._pieces[-1]) <= MERGE:
            taken.insert(0, self._pieces.pop())
            total += len(taken[0])
        live = None if all(piece.live is None for piece in taken) else np.concatenate([piece.mask() for piece in taken])
        piece = _Piece(Rows.join([piece.rows() for piece in taken]) if len(taken) > 1 else rows, live)
        self._pieces.append(self._write(piece) if total > MERGE else piece)

    def compact(self):
        """Full shards without gaps; those that are so already stay."""
        if all(piece.live is None for piece in self._pieces) and all(len(piece) >= ROWS for piece in self._pieces[:-1]):
            return
        pieces, run = [], []
        for piece in self._pieces:
            if len(piece) >= ROWS and piece.live is None:
                pieces += self._rewrite(run) + [piece]
                run = []
            else:
                run.append(piece)
        self._pieces = pieces + self._rewrite(run)
        self.epoch += 1

    def _rewrite(self, run):
        """Full shards of the rows of some pieces that are there."""
        def kept():
            for piece in run:
                rows, mask = piece.rows(), piece.mask()
                for start in range(0, len(rows), _AT_ONCE):
                    stop = min(start + _AT_ONCE, len(rows))
                    yield rows.slice(start, stop).select(mask[start:stop])
        return [self._write(_Piece(rows)) for rows in Rows.regroup(kept(), ROWS)]

    def _write(self, piece):
        """The piece with the entry of its files, which are written where they are missing."""
        if piece.entry is None:
            name = shard_name(self._number())
            path = os.path.join(self.folder, name)
            digest = write_shard(path, piece.source, self.info)
            piece = _Piece(Shard(path, digest), piece.live, {"name": name, "rows": len(piece), "digest": digest,
                                                             "removed": None})
        if piece.live is not None and piece.entry["removed"] is None:
            data = np.packbits(~piece.live).tobytes()
            name = f"{os.path.splitext(piece.entry['name'])[0]}-{self._number():08d}.removed"
            write_bytes(os.path.join(self.folder, name), data)
            piece.entry["removed"] = {"name": name, "rows": int((~piece.live).sum()),
                                      "digest": hashlib.sha256(data).hexdigest()}
        return piece

    def _number(self):
        self._next += 1
        return self._next - 1

    def entries(self):
        """The shards' entries of the manifest; writes what is not yet written."""
        self._pieces = [self._write(piece) for piece in self._pieces]
        return [piece.entry for piece in self._pieces]

    def changed(self, manifest):
        """Whether the state differs from that of ``manifest``; writes what is not yet written."""
        state = {**dataclasses.asdict(self.info), "shards": self.entries(), "epoch": self.epoch, "engine": self.engine}
        return any(manifest[key] != value for key, value in state.items())

    def commit(self):
        """Write the manifest: the state becomes true."""
        write_manifest(self.folder, self.info, self.entries(), self.epoch, self._next, self.engine)


@contextlib.contextmanager
def _locked(folder, make=False):
    if make:
        make_folder(folder)
    if not os.path.isdir(folder):
        raise InputError(f"no collection of codes at {folder}: build one")
    with owned(os.path.join(folder, ".lock"), PATIENCE):
        yield


def _files(manifest):
    """Names of the files that a manifest names."""
    removed = [entry["removed"]["name"] for entry in manifest["shards"] if entry["removed"]]
    engine = [manifest["engine"]["file"]] if (manifest["engine"] or {}).get("file") else []
    return {*(entry["name"] for entry in manifest["shards"]), *removed, *engine}


def _sweep(folder, manifest):
    """Delete what the manifest does not name: files of earlier states, and what killed writers have left.

    Only the owner of the lock may: it knows that nobody writes. A reader that has a file mapped keeps it; where the
    system refuses (Windows) it stays until the next change.
    """
    known = _files(manifest)
    for name in os.listdir(folder):
        if name.startswith(_OWN) and name not in known:
            with contextlib.suppress(OSError):
                os.remove(os.path.join(folder, name))
