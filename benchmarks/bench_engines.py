"""The engines of an index side by side: memory a code, build, one question, many together, an addition.

    python benchmarks/bench_engines.py exact faiss lists lite               # --items 1000000
    python benchmarks/bench_engines.py server --server http://127.0.0.1:19530 --server-pid PID

Each engine runs in a process of its own, on the same clustered codes of 64 bits. ``lists`` is Faiss' inverted file,
``lite`` a file of milvus-lite, ``server`` a Milvus server that runs already. Memory is what the process that keeps the
codes holds after the questions more than before the codes came. From these figures follow the sizes for 1 million to 10
billion codes (``sizes``), for machines like this one with NODE bytes of memory; docs/index.md has the arithmetic.
"""
import argparse
import importlib.metadata
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np  # noqa: E402

from benchmarks.bench_index import clustered, seconds  # noqa: E402
from benchmarks.measure import machine, write_section  # noqa: E402
from deploy.index import build_index, open_index  # noqa: E402
from deploy.index.uri import open_codes  # noqa: E402
from utils.cpu import threads  # noqa: E402
from utils.errors import InputError, run_main  # noqa: E402
from utils.retrieval.shard_set import CodesInfo  # noqa: E402

NODE, USED = 64e9, 0.7  # bytes of a machine's memory, and the part of it that codes may fill
WAIT, ASKED = 200.0, 100.0  # milliseconds that a question may take beyond its fixed cost; questions a second
ENGINES = ("exact", "faiss", "lists", "lite", "server")
COLUMNS = {"build": "build, s", "memory": "memory, bytes a code", "disk": "disk, bytes a code",
           "one": "one question, ms (median, 95 %)", "fixed": "of 1,000 codes, ms",
           "alone": "questions a second, one at a time", "together": "questions a second, 100 at a time",
           "fixed_together": "100 together, of 1,000 codes, ms", "add": "add 1,000, ms (median)",
           "recall": "recall at 10"}


def memory(pid):
    """Bytes of a process that are in memory."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmRSS"))


def child():
    """Process number of this process's only child."""
    with open(f"/proc/{os.getpid()}/task/{os.getpid()}/children", encoding="ascii") as file:
        return int(file.read().split()[0])


def disk(place):
    """Bytes of a file or a folder."""
    names = [os.path.join(folder, name) for folder, _, found in os.walk(place) for name in found] or [place]
    return sum(os.stat(name).st_blocks * 512 for name in names)


def measure(engine, source, folder, options):
    """Figures of one engine: dict as COLUMNS."""
    place = os.path.join(folder, engine) + (".db" if engine == "lite" else "")
    uri = {"lite": f"milvus:{place}", "lists": f"faiss:{place}",
           "server": f"milvus:{options.server}/bench_{os.getpid()}"}.get(engine, f"{engine}:{place}")
    query, own = clustered(200, 1, "query").codes, os.getpid()
    small = uri.replace(".db", "_small.db") if engine == "lite" else uri + "_small"
    with build_index(small, (CodesInfo(64), [clustered(1000, 2, "")])) as index:
        index.search(query[:1], 10)
        fixed = np.median(seconds(lambda i: index.search(query[i:i + 1], 10), 20)) * 1e3
        fixed_together = np.median(seconds(lambda i: index.search(query[:100], 10), 5)) * 1e3
    before = memory(options.server_pid if engine == "server" else own)
    build = seconds(lambda _: build_index(uri, open_codes(source), lists=0 if engine == "lists" else None).close(), 1)
    if engine not in ("lite", "server"):
        before = memory(own)
    index = open_index(uri)
    keeper = child() if engine == "lite" else options.server_pid if engine == "server" else own
    index.search(query[:100], 10)  # what is read and compiled at first
    one = seconds(lambda i: index.search(query[i:i + 1], 10), 100)
    together = seconds(lambda i: index.search(query[100 * (i % 2):100 * (i % 2) + 100], 10), 5)
    found = {"build": build[0], "fixed": fixed, "fixed_together": fixed_together,
             "one": (np.percentile(one, [50, 95]) * 1e3).round(2).tolist(),
             "alone": 1 / one.mean(), "together": 100 / np.median(together)}
    if keeper:
        found["memory"] = (memory(keeper) - (0 if engine == "lite" else before)) / options.items
    if engine != "server":
        found["disk"] = disk(place) / options.items
    if engine == "lists":
        found["recall"] = index.stats()["recall"]["10"]
    added = [clustered(1000, 7 + i, f"new{i}/") for i in range(10)]
    found["add"] = np.median(seconds(lambda i: index.add(added[i]), len(added))) * 1e3
    index.close()
    return {key: value if isinstance(value, list) else round(float(value), 2) for key, value in found.items()}


def sizes(engine, found, items, codes):
    """Row of what so many codes need, from the figures of ``items`` codes on one machine; all engines are linear."""
    linear = max(found["one"][0] - found["fixed"], 0) / items  # milliseconds a code
    many = max(1e5 / found["together"] - found["fixed_together"], 0) / items  # of 100 questions together
    by_memory, by_time = (math.ceil(codes * found["memory"] / (NODE * USED)), math.ceil(codes * linear / WAIT))
    shards = max(by_memory, by_time, 1)
    rate = 1e5 / (found["fixed_together"] + many * codes / shards)
    replicas = math.ceil(ASKED / rate)
    return (f"| {codes:,} | {engine} | {codes * found['memory'] / 1e9:.3g} | {by_memory} | {by_time} | "
            f"{found['fixed'] + linear * codes / shards:.3g} | {rate:.3g} | {replicas} | {shards * replicas} |")


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", nargs="+", choices=ENGINES)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--server", help="address of the Milvus server")
    parser.add_argument("--server-pid", type=int, help="its process, for its memory")
    parser.add_argument("--folder", help="where the indexes are made; default: the folder of temporary files")
    parser.add_argument("--source", help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true", help="put the figures into RESULTS.md")
    options = parser.parse_args(arguments)
    if "server" in options.engines and not options.server:
        raise InputError("which server? --server http://HOST:PORT")
    if options.source:
        print(json.dumps(measure(options.engines[0], options.source, options.folder, options)))
        return
    packages = {"faiss": "faiss-cpu", "lists": "faiss-cpu", "lite": "milvus-lite", "server": "pymilvus"}
    versions = {packages[name]: importlib.metadata.version(packages[name]) for name in options.engines
                if name in packages}
    where = machine(threads(), numpy=np.__version__, **versions)
    folder, rows = tempfile.mkdtemp(dir=options.folder), []
    try:
        source = os.path.join(folder, "source")
        step = 1 << 20
        build_index(source, (CodesInfo(64), (clustered(min(step, options.items - start), start, f"{start}/")
                                             for start in range(0, options.items, step))))
        for engine in options.engines:
            words = [engine, "--folder", folder, "--source", source, "--items", options.items]
            words += ["--server", options.server] if options.server else []
            words += ["--server-pid", options.server_pid] if options.server_pid else []
            done = subprocess.run([sys.executable, __file__, *map(str, words)], stdout=subprocess.PIPE, text=True,
                                  check=True)
            rows.append((engine, json.loads(done.stdout.splitlines()[-1])))
            print(*rows[-1], file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(folder)
    lines = [f"`python benchmarks/bench_engines.py {' '.join(arguments)}`, {time.strftime('%Y-%m-%d')}", "", where, "",
             f"{options.items} codes of 64 bits.", "", f"| engine | {' | '.join(COLUMNS.values())} |",
             "|--" * (len(COLUMNS) + 1) + "|"]
    lines += [f"| {engine} | {' | '.join(str(found.get(key, '')) for key in COLUMNS)} |" for engine, found in rows]
    lines += ["", f"Sizes that follow: machines like this one with {NODE / 1e9:g} GB, of which codes fill {USED:.0%}; "
              f"at most {WAIT:g} ms a question beyond the fixed cost; {ASKED:g} questions a second.", "",
              "| codes | engine | memory, GB | shards by memory | shards by time | one question, ms | questions a "
              "second of one set | replicas | machines |", "|--|--|--|--|--|--|--|--|--|"]
    lines += [sizes(engine, found, options.items, codes) for codes in (10 ** 6, 10 ** 8, 10 ** 10)
              for engine, found in rows if "memory" in found]
    print("\n".join(lines))
    if options.write:
        write_section("engines", ["## Engines of an index (bench_engines.py)", "", *lines])


if __name__ == "__main__":
    run_main(main)
