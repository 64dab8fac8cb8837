"""Exact search against Faiss's IndexBinaryFlat, one thread, the same codes and queries in turns.

    python benchmarks/bench_search.py                          # 1M and 10M codes, 16 to 128 bits
    python benchmarks/bench_search.py --items 100000 --usearch # USearch's exact search too (it builds a graph first)

Needs faiss-cpu (requirements-index.txt). Both sides must find the same distances and positions, or the benchmark
fails. ``random`` codes are the hardest: the k-th neighbour is far away, so many items are near enough to be looked at.
``learned`` ones are simulated as hash codes are: 1,000 centres, a tenth of the bits flipped, queries made alike.
"""
import argparse
import os
import sys

os.environ["OMP_NUM_THREADS"] = "1"  # before utils.cpu and Faiss read it
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numba  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks.measure import in_turns, machine, ratio_text, ratios, write_section  # noqa: E402
from utils.errors import InputError, run_main  # noqa: E402
from utils.files import write_json  # noqa: E402
from utils.retrieval import hamming  # noqa: E402

TARGETS = {(10, 1): 1, (10, 100): 2, (1000, 1): 1.3, (1000, 100): 1.3}  # (k, batch) -> ratio at 64 and 128 bits
NARROW = 4  # at 16, 32 and 48 bits, top 10


def simulate(kind, items, bits, queries, seed=0):
    """Packed codes of a database and of queries, uint8."""
    rng = np.random.default_rng(seed)
    if kind == "random":
        codes = rng.integers(0, 256, (items + queries, bits // 8), np.uint8)
    else:
        centres = rng.integers(0, 256, (1000, bits // 8), np.uint8)
        codes = centres[rng.integers(0, len(centres), items + queries)]
        step = 1 << 20
        for start in range(0, len(codes), step):
            part = codes[start:start + step]
            part ^= np.packbits(rng.random((len(part), bits), np.float32) < 0.1, axis=1)
    return codes[:items], codes[items:]


def sides(database, words, query, k, batch, usearch):
    """dict name -> job: search all queries, ``batch`` at a time."""
    batches = [query[i:i + batch] for i in range(0, len(query), batch)]
    jobs = {"ours": lambda: [hamming.topk(part, words, k) for part in batches],
            "faiss": lambda: [database.search(part, k) for part in batches]}
    if usearch is not None:
        jobs["usearch"] = lambda: [usearch.search(part, k, exact=True, threads=1) for part in batches]
    return jobs


def compare(ours, theirs):
    """InputError unless both sides found the same."""
    for (distance, position), (other_distance, other_position) in zip(ours, theirs):
        if (distance != other_distance).any() or (position != other_position).any():
            raise InputError("the sides found different items: one of them is wrong")


def build(items, bits, codes, with_usearch):
    """Faiss's index and USearch's, or None."""
    import faiss
    faiss.omp_set_num_threads(1)
    index = faiss.IndexBinaryFlat(bits)
    index.add(codes)
    if not with_usearch:
        return index, None
    from usearch.index import Index, MetricKind
    graph = Index(ndim=bits, metric=MetricKind.Hamming, dtype="b1")
    graph.add(np.arange(items), codes)
    return index, graph


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[1_000_000, 10_000_000], help="database sizes")
    parser.add_argument("--bits", type=int, nargs="+", default=[16, 32, 48, 64, 128], help="code lengths")
    parser.add_argument("--codes", nargs="+", default=["random", "learned"], choices=("random", "learned"))
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds of each side (default 5)")
    parser.add_argument("--usearch", action="store_true", help="USearch beside them")
    parser.add_argument("--write", action="store_true", help="write the section of RESULTS.md")
    parser.add_argument("--json", help="also write the figures to this file")
    options = parser.parse_args(arguments)
    try:
        import faiss
    except ImportError:
        raise InputError("Faiss is not installed: pip install -r requirements-index.txt") from None
    versions = {"numpy": np.__version__, "numba": numba.__version__, "faiss-cpu": faiss.__version__}
    if options.usearch:
        import usearch
        versions["usearch"] = usearch.__version__
    sizes = " and ".join(f"{items:,}" for items in options.items)
    lines = [f"## Exact search, {sizes} items (bench_search.py)", "", machine(1, **versions), "",
             "Ratio: Faiss's time over ours, median of the rounds (lowest to highest). Targets: of processor time.", "",
             "| codes | items | bits | batch | k | ours, CPU ms a query | Faiss | ratio, CPU | ratio, wall | target |"
             + (" USearch / ours |" if options.usearch else ""), "|---" * (10 + options.usearch) + "|"]
    print("\n".join(lines), flush=True)
    figures = {"machine": lines[2]}
    for kind in options.codes:
        for items in options.items:
            for bits in options.bits:
                rows, values = measure(kind, items, bits, options)
                print("\n".join(rows), flush=True)
                lines += rows
                figures.update(values)
    if options.write:
        write_section(f"search, {sizes} items", lines)
    if options.json:
        write_json(options.json, figures)


def measure(kind, items, bits, options):
    """Rows of the table and figures for one set of codes."""
    queries = 100
    codes, query = simulate(kind, items, bits, queries)
    database, usearch = build(items, bits, codes, options.usearch)
    words = hamming.prepare(codes)
    rows, figures = [], {}
    for batch in (1, 100):
        part = query if batch == 100 else query[:max(3, 20_000_000 // items)]
        for k in (10, 1000):
            jobs = sides(database, words, part, k, batch, usearch)
            compare(jobs["ours"](), jobs["faiss"]())
            times = in_turns(jobs, options.rounds)
            found = ratios(times, "ours", "faiss")
            each = {name: float(np.median(values[:, 1])) / len(part) * 1e3 for name, values in times.items()}
            target = NARROW if bits < 64 and k == 10 else TARGETS[k, batch]
            verdict = f"{target} {'met' if found['cpu'][0] >= target else 'MISSED'}"
            row = (f"| {kind} | {items:,} | {bits} | {batch} | {k} | {each['ours']:.3f} | {each['faiss']:.3f} | "
                   f"{ratio_text(found['cpu'])} | {ratio_text(found['wall'])} | {verdict} |")
            if usearch is not None:
                row += f" {ratio_text(ratios(times, 'ours', 'usearch')['cpu'])} |"
            rows.append(row)
            figures[f"{kind}_{items}_{bits}_{batch}_{k}"] = {**found, **{f"{name}_ms": each[name] for name in each}}
    return rows, figures


if __name__ == "__main__":
    run_main(main)
