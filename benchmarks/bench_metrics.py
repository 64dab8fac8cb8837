"""Our metrics against the usual per-query numpy loop, side by side in one run.

    python benchmarks/bench_metrics.py                  # COCO protocol, under a minute
    python benchmarks/bench_metrics.py --queries 500 --sample 10

Codes and labels are simulated: 80 labels with a skewed frequency, codes that are noisy signs of a random projection of
the labels. The loop is timed on a sample of the queries and extrapolated; on that sample both must give the same value.
"""
import argparse
import os
import resource
import statistics
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numba  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks.measure import machine  # noqa: E402
from utils.cpu import threads  # noqa: E402
from utils.errors import run_main  # noqa: E402
from utils.files import write_json  # noqa: E402
from utils.retrieval import hamming  # noqa: E402
from utils.retrieval.metrics import evaluate, format_line  # noqa: E402


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


def seconds(function):
    """(wall time, processor time of all threads, result) of ``function()``."""
    wall, processor = time.perf_counter(), time.process_time()
    result = function()
    return time.perf_counter() - wall, time.process_time() - processor, result


def peak_mib():
    """Peak resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1 << 20)


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag, default, text in (("queries", 5000, "queries"), ("items", 117218, "database items"),
                                ("bits", 64, "code length"), ("classes", 80, "labels"), ("topk", 5000, "K"),
                                ("sample", 40, "queries of the numpy loop"), ("search", 1000000, "items of the search"),
                                ("seed", 0, "seed")):
        parser.add_argument(f"--{flag}", type=int, default=default, help=f"{text} (default {default})")
    parser.add_argument("--json", help="also write the figures to this file")
    options = parser.parse_args(arguments)
    figures = {"machine": machine(threads(), numpy=np.__version__, numba=numba.__version__)}
    print(figures["machine"])
    print(f"{options.queries} queries x {options.items} items x {options.bits} bits, {options.classes} labels, "
          f"K = {options.topk}", flush=True)
    query, database, query_labels, database_labels = simulate(options.queries, options.items, options.bits,
                                                              options.classes, options.seed)
    packed = hamming.pack(query), hamming.pack(database)

    def ours(n):
        return evaluate(packed[0][:n], packed[1], query_labels[:n], database_labels, options.bits, options.topk)

    # labels as image lists give them to the public code (int64: numpy has no fast product), and as its best case
    n = min(options.sample, options.queries)
    labels = {kind: (query_labels[:n].astype(kind), database_labels.astype(kind)) for kind in ("int64", "float32")}
    figures["first_call_s"] = seconds(lambda: ours(1))[0]
    for queries, items in labels.values():
        loop_map(query[:1], database, queries[:1], items, options.topk)  # warm up
    rounds = {"ours": [], **{kind: [] for kind in labels}}
    for _ in range(3):  # in turns, so that other work on the machine meets all
        wall, processor, result = seconds(lambda: ours(options.queries))
        rounds["ours"].append((wall, processor))
        for kind in labels:
            wall, processor, _ = seconds(lambda: loop_map(query[:n], database, *labels[kind], options.topk))
            rounds[kind].append((wall / n * options.queries, processor / n * options.queries))
    wall, processor = np.median(rounds["ours"], axis=0)
    figures.update(evaluate_s=wall, evaluate_cpu_s=processor, loop_sample=n)
    print(f"ours: {wall:.3f} s, {processor:.2f} s of CPU (first call, with compilation or its cache: "
          f"{figures['first_call_s']:.1f} s)")
    print(f"      {format_line(result)}")
    for kind in labels:
        loop_wall, loop_processor = np.median(rounds[kind], axis=0)
        ratio = np.median([slow[0] / fast[0] for slow, fast in zip(rounds[kind], rounds["ours"])])
        figures.update({f"loop_{kind}_s": loop_wall, f"loop_{kind}_cpu_s": loop_processor, f"ratio_{kind}": ratio,
                        f"ratio_{kind}_cpu": loop_processor / processor})
        print(f"numpy loop, {kind} labels: {loop_wall:.0f} s, {loop_processor:.0f} s of CPU (extrapolated from {n} "
              f"queries): {ratio:.0f} times our wall time, {loop_processor / processor:.0f} times our CPU time")
    value = loop_map(query[:n], database, *labels["float32"], options.topk, "stable")
    figures["difference_on_sample"] = abs(value - ours(n)["mAP"])
    print(f"value on the sample, loop with a stable sort: {value:.12f}, difference to ours "
          f"{figures['difference_on_sample']:.1e}")
    figures["peak_rss_mib"] = peak_mib()
    print(f"peak RSS {figures['peak_rss_mib']:.0f} MiB, the loop and all data included", flush=True)

    codes = np.random.default_rng(1).integers(0, 256, (options.search, (options.bits + 7) // 8), np.uint8)
    words = hamming.prepare(codes)
    for k in (10, 1000):
        hamming.topk(codes[:1], words, k)

        times = [seconds(lambda: hamming.topk(codes[i:i + 1], words, k))[0] for i in range(50)]
        figures[f"search_top{k}_ms"] = statistics.median(times) * 1e3
        print(f"search: one query, {options.search} x {options.bits} bits, top {k}: "
              f"{figures[f'search_top{k}_ms']:.2f} ms (one thread, median of 50)")
    if options.json:
        write_json(options.json, {k: v if isinstance(v, str) else round(float(v), 6) for k, v in figures.items()})


if __name__ == "__main__":
    run_main(main)
