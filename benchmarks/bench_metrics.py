"""Our metrics against the usual per-query numpy loop, side by side in one run.

    python benchmarks/bench_metrics.py                  # COCO protocol, under a minute
    python benchmarks/bench_metrics.py --queries 500 --sample 10

Codes and labels are simulated: 80 labels with a skewed frequency, codes that are noisy signs of a random projection of
the labels. The loop is timed on a sample of the queries and extrapolated; on that sample both must give the same value.
"""
import argparse
import os
import platform
import resource
import statistics
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np  # noqa: E402

from utils import hamming  # noqa: E402
from utils.errors import run_main  # noqa: E402
from utils.files import write_json  # noqa: E402
from utils.metrics import evaluate, format_line  # noqa: E402


def loop_map(query, database, query_labels, database_labels, k, kind=None):
    """mAP as public deep-hashing code computes it: +-1 float codes, one query at a time, a sort of the database.

    ``kind`` None is numpy's default sort, as in that code: the fastest, its order of ties is its own.
    """
    total = 0.0
    for code, label in zip(query, query_labels):
        relevant = (database_labels @ label > 0).astype(np.float32)
        distance = 0.5 * (database.shape[1] - database @ code)
        ranked = relevant[np.argsort(distance, kind=kind)][:k]
        hits = int(ranked.sum())
        if hits:
            positions = np.flatnonzero(ranked) + 1.0
            total += np.mean(np.arange(1, hits + 1) / positions)
    return total / len(query)


def simulate(queries, items, bits, classes, seed):
    """Labels uint8 and codes float32 of +-1, for queries and database."""
    rng = np.random.default_rng(seed)
    frequency = 0.12 / (1 + np.arange(classes) / 8)
    frequency[0] = 0.4
    labels = (rng.random((queries + items, classes)) < frequency).astype(np.uint8)
    labels[labels.sum(1) == 0, 0] = 1
    projection = rng.standard_normal((classes, bits)).astype(np.float32)
    noise = rng.standard_normal((queries + items, bits), dtype=np.float32)
    codes = np.where(labels.astype(np.float32) @ projection + 1.5 * noise >= 0, 1, -1).astype(np.float32)
    return codes[:queries], codes[queries:], labels[:queries], labels[queries:]


def seconds(function, repeats=1):
    """Median wall time of ``function()`` and its last result."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
    return statistics.median(times), result


def peak_mib():
    """Peak resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1 << 20)


def machine():
    """What ran: one line."""
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            name = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), name)
    load = f", load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    return (f"{name}, {hamming.threads()} threads{load}; Python {platform.python_version()}, numpy {np.__version__}, "
            f"numba {hamming.numba.__version__}")


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag, default, text in (("queries", 5000, "queries"), ("items", 117218, "database items"),
                                ("bits", 64, "code length"), ("classes", 80, "labels"), ("topk", 5000, "K"),
                                ("sample", 40, "queries of the numpy loop"), ("search", 1000000, "items of the search"),
                                ("seed", 0, "seed")):
        parser.add_argument(f"--{flag}", type=int, default=default, help=f"{text} (default {default})")
    parser.add_argument("--json", help="also write the figures to this file")
    options = parser.parse_args(arguments)
    figures = {"machine": machine()}
    print(figures["machine"])
    print(f"{options.queries} queries x {options.items} items x {options.bits} bits, {options.classes} labels, "
          f"K = {options.topk}", flush=True)
    query, database, query_labels, database_labels = simulate(options.queries, options.items, options.bits,
                                                              options.classes, options.seed)
    packed = hamming.pack(query), hamming.pack(database)

    def ours(n):
        return evaluate(packed[0][:n], packed[1], query_labels[:n], database_labels, options.bits, options.topk)

    n = min(options.sample, options.queries)
    floats = query_labels[:n].astype(np.float32), database_labels.astype(np.float32)
    figures["first_call_s"], _ = seconds(lambda: ours(1))
    loop_map(query[:1], database, floats[0][:1], floats[1], options.topk)  # warm up
    rounds = []
    for _ in range(3):  # in turns, so that other work on the machine meets both
        fast, result = seconds(lambda: ours(options.queries))
        figures.setdefault("peak_rss_mib", peak_mib())
        slow, _ = seconds(lambda: loop_map(query[:n], database, *floats, options.topk))
        rounds.append((fast, slow / n * options.queries))
    figures["evaluate_s"], figures["loop_s_extrapolated"] = (statistics.median(times) for times in zip(*rounds))
    figures["loop_sample"] = n
    figures["ratio"] = statistics.median(slow / fast for fast, slow in rounds)
    value = loop_map(query[:n], database, *floats, options.topk, "stable")
    figures["difference_on_sample"] = abs(value - ours(n)["mAP"])
    print(f"ours: {figures['evaluate_s']:.3f} s (first call, with compilation or its cache: "
          f"{figures['first_call_s']:.1f} s); peak RSS {figures['peak_rss_mib']:.0f} MiB, data included")
    print(f"      {format_line(result)}")
    print(f"numpy loop: {figures['loop_s_extrapolated']:.0f} s, extrapolated from {n} queries; with a stable sort the "
          f"value on these is {value:.12f}, difference {figures['difference_on_sample']:.1e}")
    print(f"ratio: {figures['ratio']:.0f} (median of 3 rounds: "
          f"{', '.join(f'{slow:.0f} / {fast:.2f} s' for fast, slow in rounds)})", flush=True)

    codes = np.random.default_rng(1).integers(0, 256, (options.search, (options.bits + 7) // 8), np.uint8)
    words = hamming.to_words(codes)
    turns = iter(range(10 ** 9))
    for k in (10, 1000):
        hamming.topk(codes[:1], words, k)

        def search():
            i = next(turns)
            return hamming.topk(codes[i:i + 1], words, k)

        figures[f"search_top{k}_ms"] = seconds(search, 50)[0] * 1e3
        print(f"search: one query, {options.search} x {options.bits} bits, top {k}: "
              f"{figures[f'search_top{k}_ms']:.2f} ms (one thread, median of 50)")
    if options.json:
        write_json(options.json, figures)


if __name__ == "__main__":
    run_main(main)
