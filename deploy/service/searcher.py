"""What the service does, without HTTP: a model and an index, asked by many at once and changed by one at a time.

Three threads: one encodes, one searches, one changes. The searching thread looks at the newest state of the index
before each batch, so all processes of a service see a change as soon as it is acknowledged, whoever made it.
"""
import os
from typing import List, NamedTuple, Optional

import numpy as np

from deploy.index import open_index
from deploy.index.base import Unavailable, few, settled
from deploy.index.question import ask
from deploy.index.uri import on_server, split_uri
from deploy.service.batching import Batcher
from utils.errors import InputError
from utils.files import owned
from utils.retrieval.codes import CodeFile
from utils.retrieval.hamming import pack

PATIENCE = 10.0  # seconds that a change waits for one of another process
CHANGES = 256  # items that become durable together


class Unknown(InputError):
    """An id that the index does not hold."""


class Conflict(InputError):
    """An id that the index holds already."""


class Query(NamedTuple):
    """A query: a relaxed code float32 [bits], or the id of an item."""

    relaxed: Optional[np.ndarray]
    id: Optional[str] = None


class Found(NamedTuple):
    """An answer: the query's code; (Match, code, names of its labels) of each place; the index's size. Codes in hex."""

    code: str
    matches: List[tuple]
    items: int


class Item(NamedTuple):
    """An item to add: its relaxed code float32 [bits], label columns, its picture as it was received."""

    id: str
    relaxed: np.ndarray
    labels: List[int]
    data: bytes


class Searcher:
    """A model with an index.

    Attributes:
        encoder: an Encoder. reader: Index that answers. encoding, searching, changing: the Batchers; the last is None
            where nothing may be changed.
    """

    def __init__(self, encoder, reader, pictures, lock, report, **batching):
        """
        Args:
            encoder: an Encoder. reader: Index of its codes.
            pictures: deploy.service.pictures.Pictures.
            lock: lock file of those who change; None where nothing may be changed.
            report: callable (work, size, seconds).
            batching: ``batch`` (most queries at once), ``wait`` and ``coming`` of the encoding Batcher.
        """
        self.encoder, self.reader, self._pictures, self._lock = encoder, reader, pictures, lock
        self._writer = None if lock is None else self._open_writer()
        self._sizes = batch_sizes(batching["batch"])
        self._warm_up()

        def batcher(name, work, *settings):
            return Batcher(name, work, *settings, report=lambda size, seconds: report(name, size, seconds))

        self.encoding = batcher("encode", self._encode, batching["batch"], batching["wait"], batching["coming"])
        self.searching = batcher("search", self._search, batching["batch"])
        self.changing = None if lock is None else batcher("change", self._change, CHANGES)

    def _open_writer(self):
        """The index to write to: changes are not to wait for searches, nor the other way round."""
        engine, place = split_uri(self.reader.uri)
        # Faiss follows the shards that exact writes; what talks to Milvus may as well be the reader
        return self.reader if engine == "milvus" else open_index(f"exact:{place}")

    def _warm_up(self):
        """Load what is loaded when it is first used, and prepare the network for every size of a batch."""
        shapes = {"image": self.encoder.manifest["image"]["input"]}
        if self.encoder.manifest.get("text"):
            shapes["text"] = [self.encoder.manifest["text"]["dim"]]
        for modality, shape in shapes.items():
            for size in self._sizes:
                relaxed = self._encode(modality, [np.zeros(shape, "float32")] * size)
        self.reader.search(pack(np.stack(relaxed[:1])), 1)

    def close(self):
        """Finish what waits and let go of the index."""
        for batcher in (self.encoding, self.searching, self.changing):
            if batcher is not None:
                batcher.close()
        if self._writer is not None:
            self.reader.save()
        for index in {id(index): index for index in (self.reader, self._writer) if index is not None}.values():
            index.close()

    @property
    def alive(self):
        """Whether all threads run."""
        return all(batcher.alive for batcher in (self.encoding, self.searching, self.changing) if batcher is not None)

    # encoding -------------------------------------------------------------------------------
    def _encode(self, modality, rows):
        """Relaxed codes of network inputs, in batches of sizes that the network has seen."""
        run, rows, found = self.encoder.encode_text if modality == "text" else self.encoder.encode, np.stack(rows), []
        for size in cover(len(rows), self._sizes):
            part = rows[len(found):len(found) + size]
            filled = np.zeros([size, *part.shape[1:]], "float32")
            filled[:len(part)] = part
            found.extend(run(filled)[:len(part)])
        return found

    # searching ------------------------------------------------------------------------------
    def _search(self, question, queries):
        """Found for each Query; or, where ``question`` is a callable, its answers."""
        try:
            self.reader.refresh()
        except InputError as error:
            return [Unavailable(str(error))] * len(queries)
        if callable(question):
            return [question(self.reader, value) for value in queries]
        known = self._resolve(queries)
        answers = [known.get(i, None) for i in range(len(queries))]
        # those with a relaxed code go together; ids of an index that keeps none have packed ones only
        for relaxed in (True, False):
            rows = [i for i, answer in enumerate(answers)
                    if isinstance(answer, tuple) and (answer[1] is not None) == relaxed]
            if rows:
                codes = np.stack([answers[i][0] for i in rows])
                finer = np.stack([answers[i][1] for i in rows]) if relaxed else None
                names = [queries[i].id for i in rows]

                def find(codes=codes, finer=finer, names=names):
                    return self._found(codes, ask(self.reader, codes, question, finer, names))
                for i, answer in zip(rows, settled(find)):
                    answers[i] = answer
        return answers

    def _resolve(self, queries):
        """dict place -> (packed code, relaxed code or None) of a query, or the exception that is its answer."""
        known = {}
        given = [i for i, query in enumerate(queries) if query.id is None]
        if given:
            relaxed = np.stack([queries[i].relaxed for i in given])
            known.update(zip(given, zip(pack(relaxed), relaxed)))
        for i in sorted(set(range(len(queries))) - set(given)):
            try:
                item = settled(lambda i=i: self.reader.get([queries[i].id]))
                known[i] = item.codes[0], None if item.relaxed is None else item.relaxed[0].astype("float32")
            except Unavailable:
                raise
            except InputError:
                known[i] = Unknown(f"no item {queries[i].id!r}")
        return known

    def _found(self, codes, answers):
        positions = [match.position for answer in answers for match in answer]
        shown, items = iter(self.reader.take(positions).codes if positions else []), len(self.reader)
        return [Found(code.tobytes().hex(), [(match, next(shown).tobytes().hex(), self.reader.label_names(match.labels))
                                             for match in answer], items) for code, answer in zip(codes, answers)]

    # changing -------------------------------------------------------------------------------
    def _change(self, how, values):
        """``add``, ``replace``: Items -> whether each replaced one. ``remove``: lists of ids -> True. Or exceptions."""
        try:
            with owned(self._lock, PATIENCE):
                self._writer.refresh()
                return self._remove(values) if how == "remove" else self._add(values, how == "replace")
        except InputError as error:
            return [Unavailable(str(error))] * len(values)

    def _add(self, items, replace):
        known = self._writer.has([item.id for item in items])
        results, rows, seen = [None] * len(items), [], set()
        for i, item in enumerate(items):
            if (known[i] and not replace) or item.id in seen:
                results[i] = Conflict(f"{item.id!r} is in the index already; replace=true puts this picture in its "
                                      "place")
                continue
            seen.add(item.id)
            rows.append(i)
        if not rows:
            return results
        with self._pictures.changed({items[i].id: (items[i].data, bool(known[i])) for i in rows}):
            self._writer.add(self._codefile([items[i] for i in rows]), replace)
        for i in rows:
            results[i] = bool(known[i])
        return results

    def _codefile(self, items):
        info, relaxed = self._writer.info, np.stack([item.relaxed for item in items])
        labels = None
        if info.labels is not None:
            labels = np.zeros((len(items), info.labels), np.uint8)
            for row, item in zip(labels, items):
                row[item.labels] = 1
        meta = {"classes": list(info.classes), "precision": self.encoder.precision}
        return CodeFile(pack(relaxed), info.bits, [item.id for item in items], labels, info.fingerprint, meta,
                        relaxed.astype(np.float16) if info.relaxed else None)

    def _remove(self, requests):
        """For each list of ids whether all are gone: none of a list goes where one is not there."""
        known = dict.fromkeys(name for ids in requests for name in ids)
        known = dict(zip(known, self._writer.has(known)))
        missing = [[name for name in ids if not known[name]] for ids in requests]
        gone = {name for ids, unknown in zip(requests, missing) if not unknown for name in ids}
        self._writer.remove(gone)
        # also of what is gone already: its picture may have outlived a process that was killed
        for name in known:
            if name in gone or not known[name]:
                self._pictures.drop(name)
        return [Unknown(f"{few(unknown)} not in the index: nothing was removed") if unknown else True
                for unknown in missing]


def batch_sizes(most):
    """Sizes of the network's batches, ascending: 1, and ``most`` divided by 4 again and again.

    They are few because oneDNN keeps a copy of the weights for every size, which it makes when the size is new.
    """
    sizes = {1}
    while most > 1:
        sizes.add(most)
        most //= 4
    return sorted(sizes)


def cover(count, sizes):
    """Sizes that hold ``count`` inputs together, the last one filled up where that is more than half full."""
    parts = []
    while count > 0:
        fitting = max(size for size in sizes if size <= count)
        larger = min((size for size in sizes if size > count), default=None)
        parts.append(larger if larger is not None and 2 * count > larger else fitting)
        count -= parts[-1]
    return parts


def own_folder(uri, data_dir):
    """Folder of what the service keeps beside the index: uploads, and the lock of those who change.

    Raises:
        InputError: the index is on a server and ``data_dir`` is not given.
    """
    if data_dir is not None:
        return data_dir
    if on_server(uri):
        raise InputError(f"{uri} is on a server: say with --data-dir where the pictures that are added are kept, or "
                         "give --read-only")
    return os.path.abspath(split_uri(uri)[1]) + ".service"
