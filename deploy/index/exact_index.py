"""Exact search on memory-mapped code shards: every code is compared with every query."""
import numpy as np

from deploy.index.base import Hits, Index, few
from utils.errors import InputError
from utils.retrieval import hamming

_AT_ONCE = 1 << 16  # rows


class ShardIndex(Index):
    """What the engines share that keep their items in a folder of shards: everything but search."""

    def __init__(self, uri, store):
        self.store = store
        super().__init__(uri, store.view.info)

    @property
    def view(self):
        """ShardSet, the state that questions are answered from."""
        return self.store.view

    def __len__(self):
        return self.view.items

    def take(self, positions):  # noqa: D102 (see Index)
        return self.view.take(positions)

    def _find(self, ids):
        return self.view.find(ids)

    def batches(self, size=1 << 16):  # noqa: D102
        return self.view.batches(size)

    def codes(self):  # noqa: D102
        for part in self.view.parts:
            for start in range(0, part.shard.rows, _AT_ONCE):
                codes = part.shard.codes(slice(start, start + _AT_ONCE))
                live = slice(None) if part.live is None else part.live[start:start + _AT_ONCE]
                yield part.first + np.arange(start, start + len(codes))[live], codes[live]

    def _page(self, count, after, where):
        view, found, wanted = self.view, [np.zeros(0, np.int64)], count
        for part in view.parts:
            first = max(after + 1 - part.first, 0)
            if first >= part.shard.rows or not wanted:
                continue
            mask = allowed(part, where)
            rows = np.arange(first, part.shard.rows) if mask is None else first + np.flatnonzero(mask[first:])
            found.append(part.first + rows[:wanted])
            wanted -= len(found[-1])
        positions = np.concatenate(found)
        return positions, view.take(positions)

    def _add(self, codefile, replace):
        replaced = self.store.add(codefile, replace)
        self._look()
        return replaced

    def _remove(self, ids, missing_ok):
        found = None

        def positions(view):
            nonlocal found
            found = view.find(ids)
            missing = [name for name, position in zip(ids, found) if position < 0]
            if missing and not missing_ok:
                raise InputError(f"{few(missing)} not in the index: nothing was removed")
            return found[found >= 0]

        self.store.remove(positions)
        self._look()
        return [name for name, position in zip(ids, found) if position >= 0]

    def compact(self):  # noqa: D102
        dropped = self.store.compact()
        self._look()
        return dropped

    def check(self):  # noqa: D102
        self.view.check()

    def refresh(self):  # noqa: D102
        return self.store.refresh() and self._look()

    def _look(self):
        """Take over the state that the store has. Returns True."""
        self.info = self.view.info
        return True

    def stats(self):  # noqa: D102
        view = self.view
        return {**super().stats(), "shards": len(view.parts), "removed": view.rows - view.items,
                "bytes": sum(part.shard.size for part in view.parts), "meta": self.info.meta}


class ExactIndex(ShardIndex):
    """Exact Hamming search.

    Memory: ceil(bits / 8) bytes a code, mapped, shared by all processes. Cost: one XOR and popcount a word of code and
    query, no build beyond writing the shards.
    """

    engine = "exact"

    def _search(self, query, k, where):
        view = self.view
        distance, position = np.zeros((len(query), 0), np.int32), np.zeros((len(query), 0), np.int64)
        for part in view.parts:
            mask = allowed(part, where)
            if mask is not None and not mask.any():
                continue
            near, rows = hamming.topk(query, part.shard.words, min(k, part.shard.rows), mask)
            distance = np.concatenate([distance, near], axis=1)
            position = np.concatenate([position, part.first + rows], axis=1)
            order = np.argsort(distance, axis=1, kind="stable")[:, :k]  # ties: what came first stands first
            distance, position = (np.take_along_axis(array, order, 1) for array in (distance, position))
        start = np.arange(len(query) + 1) * distance.shape[1]
        return hits(view, start, distance.ravel(), position.ravel())

    def _within(self, query, radius, where):
        view, owners, distances, positions = self.view, [], [], []
        for part in view.parts:
            mask = allowed(part, where)
            if mask is not None and not mask.any():
                continue
            start, distance, rows = hamming.within(query, part.shard.words, radius, mask)
            owners.append(np.repeat(np.arange(len(query)), np.diff(start)))
            distances.append(distance)
            positions.append(part.first + rows)
        return ranked(view, len(query), *(np.concatenate([*arrays, []]).astype(np.int64)
                                          for arrays in (owners, distances, positions)))


def ranked(view, queries, owner, distance, position):
    """List of Hits of answers in any order.

    Args:
        view: ShardSet of the positions. queries: their number. owner, distance, position: int [M], of each answer.
    """
    order = np.lexsort((position, distance, owner))
    start = np.searchsorted(owner[order], np.arange(queries + 1))
    return hits(view, start, distance[order].astype(np.int32), position[order])


def hits(view, start, distance, position):
    """List of Hits of ordered answers: those of query q are start[q]:start[q + 1]."""
    items = view.take(position)
    return [Hits(distance[first:last], position[first:last], items.ids[first:last],
                 None if items.labels is None else items.labels[first:last])
            for first, last in zip(start[:-1].tolist(), start[1:].tolist())]


def allowed(part, where):
    """Mask bool [rows] of the rows of a part that are there and that a filter lets through; None for all."""
    mask = part.live
    if where.label is not None:
        mask = part.shard.has_label(where.label) if mask is None else mask & part.shard.has_label(where.label)
    if where.prefix:
        starts = part.shard.starts_with(where.prefix.encode("utf-8", "surrogatepass"))
        mask = starts if mask is None else mask & starts
    return mask
