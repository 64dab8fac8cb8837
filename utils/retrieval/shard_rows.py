"""Rows of code shards in memory: on their way into a shard, or from one shard into another."""
import dataclasses
import hashlib
from typing import Optional

import numpy as np

from utils.retrieval.hamming import prepare


@dataclasses.dataclass(eq=False)
class Rows:
    """Rows as arrays, laid out as in a shard (utils.retrieval.code_shards).

    Attributes:
        words: of ``hamming.prepare``, unsigned [W, N].
        ends: uint64 [N + 1]; ``names``: uint8, the ids behind each other.
        keys: uint64 [N], hashes of the ids in the order of the rows.
        label_bits: uint8 [N, ceil(C / 8)] or None. relaxed: float16 [N, bits] or None.
    """

    words: np.ndarray
    ends: np.ndarray
    names: np.ndarray
    keys: np.ndarray
    label_bits: Optional[np.ndarray] = None
    relaxed: Optional[np.ndarray] = None

    def __len__(self):
        return len(self.keys)

    @classmethod
    def of(cls, codefile):
        """The rows of a CodeFile."""
        names = encode_ids(codefile.ids)
        ends = np.zeros(len(names) + 1, np.uint64)
        np.cumsum([len(name) for name in names], out=ends[1:])
        labels = codefile.labels
        return cls(prepare(codefile.codes), ends, np.frombuffer(b"".join(names), np.uint8), id_keys(names),
                   None if labels is None else np.packbits(labels, axis=1), codefile.relaxed)

    @classmethod
    def join(cls, parts):
        """One after the other; the parts have the same code length and columns."""
        sizes = np.cumsum([0, *(int(part.ends[-1]) for part in parts)]).astype(np.uint64)
        return cls(np.concatenate([part.words for part in parts], axis=1),
                   np.concatenate([part.ends[:-1] + size for part, size in zip(parts, sizes)] + [sizes[-1:]]),
                   *(concatenate([getattr(part, name) for part in parts])
                     for name in ("names", "keys", "label_bits", "relaxed")))

    def slice(self, start, stop):
        """Rows start .. stop - 1."""
        ends = self.ends[start:stop + 1]
        return Rows(self.words[:, start:stop], ends - ends[0], self.names[int(ends[0]):int(ends[-1])],
                    *(None if array is None else array[start:stop]
                      for array in (self.keys, self.label_bits, self.relaxed)))

    def select(self, keep):
        """The rows of a mask. Takes 16 bytes for each byte of their ids meanwhile."""
        starts, sizes = self.ends[:-1][keep], np.diff(self.ends)[keep]
        ends = np.concatenate([np.zeros(1, np.uint64), np.cumsum(sizes, dtype=np.uint64)])
        places = np.repeat(starts - ends[:-1], sizes.astype(np.int64)) + np.arange(int(ends[-1]), dtype=np.uint64)
        return Rows(self.words[:, keep], ends, self.names[places],
                    *(None if array is None else array[keep] for array in (self.keys, self.label_bits, self.relaxed)))

    @staticmethod
    def regroup(pieces, size):
        """Yield the rows of an iterable of Rows again, ``size`` at a time (the last ones fewer)."""
        waiting, total = [], 0
        for rows in pieces:
            start = 0
            while start < len(rows):
                part = rows.slice(start, min(start + size - total, len(rows)))
                waiting.append(part)
                start, total = start + len(part), total + len(part)
                if total == size:
                    yield Rows.join(waiting)
                    waiting, total = [], 0
        if waiting:
            yield Rows.join(waiting)


def concatenate(arrays):
    """Arrays behind each other; None where there are none."""
    return None if arrays[0] is None else np.concatenate(arrays)


def encode_ids(ids):
    """Ids as they stand in a shard: list of bytes."""
    return [name.encode("utf-8", "surrogatepass") for name in ids]


def id_keys(names):
    """Hashes, uint64 [n], of encoded ids."""
    blake = hashlib.blake2b
    return np.frombuffer(b"".join([blake(name, digest_size=8).digest() for name in names]), "<u8")
