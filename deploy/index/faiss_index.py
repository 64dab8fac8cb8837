"""Faiss on the same folder of code shards as ``exact``: IndexBinaryFlat, or IndexBinaryIVF with measured recall.

The shards are what is kept: adding and removing write them, as the engine ``exact`` does, and the index in memory
follows. An inverted file is kept beside them as ``faiss-*.index``; rows that are younger than the file are added to it
when the index is opened, and ``save`` writes it anew.
"""
import hashlib
import logging
import os
import threading

import numpy as np

from deploy.index.base import EVERYTHING
from deploy.index.exact_index import ExactIndex, ranked
from utils.cpu import threads
from utils.errors import InputError
from utils.files import sha256_file, write_bytes

ITEMS_A_LIST = 39  # below that Faiss warns that its k-means has too little to learn from
_LEARN = 256  # items a list that the k-means looks at
_AT_ONCE = 1 << 18


class FaissIndex(ExactIndex):
    """Faiss' binary indexes.

    Flat is exact. An inverted file (``lists``) compares a query with the codes of the ``probes`` nearest of its lists
    only; how many of the true neighbours' distances it reaches is measured on a sample when it is built, and part of
    ``stats``. A question with a filter is answered exactly, by the kernel of ``exact``: Faiss' inverted file has no
    filters. Memory: ceil(bits / 8) + 8 bytes a code, in every process.
    """

    engine = "faiss"

    def __init__(self, uri, store):
        super().__init__(uri, store)
        self._faiss = _import()
        self._faiss.omp_set_num_threads(threads())
        self._lock = threading.Lock()
        self._settings, self._index = {}, None
        self._follow()

    @property
    def exact(self):
        """Whether answers are always the true ones."""
        return not self._settings.get("lists") or self._settings["probes"] >= self._settings["lists"]

    # the index in memory --------------------------------------------------------------------
    def _follow(self):
        """Bring the index in memory to the newest state of the shards. Returns that state."""
        view = self.view
        if self._index is None or self._epoch != view.manifest["epoch"]:
            self._load(view, view.manifest["engine"] or {})
        for part in view.parts:
            for start in range(max(self._rows - part.first, 0), part.shard.rows, _AT_ONCE):
                codes = part.shard.codes(slice(start, start + _AT_ONCE))
                self._index.add_with_ids(np.ascontiguousarray(codes), part.first + np.arange(start, start + len(codes)))
        self._rows = max(self._rows, view.rows)
        gone = np.concatenate([part.first + np.flatnonzero(~part.live) for part in view.parts if part.live is not None]
                              + [np.zeros(0, np.int64)])
        fresh = np.setdiff1d(gone, self._gone, assume_unique=True)
        if len(fresh):
            self._index.remove_ids(fresh)
        self._gone = gone
        return view

    def _load(self, view, settings):
        """Read the inverted file where it fits the shards, else begin anew."""
        faiss, bits = self._faiss, 8 * -(-self.info.bits // 8)
        self._settings, self._epoch = settings, view.manifest["epoch"]
        self._rows, self._gone = 0, np.zeros(0, np.int64)
        if not settings.get("lists"):
            self._index = faiss.IndexBinaryIDMap(faiss.IndexBinaryFlat(bits))
            return
        path = os.path.join(view.folder, settings.get("file", ""))
        if settings.get("epoch") == self._epoch and os.path.isfile(path):
            if sha256_file(path) != settings["digest"]:
                raise InputError(f"{path} is damaged: delete it, and the next opening makes it anew from the shards")
            self._index = faiss.read_index_binary(path)
            self._rows = settings["rows"]
        else:
            self._index = self._train(view, settings["lists"], bits)
        self._index.nprobe = settings["probes"]

    def _train(self, view, lists, bits):
        """An empty inverted file whose lists were learned from codes of the collection, spread over all of it."""
        quantizer = self._faiss.IndexBinaryFlat(bits)
        index = self._faiss.IndexBinaryIVF(quantizer, bits, lists)
        quantizer.this.disown()
        index.own_fields = True
        index.train(np.ascontiguousarray(view.take(_spread(view, lists * _LEARN)).codes))
        return index

    # questions ------------------------------------------------------------------------------
    def _search(self, query, k, where):
        if where:
            return super()._search(query, k, where)
        query = np.ascontiguousarray(query)
        with self._lock:
            view = self._follow()
            # one more than wanted tells whether items at the last distance are left outside; those of an inverted file
            # come in the order of its lists, so all of them are looked at
            distance, position = self._index.search(query, min(k + 1, max(self._index.ntotal, 1)))
            answers = [self._first(query[q:q + 1], k, *row) for q, row in enumerate(zip(distance, position))]
        owner = np.repeat(np.arange(len(query)), [len(found) for _, found in answers])
        return ranked(view, len(query), owner, *map(np.concatenate, zip(*answers)))

    def _first(self, query, k, distance, position):
        """(distance, position) of the k nearest of one query."""
        distance, position = distance[position >= 0], position[position >= 0]
        if self._settings.get("lists") and len(distance) > k and distance[k - 1] == distance[k]:
            _, distance, position = self._index.range_search(query, int(distance[k]) + 1)
        order = np.lexsort((position, distance))[:k]
        return distance[order].astype(np.int64), position[order]

    def _within(self, query, radius, where):
        if where:
            return super()._within(query, radius, where)
        with self._lock:
            view = self._follow()
            start, distance, position = self._index.range_search(np.ascontiguousarray(query), radius + 1)
        owner = np.repeat(np.arange(len(query)), np.diff(start.astype(np.int64)))
        return ranked(view, len(query), owner, distance.astype(np.int64), position)

    # keeping --------------------------------------------------------------------------------
    def build_lists(self, lists=0, probes=32):
        """Learn an inverted file, measure it, keep it.

        Args:
            lists: 0 for about the square root of the number of items. probes: lists that a question looks at.

        Raises:
            InputError: too few items for so many lists.
        """
        items = len(self)
        lists = int(lists or max(1, 1 << round(np.log2(max(items, 1)) / 2)))
        if items < ITEMS_A_LIST * lists:
            raise InputError(f"{lists} lists need at least {ITEMS_A_LIST * lists} items to learn from, there are "
                             f"{items}: ask for fewer, or leave --approximate out")
        with self._lock:
            self._load(self.view, {"name": "faiss", "lists": lists, "probes": min(int(probes), lists)})
        self._settings["recall"] = self.recall()
        self.save()

    def recall(self, queries=200, ks=(10, 100)):
        """Distance recall against exact search, on items of the collection as queries.

        Args:
            queries: number of items to ask with, spread over the collection. ks: numbers of neighbours.

        Returns:
            dict ``queries``, and ``k``: the mean part of the k answers (the item itself left out) that are as near as
            the true k-th neighbour.
        """
        positions = _spread(self.view, queries)
        codes = np.ascontiguousarray(self.view.take(positions).codes)
        result = {"queries": len(positions)}
        for k in sorted({min(k, len(self) - 1) for k in ks} - {0, -1}):
            answers = super()._search(codes, k + 1, EVERYTHING), self._search(codes, k + 1, EVERYTHING)
            parts = []
            for own, true, found in zip(positions, *answers):
                true, found = (hits.distance[hits.position != own][:k] for hits in (true, found))
                parts.append((found <= true[-1]).sum() / k)
            result[str(k)] = round(float(np.mean(parts)), 4)
        return result

    def save(self):
        """Keep the inverted file as it is now. (The flat index is made of the shards in no time.)"""
        if not self._settings.get("lists"):
            return
        with self._lock:
            view = self._follow()
            data = memoryview(self._faiss.serialize_index_binary(self._index))
        digest, epoch = hashlib.sha256(data).hexdigest(), view.manifest["epoch"]
        name = f"faiss-{digest[:16]}.index"
        write_bytes(os.path.join(self.store.folder, name), data)
        self._settings = {**self._settings, "file": name, "digest": digest, "epoch": epoch, "rows": view.rows}
        self.store.set_engine(self._settings, epoch)

    def compact(self):
        """As ``Index.compact``; the inverted file is learned and measured anew."""
        dropped = super().compact()
        if self._settings.get("lists") and self._epoch != self.view.manifest["epoch"]:
            with self._lock:
                self._follow()
            self._settings = {**self._settings, "recall": self.recall()}
            self.save()
        return dropped

    def stats(self):
        """As ``Index.stats``, with the settings of the inverted file and its measured recall."""
        shown = {key: self._settings[key] for key in ("lists", "probes", "recall") if key in self._settings}
        return {**super().stats(), "kind": "IndexBinaryIVF" if shown else "IndexBinaryFlat", **shown}


def _spread(view, count):
    """Positions of ``count`` items (or all), evenly over the collection."""
    live = np.concatenate([part.first + (np.arange(part.shard.rows) if part.live is None else np.flatnonzero(part.live))
                           for part in view.parts] + [np.zeros(0, np.int64)])
    return live[np.unique(np.linspace(0, len(live) - 1, min(count, len(live))).astype(np.int64))]


def _import():
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # it tells which instructions it has tried
    try:
        import faiss  # an optional package
    except ImportError:
        raise InputError("the engine faiss needs the package faiss-cpu: pip install -r requirements-index.txt"
                         ) from None
    return faiss
