"""Milvus behind the interface of the other engines: a file of milvus-lite, a standalone server or a cluster, one code.

An item is a row: ``position`` (primary key), ``name`` (its id), ``code``, ``labels`` and, where kept, ``relaxed``.
Positions come from the clock, so they grow and need no counter that two writers would have to share; an equal primary
key would hide other rows (Milvus 2.3.5).

A collection is built in full before a second, empty one makes it the current: ``NAME_3_info`` says that ``NAME_3`` is
whole and what its codes are. All questions are asked with consistency ``Strong``: what was added is found. The answer
of Milvus is exact but for the order of equal distances; where that decides who is among the k, all of them are fetched.
"""
import base64
import contextlib
import os

import numpy as np

from deploy.index.base import Hits, Index, Removed, few, make_folder
from deploy.index.milvus_client import LAST, ROWS, Client, Clock, fill, insert, parse_address, read_info, shown, stored
from utils.errors import InputError

MOST = 16384  # results that Milvus gives to one query
# results asked for beyond the k-th: do more lie at its distance? A server makes each request wait for its clock, and
# 100 seldom leave that open; milvus-lite does not, and needs a third of a millisecond a result
BEYOND, BEYOND_LITE = 100, 1


class MilvusIndex(Index):
    """Exact search by Milvus (index BIN_FLAT, metric HAMMING).

    Cost and memory are the server's; an answer waits until it has seen all earlier changes (about 0.2 s on a
    standalone server).
    """

    engine = "milvus"

    def __init__(self, uri, place, fingerprint=None):
        """
        Args:
            uri: as the user wrote it. place: FILE.db or http://HOST:PORT[/COLLECTION].
            fingerprint: of the model that will search it; None accepts any.

        Raises:
            InputError: no server, no file, no collection, or one of another model.
        """
        address, name = parse_address(place)
        if not address.startswith("http") and not os.path.isfile(address):
            raise InputError(f"no index at {uri}: build one")
        self._client, self._base, self._name, self._fingerprint = Client(uri, address), name, None, fingerprint
        self._beyond = BEYOND if self._client.served else BEYOND_LITE
        super().__init__(uri, None)
        try:
            self.refresh()
        except InputError:
            self._client.close()
            raise

    @classmethod
    def build(cls, uri, place, info, batches, overwrite=False):
        """A new collection, all of it or nothing; arguments as for ``deploy.index.build_index``."""
        address, name = parse_address(place)
        if not address.startswith("http"):
            make_folder(os.path.dirname(os.path.abspath(address)))
        with contextlib.closing(Client(uri, address)) as client:
            old = client.generations(name)
            if old and not overwrite:
                raise InputError(f"{uri} holds an index already: add to it, or build with --overwrite")
            for number in client.generations(name, whole=False):  # of builds that were killed
                client("drop_collection", f"{name}_{number}")
            new = f"{name}_{max(old, default=-1) + 1}"
            client.make(new, info)
            try:
                fill(client, new, batches)
            except InputError:
                client("drop_collection", new)
                raise
            client.make(new + "_info", info)
            for number in old:
                client("drop_collection", f"{name}_{number}_info")
                client("drop_collection", f"{name}_{number}")
        return cls(uri, place)

    def refresh(self):
        """As ``Index.refresh``. Changes are seen without; what this looks for is an index that was built anew."""
        number = max(self._client.generations(self._base), default=None)
        if number is None:
            raise InputError(f"no index at {self.uri}: its collection {self._base} is not there or was not built to "
                             "its end; build it")
        name = f"{self._base}_{number}"
        if name == self._name:
            return False
        info = read_info(self._client, name, self.uri)
        if self._fingerprint is not None and info.fingerprint != self._fingerprint:
            raise InputError(f"{self.uri} was made by another model (fingerprint {info.fingerprint or 'unknown'}, the "
                             f"model at hand has {self._fingerprint}): encode again, or choose the other model")
        self._name, self.info = name, info
        return True

    # questions ------------------------------------------------------------------------------
    def __len__(self):
        return self._client("query", self._name, output_fields=["count(*)"])[0]["count(*)"]

    def _search(self, query, k, where):
        if k > MOST:
            return [self._hits(self._far(code.tobytes(), k, where)[:k]) for code in query]
        limit = min(k + self._beyond, MOST)
        answers = []
        for start in range(0, len(query), 100):
            codes = [code.tobytes() for code in query[start:start + 100]]
            for code, rows in zip(codes, self._ask(codes, limit, where)):
                answers.append(self._hits(self._settle(code, rows, k, limit, where)[:k]))
        return answers

    def _settle(self, code, rows, k, limit, where):
        """Rows of a search in the order of distance and position, those at the k-th distance the earliest."""
        rows.sort(key=lambda row: row[:2])
        if len(rows) < limit or rows[k - 1][0] < rows[-1][0]:
            return rows
        last = rows[k - 1][0]
        nearer, ties = [row for row in rows if row[0] < last], []
        for part in self._ascending(code, last, where):
            ties += sorted(row for row in part if row[0] == last)
            if len(nearer) + len(ties) >= k:
                break
        return nearer + ties

    def _far(self, code, k, where):
        """As ``_settle`` of more rows than Milvus gives at once: all within the smallest radius that holds so many."""
        nearest, = self._ask([code], MOST, where)
        if len(nearest) < MOST:
            return sorted(nearest, key=lambda row: row[:2])
        for radius in range(max(row[0] for row in nearest), self.info.bits + 1):
            rows = self._around(code, radius, where)
            if len(rows) >= k:
                break
        return rows

    def _within(self, query, radius, where):
        return [self._hits(self._around(code.tobytes(), radius, where)) for code in query]

    def _around(self, code, radius, where):
        """All rows within a radius, in the order of distance and position."""
        return sorted((row for part in self._ascending(code, radius, where) for row in part), key=lambda row: row[:2])

    def _ascending(self, code, radius, where, low=0, high=(1 << 63) - 1):
        """Yield lists of rows within a radius: all from a position on, then all behind, as far as the caller wants."""
        rows, = self._ask([code], MOST, where, radius, f"position >= {low} and position < {high}")
        if len(rows) < MOST:
            yield rows
            return
        middle = sorted(row[1] for row in rows)[MOST // 2]
        yield from self._ascending(code, radius, where, low, middle)
        yield from self._ascending(code, radius, where, middle, high)

    def _ask(self, codes, limit, where, radius=None, among=""):
        """Rows (distance, position, name, label columns) of each code, in any order."""
        search = {"metric_type": "HAMMING", "params": {} if radius is None else {"radius": radius + 1}}
        condition = " and ".join(filter(None, [among, self._condition(where)]))
        found = self._client("search", self._name, data=codes, limit=limit, filter=condition,
                             output_fields=["name", "labels"], search_params=search)
        return [[(int(hit["distance"]), hit["id"], hit["entity"]["name"], hit["entity"]["labels"]) for hit in hits]
                for hits in found]

    @staticmethod
    def _condition(where):
        parts = []
        if where.label is not None:
            parts.append(f"array_contains(labels, {where.label})")
        if where.prefix:
            parts.append(f'name >= "{stored(where.prefix)}" and name < "{stored(where.prefix)}{LAST}"')
        return " and ".join(parts)

    def _hits(self, rows):
        return Hits(np.array([row[0] for row in rows], np.int32), np.array([row[1] for row in rows], np.int64),
                    [shown(row[2]) for row in rows], self._label_rows([row[3] for row in rows]))

    def _label_rows(self, columns):
        if self.info.labels is None:
            return None
        labels = np.zeros((len(columns), self.info.labels), np.uint8)
        for row, columns_of_row in zip(labels, columns):
            row[list(columns_of_row)] = 1
        return labels

    def take(self, positions):  # noqa: D102 (see Index)
        positions, rows = [int(position) for position in positions], {}
        for start in range(0, len(positions), ROWS):
            rows.update({row["position"]: row for row in
                         self._rows(f"position in {positions[start:start + ROWS]}", ROWS)})
        missing = [position for position in positions if position not in rows]
        if missing:
            raise Removed(f"{len(missing)} items of {self.uri} were removed while they were asked for: ask again")
        return self._codefile([rows[position] for position in positions])

    def _rows(self, condition, limit):
        return self._client("query", self._name, filter=condition, limit=limit, output_fields=["*"])

    def _codefile(self, rows):
        width = -(-self.info.bits // 8)
        codes = np.frombuffer(b"".join(row["code"][0] for row in rows), np.uint8).reshape(len(rows), width)
        relaxed = None
        if self.info.relaxed:
            data = b"".join(base64.b64decode(row["relaxed"]) for row in rows)
            relaxed = np.frombuffer(data, np.float16).reshape(len(rows), self.info.bits)
        return self.info.codefile(codes, [shown(row["name"]) for row in rows],
                                  self._label_rows([row["labels"] for row in rows]), relaxed)

    def _find(self, ids):
        found = self._positions(ids)
        return np.array([max(found.get(name, [-1])) for name in ids], np.int64)

    def _positions(self, ids):
        """dict id -> its positions: several where a writer was killed while it replaced an item."""
        found = {}
        for start in range(0, len(ids), ROWS):
            names = ", ".join(f'"{stored(name)}"' for name in ids[start:start + ROWS])
            for row in self._client("query", self._name, filter=f"name in [{names}]", output_fields=["name"],
                                    limit=MOST):
                found.setdefault(shown(row["name"]), []).append(row["position"])
        return found

    def _page(self, count, after, where):
        positions, rows = [], []
        while len(rows) < count:
            condition = " and ".join(filter(None, [f"position > {after}", self._condition(where)]))
            part = self._rows(condition, min(count - len(rows), ROWS))
            if not part:
                break
            rows += part
            positions += [row["position"] for row in part]
            after = positions[-1]
        return np.array(positions, np.int64), self._codefile(rows)

    def batches(self, size=1 << 16):  # noqa: D102
        after = -1
        while True:
            positions, codefile = self.page(size, after)
            if not len(positions):
                return
            yield positions, codefile
            after = int(positions[-1])

    # changes --------------------------------------------------------------------------------
    def _add(self, codefile, replace):
        old = self._positions(codefile.ids)
        if old and not replace:
            names = [name for name in codefile.ids if name in old]
            raise InputError(f"{few(names)} in the index already: nothing was added; leave "
                             f"{'it' if len(names) == 1 else 'them'} out or give --replace")
        positions = Clock().positions(len(codefile))
        try:
            insert(self._client, self._name, positions, codefile)
        except InputError:
            self._delete(positions)
            raise
        # last: whoever is killed before leaves an item twice, and none is lost
        self._delete([position for positions in old.values() for position in positions])
        return len(old)

    def _remove(self, ids, missing_ok):
        found = self._positions(ids)
        missing = [name for name in ids if name not in found]
        if missing and not missing_ok:
            raise InputError(f"{few(missing)} not in the index: nothing was removed")
        self._delete([position for positions in found.values() for position in positions])
        return [name for name in ids if name in found]

    def _delete(self, positions):
        for start in range(0, len(positions), ROWS):
            self._client("delete", self._name, ids=[int(position) for position in positions[start:start + ROWS]])

    def save(self):  # noqa: D102
        self._client("flush", self._name)

    def compact(self):
        """As ``Index.compact``, but Milvus works in the background and does not say what it found: returns None.

        milvus-lite keeps no removed rows.
        """
        if self._client.served:
            self._client("compact", self._name)

    def check(self):  # noqa: D102
        seen = set()
        for _, codefile in self.batches():
            codefile.check()
            twice = [name for name in codefile.ids if name in seen or seen.add(name)]
            if twice:
                raise InputError(f"{few(twice)} more than once in {self.uri}: add again with --replace, or remove")

    def stats(self):  # noqa: D102
        return {**super().stats(), "collection": self._name, "consistency": "Strong",
                "server": self._client("get_server_version") if self._client.served else "milvus-lite",
                "meta": self.info.meta}

    def close(self):  # noqa: D102
        self._client.close()
