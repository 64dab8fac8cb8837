"""Pictures of a split as batches of network inputs, decoded by threads: how deployment reads them."""
import functools
import itertools

import numpy as np

from utils.images import ImageError, read
from utils.prefetch import ordered
from utils.transforms import preprocess

AHEAD = 2  # batches that are decoded while the caller computes


class PictureLoader:
    """``load`` of utils.retrieval.encode: callable (split, pieces)."""

    def __init__(self, spec, workers=2):
        """
        Args:
            spec: dict of utils.transforms.preprocess_spec.
            workers: decoding threads.
        """
        self.spec, self.workers = spec, workers

    def __call__(self, split, pieces):
        """Yield (positions that could be read, images float32 [n, 3, crop, crop] or None, messages of the others).

        Args:
            split: its ``images`` are read.
            pieces: list of int arrays, the positions of each batch.
        """
        results = ordered(functools.partial(self._load, split.images), itertools.chain.from_iterable(pieces),
                          self.workers, AHEAD * max(map(len, pieces), default=0))
        for piece in pieces:
            yield _collect(piece, list(itertools.islice(results, len(piece))))

    def _load(self, images, position):
        """Network input of one picture, or the message of what is wrong with it."""
        try:
            return preprocess(read(images, position, self.spec), self.spec)
        except ImageError as error:
            return str(error)


def _collect(piece, results):
    good = [i for i, result in enumerate(results) if not isinstance(result, str)]
    return ([piece[i] for i in good], np.stack([results[i] for i in good]) if good else None,
            [result for result in results if isinstance(result, str)])
