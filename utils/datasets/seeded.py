"""Random numbers that are the same on every machine and with every library version: integer hashing.

numpy may change its Generator methods between releases, so splits and the ``shapes`` set draw from here.
"""
import numpy as np

_MASK = (1 << 64) - 1


def mix(x):
    """uint64 array -> uint64 array, the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) after its step."""
    x = np.atleast_1d(np.asarray(x, np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def key(*numbers):
    """Non-negative integers -> one 64-bit integer that names a stream of random numbers."""
    state = 0
    for number in numbers:
        state = int(mix((state ^ (int(number) & _MASK)) & _MASK)[0])
    return state


def hashes(stream, n):
    """uint64 [n], the first n numbers of the stream ``key(...)``."""
    return mix(np.arange(n, dtype=np.uint64) ^ np.uint64(stream))


def permutation(n, *numbers):
    """int64 [n], a permutation of 0..n-1 drawn from the integers ``numbers`` (seed and purpose)."""
    return np.argsort(hashes(key(*numbers), n), kind="stable")


class Draw:
    """A stream of small random integers, drawn ahead in one block."""

    def __init__(self, *numbers):
        self._stream = key(*numbers)
        self._values = []
        self._block = 0

    def below(self, n):
        """An integer in 0..n-1."""
        if not self._values:
            self._values = hashes(key(self._stream, self._block), 256).tolist()
            self._block += 1
        return (self._values.pop() >> 16) % n

    def between(self, low, high):
        """An integer in low..high, both included."""
        return low + self.below(high - low + 1)

    def pick(self, items):
        """One of a sequence."""
        return items[self.below(len(items))]
