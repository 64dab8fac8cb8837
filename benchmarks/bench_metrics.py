"""Our metrics against the usual per-query numpy loop, side by side in one run, and at scale.

    python benchmarks/bench_metrics.py                  # COCO protocol, some minutes
    python benchmarks/bench_metrics.py --scale          # 10,000 x 1,000,000, several K and the asymmetric ranking
    python benchmarks/bench_metrics.py --queries 500 --sample 10

Codes and labels are simulated: 80 labels with a skewed frequency, codes that are noisy signs of a random projection of
the labels. The loop is timed on a sample of the queries and extrapolated; on that sample both must give the same value.
"""
import argparse
import os
import resource
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numba  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks.measure import in_turns, machine, ratio_text, ratios, used, write_section  # noqa: E402
from utils.cpu import threads  # noqa: E402
from utils.errors import InputError, run_main  # noqa: E402
from utils.files import write_json  # noqa: E402
from utils.retrieval.hamming import pack  # noqa: E402
from utils.retrieval.metrics import evaluate, format_line  # noqa: E402

TARGET = 200  # times the processor time of the loop with int64 labels
MEMORY = 4096  # MiB at scale


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
    """Relaxed codes float32 and labels uint8: of the queries, of the database, their labels, its labels."""
    rng = np.random.default_rng(seed)
    frequency = (0.12 / (1 + np.arange(classes) / 8)).astype(np.float32)
    frequency[0] = 0.4
    projection = rng.standard_normal((classes, bits)).astype(np.float32)
    codes, labels = np.empty((queries + items, bits), np.float32), np.empty((queries + items, classes), np.uint8)
    for start in range(0, len(codes), 1 << 16):
        part, rows = codes[start:start + (1 << 16)], labels[start:start + (1 << 16)]
        rows[:] = rng.random(rows.shape, np.float32) < frequency
        rows[rows.sum(1) == 0, 0] = 1
        part[:] = np.tanh(rows @ projection + 1.5 * rng.standard_normal(part.shape, np.float32))
    return codes[:queries], codes[queries:], labels[:queries], labels[queries:]


def peak_mib():
    """Peak resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1 << 20)


def beside_the_loop(options):
    """Lines and figures of the comparison."""
    relaxed, codes, query_labels, database_labels = simulate(options.queries, options.items, options.bits,
                                                             options.classes, options.seed)
    query, database = pack(relaxed), pack(codes)
    signs = [np.where(values >= 0, 1, -1).astype(np.float32) for values in (relaxed, codes)]
    n = min(options.sample, options.queries)

    def ours(count):
        return evaluate(query[:count], database, query_labels[:count], database_labels, options.bits, options.topk)

    # labels as image lists give them to the public code (int64: numpy has no fast product), and as its best case
    labels = {kind: (query_labels[:n].astype(kind), database_labels.astype(kind)) for kind in ("int64", "float32")}
    before = used()
    ours(1)
    first = used() - before
    jobs = {"ours": lambda: ours(options.queries)}
    for kind, sides in labels.items():
        jobs[kind] = lambda sides=sides: loop_map(signs[0][:n], signs[1], *sides, options.topk)
    times = in_turns(jobs, options.rounds)
    for kind in labels:
        times[kind] *= options.queries / n
    value = loop_map(signs[0][:n], signs[1], *labels["float32"], options.topk, "stable")
    difference = abs(value - ours(n)["mAP"])
    if difference > 1e-9:
        raise InputError(f"the loop finds mAP {value}, ours differs by {difference}: one of them is wrong")
    lines = [f"{options.queries:,} queries x {options.items:,} items x {options.bits} bits, {options.classes} "
             f"labels, mAP@{options.topk or 'all'}; the loop on {n} queries, extrapolated; median of "
             f"{options.rounds} rounds in turns (lowest to highest).", "",
             "| | wall, s | CPU, s | ratio, wall | ratio, CPU |", "|---|---|---|---|---|"]
    figures = {"first_call_s": float(first[0]), "first_call_cpu_s": float(first[1]), "difference": difference}
    for name, values in times.items():
        wall, cpu = np.median(values, axis=0)
        figures[name] = {"wall_s": float(wall), "cpu_s": float(cpu)}
        if name == "ours":
            lines.append(f"| ours | {wall:.2f} | {cpu:.2f} | | |")
            continue
        found = ratios(times, "ours", name)
        figures[name].update(found)
        lines.append(f"| numpy loop, {name} labels | {wall:.0f} | {cpu:.0f} | {ratio_text(found['wall'])} | "
                     f"{ratio_text(found['cpu'])} |")
    verdict = "met" if figures["int64"]["cpu"][0] >= TARGET else "MISSED"
    figures["peak_mib"] = peak_mib()
    lines += ["", f"Target: {TARGET} times the loop with int64 labels, CPU: {verdict}. Difference of the values on the "
              f"sample {difference:.0e} (the loop with a stable sort). Peak memory, all sides included: "
              f"{figures['peak_mib']:.0f} MiB. First call of this process: {first[0]:.1f} s."]
    return lines, figures


def at_scale(options):
    """Lines and figures of the large case."""
    several = [0, 100, 1000, options.topk]
    relaxed, codes, query_labels, database_labels = simulate(options.queries, options.items, options.bits,
                                                             options.classes, options.seed)
    query, database = pack(relaxed), pack(codes)
    del codes
    lines = [f"{options.queries:,} queries x {options.items:,} items x {options.bits} bits, {options.classes} labels, "
             f"K = {', '.join(str(k or 'all') for k in several)} in one call.", "",
             "| | wall, s | CPU, s | mAP of each K |", "|---|---|---|---|"]
    figures = {}
    for name, given in (("Hamming", None), ("and asymmetric", relaxed)):
        before = used()
        found = evaluate(query, database, query_labels, database_labels, options.bits, several, relaxed=given)
        wall, cpu = used() - before
        values = [result["mAP" if given is None else "mAP_asymmetric"] for result in found]
        figures[name] = {"wall_s": float(wall), "cpu_s": float(cpu), "mAP": values}
        lines.append(f"| {name} | {wall:.0f} | {cpu:.0f} | {', '.join(f'{value:.4f}' for value in values)} |")
        print(format_line(found[0]), flush=True)
    figures["peak_mib"] = peak_mib()
    verdict = "met" if figures["peak_mib"] <= MEMORY else "MISSED"
    lines += ["", f"Peak memory of the process, simulation included: {figures['peak_mib']:.0f} MiB. Target: {MEMORY} "
              f"MiB: {verdict}."]
    return lines, figures


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", action="store_true", help="the large case, 10,000 queries x 1,000,000 items")
    for flag, default, text in (("queries", None, "queries; default 5000, at scale 10,000"),
                                ("items", None, "database items; default 117,218, at scale 1,000,000"),
                                ("bits", 64, "code length"), ("classes", 80, "labels"), ("topk", 5000, "K"),
                                ("sample", 40, "queries of the numpy loop"), ("rounds", 5, "rounds in turns"),
                                ("seed", 0, "seed")):
        parser.add_argument(f"--{flag}", type=int, default=default, help=f"{text} (default {default})")
    parser.add_argument("--write", action="store_true", help="write the section of RESULTS.md")
    parser.add_argument("--json", help="also write the figures to this file")
    options = parser.parse_args(arguments)
    options.queries = options.queries or (10_000 if options.scale else 5000)
    options.items = options.items or (1_000_000 if options.scale else 117_218)
    place = machine(threads(), numpy=np.__version__, numba=numba.__version__)
    print(place, flush=True)
    lines, figures = (at_scale if options.scale else beside_the_loop)(options)
    title = "Metrics at scale (bench_metrics.py --scale)" if options.scale else "Metrics (bench_metrics.py)"
    print("\n".join(lines))
    if options.write:
        write_section("metrics at scale" if options.scale else "metrics", [f"## {title}", "", place, "", *lines])
    if options.json:
        write_json(options.json, {"machine": place, **figures})


if __name__ == "__main__":
    run_main(main)
