"""Counters of all processes of a service in the text format of Prometheus.

Each process counts in a small mapped file of its own, and whoever is asked adds all of them up: the answer is that of
the service, whichever process gives it. The file of a process that has ended stays, so counters never fall.
"""
import bisect
import itertools
import os
import tempfile
import threading

import numpy as np

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
ROUTES = ("picture", "text", "item", "items", "add", "remove", "thumbnail", "page", "other")
STATUSES = ("2xx", "3xx", "4xx", "5xx")
# name -> (help, label, its values, bounds of the buckets; () for a counter)
SERIES = {
    "deephash_requests_total": ("Requests by route and status.", ("route", "status"),
                                tuple(itertools.product(ROUTES, STATUSES)), ()),
    "deephash_request_seconds": ("Seconds from the head of a request to the end of its answer.", ("route",),
                                 tuple((route,) for route in ROUTES), SECONDS),
    "deephash_batch_size": ("Values worked on together.", ("work",), (("encode",), ("search",), ("change",)), SIZES),
    "deephash_batch_seconds": ("Seconds of a batch.", ("work",), (("encode",), ("search",), ("change",)), SECONDS),
    "deephash_upload_bytes_total": ("Bytes of pictures received.", (), ((),), ()),
    "deephash_items_added_total": ("Items added.", (), ((),), ()),
    "deephash_items_removed_total": ("Items removed.", (), ((),), ()),
}


class Metrics:
    """What a process counts, and the sum over all of them."""

    def __init__(self, folder=None):
        """
        Args:
            folder: shared by the processes of a service; None for one process alone.
        """
        self._folder, self._lock, self._places = folder, threading.Lock(), {}
        size = 0
        for name, (_, _, values, bounds) in SERIES.items():
            for value in values:
                self._places[name, value] = size
                size += len(bounds) + 2 if bounds else 1  # buckets, the one above all bounds, the sum
        self._size = size
        if folder is None:
            self._counts = np.zeros(size)
        else:
            handle, path = tempfile.mkstemp(".metrics", f"{os.getpid()}-", folder)
            os.close(handle)
            self._counts = np.memmap(path, np.float64, "w+", shape=(size,))

    def add(self, name, amount=1, *value):
        """Raise a counter."""
        with self._lock:
            self._counts[self._places[name, value]] += amount

    def observe(self, name, amount, *value):
        """Note a value of a histogram."""
        place, bounds = self._places[name, value], SERIES[name][3]
        with self._lock:
            self._counts[place + bisect.bisect_left(bounds, amount)] += 1
            self._counts[place + len(bounds) + 1] += amount

    def _sum(self):
        if self._folder is None:
            return self._counts
        files = [entry.path for entry in os.scandir(self._folder) if entry.name.endswith(".metrics")]
        tables = [np.fromfile(path, np.float64) for path in files]
        return sum((table for table in tables if len(table) == self._size), np.zeros(self._size))

    def text(self, gauges):
        """The whole page for Prometheus.

        Args:
            gauges: dict name -> (help, value), of the process that answers.
        """
        counts, lines = self._sum(), []
        for name, (about, labels, values, bounds) in SERIES.items():
            lines += [f"# HELP {name} {about}", f"# TYPE {name} {'histogram' if bounds else 'counter'}"]
            for value in values:
                shown = [f'{label}="{text}"' for label, text in zip(labels, value)]
                place = self._places[name, value]
                if not bounds:
                    lines.append(f"{name}{_braces(shown)} {counts[place]:.17g}")
                    continue
                total = np.cumsum(counts[place:place + len(bounds) + 1])
                for bound, count in zip((*bounds, "+Inf"), total):
                    lines.append(f"{name}_bucket{_braces([*shown, f'le={chr(34)}{bound}{chr(34)}'])} {count:.17g}")
                lines += [f"{name}_sum{_braces(shown)} {counts[place + len(bounds) + 1]:.17g}",
                          f"{name}_count{_braces(shown)} {total[-1]:.17g}"]
        for name, (about, value) in gauges.items():
            lines += [f"# HELP {name} {about}", f"# TYPE {name} gauge", f"{name} {value:.17g}"]
        return "\n".join(lines) + "\n"


def _braces(labels):
    return "{" + ",".join(labels) + "}" if labels else ""
