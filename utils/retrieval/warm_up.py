"""Compile the kernels of this room ahead, so that nobody's first search waits for them.

    python -m utils.retrieval.warm_up

The machine code goes where the kernels look for it (utils/retrieval/compiled.py); scripts/setup.sh calls this.
"""
import numpy as np

from utils.retrieval.asymmetric import refine
from utils.retrieval.hamming import distances, pack, topk, within
from utils.retrieval.metrics import AP, curves, evaluate
from utils.retrieval.near_duplicates import near_groups

ITEMS, CLASSES = 200, 3


def warm_up():
    """Call every kernel once with every kind of argument that the product gives it."""
    random = np.random.default_rng(0)
    labels = np.eye(CLASSES, dtype=np.uint8)[random.integers(0, CLASSES, ITEMS)]
    for bits in (16, 32, 64):  # a row is words of 16, 32 or 64 bits
        relaxed = random.standard_normal((ITEMS, bits)).astype(np.float32)
        codes = pack(relaxed)
        for allowed in (None, np.arange(ITEMS // 2)):
            _, position = topk(codes, codes, 5, allowed)
            within(codes, codes, bits // 2, allowed)
        distances(codes, codes)
        refine(relaxed, codes, position)
        near_groups(codes, bits, 1)
    curves(codes, codes, labels, labels, bits)
    for ap in AP:
        evaluate(codes, codes, labels, labels, bits, topk=5, ap=ap, relaxed=relaxed)


if __name__ == "__main__":
    warm_up()
