"""The exact index: opening 100 million codes, durable additions, search beside a writer, near-duplicate groups.

    python benchmarks/bench_index.py                     # --items, --sparse and --additions make it smaller

The 100 million codes are a file with holes: opening must not read it. The others are real files in --folder.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numba  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks.measure import machine, write_section  # noqa: E402
from deploy.index import build_index, open_index  # noqa: E402
from utils.cpu import threads  # noqa: E402
from utils.errors import run_main  # noqa: E402
from utils.files import write_json  # noqa: E402
from utils.retrieval.code_shards import HEADER, make_header  # noqa: E402
from utils.retrieval.codes import CodeFile  # noqa: E402
from utils.retrieval.near_duplicates import near_groups  # noqa: E402
from utils.retrieval.shard_set import CodesInfo, shard_name, write_manifest  # noqa: E402

BITS = 64
WRITER = """
import sys, time
sys.path.insert(0, {root!r})
from benchmarks.bench_index import clustered, open_index
index, number = open_index({folder!r}), 0
while True:
    index.add(clustered(1000, number, f"beside{{number}}/"))
    number += 1
    print(number, flush=True)
"""


def clustered(n, seed, prefix):
    """Codes near 1,000 centres, 10 % of the bits flipped."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).integers(0, 256, (1000, BITS // 8), np.uint8)
    flips = np.packbits(rng.random((n, BITS), np.float32) < 0.1, axis=1)
    return CodeFile(centres[rng.integers(0, 1000, n)] ^ flips, BITS, [f"{prefix}{i:08d}" for i in range(n)])


def sparse(folder, items, rows=1 << 20):
    """A collection of full shards with holes in place of codes, ids and keys."""
    os.makedirs(folder)
    sizes = {"codes": rows * 8, "ends": rows * 8 + 8, "ids": 0, "keys": rows * 8, "key_rows": rows * 4, "meta": 2}
    header, digest = make_header(CodesInfo(BITS), rows, 8, {name: (size, "0" * 64) for name, size in sizes.items()})
    end = max(offset + size for offset, size, _ in json.loads(header[:HEADER - 65])["pieces"].values())
    entries = []
    for number in range(-(-items // rows)):
        path = os.path.join(folder, shard_name(number))
        with open(path, "wb") as file:
            file.write(header)
            file.truncate(end)
        entries.append({"name": shard_name(number), "rows": rows, "digest": digest, "removed": None})
    write_manifest(folder, CodesInfo(BITS), entries)


def seconds(function, repeat):
    """Wall times of calls."""
    found = []
    for i in range(repeat):
        start = time.perf_counter()
        function(i)
        found.append(time.perf_counter() - start)
    return np.array(found)


def beside_a_writer(folder, query, additions):
    """(milliseconds of searches in turn with refresh, additions of 1,000 meanwhile)."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    writer = subprocess.Popen([sys.executable, "-c", WRITER.format(root=root, folder=folder)], stdout=subprocess.PIPE)
    try:
        writer.stdout.readline()
        index = open_index(folder)
        before = len(index)

        def search(i):
            index.refresh()
            index.search(query[i:i + 1], 10)
        times = seconds(search, additions)
        return times * 1e3, (len(index) - before) // 1000
    finally:
        writer.kill()
        writer.wait()


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag, default in (("items", 10_000_000), ("sparse", 100_000_000), ("additions", 100), ("group", 1_000_000)):
        parser.add_argument(f"--{flag}", type=int, default=default)
    parser.add_argument("--folder", help="where the index is made; default: the folder of temporary files")
    parser.add_argument("--write", action="store_true", help="put the figures into RESULTS.md")
    parser.add_argument("--json", help="also write the figures to this file")
    options = parser.parse_args(arguments)
    folder = tempfile.mkdtemp(dir=options.folder)
    figures, where = {}, machine(threads(), numpy=np.__version__, numba=numba.__version__)
    try:
        place = os.path.join(folder, "sparse")
        sparse(place, options.sparse)
        figures["open sparse, ms (median of 5)"] = np.median(seconds(lambda _: open_index(place), 5)) * 1e3
        place, step = os.path.join(folder, "index"), 1 << 20
        batches = (clustered(min(step, options.items - start), start, f"{start}/")
                   for start in range(0, options.items, step))
        figures["build, s"] = seconds(lambda _: build_index(place, (CodesInfo(BITS), batches)), 1)[0]
        index, query = open_index(place), clustered(options.additions, 1, "query").codes
        added = [clustered(1000, 7 + i, f"new{i}/") for i in range(options.additions)]
        times = seconds(lambda i: index.add(added[i]), options.additions) * 1e3
        figures["add 1,000 durably, ms: median, 95 %"] = np.percentile(times, [50, 95]).tolist()
        index.search(query[:1], 10)
        figures["search one, ms (median)"] = np.median(seconds(lambda i: index.search(query[i:i + 1], 10),
                                                               options.additions)) * 1e3
        times, meanwhile = beside_a_writer(place, query, options.additions)
        figures["search beside a writer, ms: median, 95 %"] = np.percentile(times, [50, 95]).tolist()
        figures["additions of 1,000 meanwhile"] = meanwhile
        codes = clustered(options.group, 0, "").codes
        near_groups(codes[:100], BITS, 3)
        figures["near-duplicate groups within 3, s"] = seconds(lambda _: near_groups(codes, BITS, 3), 1)[0]
    finally:
        shutil.rmtree(folder)
    lines = [f"`python benchmarks/bench_index.py {' '.join(arguments)}`".replace(" `", "`"), "", where, "",
             f"{BITS} bits; {options.items} items, {options.sparse} sparse ones, {options.group} in groups.", "",
             "| what | figure |", "|--|--|", *(f"| {name} | {np.round(value, 2)} |" for name, value in figures.items())]
    print("\n".join(lines))
    if options.write:
        write_section("index", ["## index", "", *lines])
    if options.json:
        write_json(options.json, figures)


if __name__ == "__main__":
    run_main(main)
