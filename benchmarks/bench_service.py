"""The search service under load: many clients together against one request at a time, waiting times, memory.

    python benchmarks/bench_service.py                 # an AlexNet of random weights, 100,000 codes
    python benchmarks/bench_service.py --model-dir output/quickstart/inference --write

Both sides go through the same service process and network, in turns: one client that waits for each answer, and
--clients that ask together. A second service with --batch-size 1 shows what batching itself gives. Every answer must be
good, or the benchmark fails.
"""
import argparse
import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import numpy as np  # noqa: E402

from benchmarks.measure import machine, write_section  # noqa: E402
from deploy.index import build_index  # noqa: E402
from deploy.model_folder import read_manifest  # noqa: E402
from utils.cpu import restore_threads, threads  # noqa: E402
from utils.datasets.protocols.shapes import draw_image  # noqa: E402
from utils.errors import InputError, run_main  # noqa: E402
from utils.files import write_json  # noqa: E402
from utils.retrieval.codes import CodeFile  # noqa: E402
from utils.retrieval.shard_set import CodesInfo  # noqa: E402

PICTURES = 64


class Service:
    """A service in a process of its own."""

    def __init__(self, model, index, *flags):
        words = [sys.executable, "-m", "deploy.service", "--model-dir", model, "--index", index, "--port", "0",
                 "--read-only", *flags]
        restore_threads()
        self.process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        for line in self.process.stderr:
            found = re.search(r"running on http://([\d.]+):(\d+)", line)
            if found:
                self.host, self.port = found[1], int(found[2])
                return
        raise InputError("the service did not start")

    def resident(self):
        """Bytes of memory that the process holds."""
        with open(f"/proc/{self.process.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def processor(self):
        """Seconds of processor time that the process has used."""
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self):
        """Tell it to end, and wait."""
        self.process.terminate()
        self.process.communicate()


async def client(service, bodies, take, seconds):
    """Requests one behind the other on one connection, as long as ``take()`` gives numbers."""
    reader, writer = await asyncio.open_connection(service.host, service.port)
    number = take()
    while number is not None:
        body = bodies[number % len(bodies)]
        start = time.perf_counter()
        writer.write(b"POST /v1/search/picture?k=10 HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
                     % len(body) + body)
        head = await reader.readuntil(b"\r\n\r\n")
        answer = await reader.readexactly(int(re.search(rb"content-length: (\d+)", head)[1]))
        if b" 200 " not in head.split(b"\r\n")[0] or len(json.loads(answer)["matches"]) != 10:
            raise InputError(f"a request failed: {head[:40]!r} {answer[:200]!r}")
        seconds.append(time.perf_counter() - start)
        number = take()
    writer.close()


def load(service, bodies, clients, requests=None, duration=None):
    """((requests a second, requests a second of the service's processor time), seconds of each) of some clients."""
    stop = None if duration is None else time.perf_counter() + duration
    numbers, seconds = iter(range(requests or 10 ** 9)), []

    def take():
        return None if stop is not None and time.perf_counter() > stop else next(numbers, None)

    async def run():
        await asyncio.gather(*(client(service, bodies, take, seconds) for _ in range(clients)))

    start, used = time.perf_counter(), service.processor()
    asyncio.run(run())
    count = len(seconds)
    return (count / (time.perf_counter() - start), count / (service.processor() - used)), np.array(seconds)


def make_index(folder, model, items):
    """An index of random codes for a model."""
    manifest, rng = read_manifest(model), np.random.default_rng(0)
    bits = manifest["bits"]
    codes = np.packbits(rng.random((items, bits)) < 0.5, axis=1)
    codefile = CodeFile(codes, bits, [f"{i:08d}.jpg" for i in range(items)], None, manifest["fingerprint"])
    place = os.path.join(folder, "index")
    build_index(f"exact:{place}", (CodesInfo.of(codefile), [codefile])).close()
    return f"exact:{place}"


def measure(options, folder, model):
    """Lines and figures."""
    index = make_index(folder, model, options.items)
    bodies = [jpeg(i) for i in range(PICTURES)]
    flags = ["--precision", options.precision]
    sides = {"batches": Service(model, index, *flags), "no batches": Service(model, index, "--batch-size", "1", *flags)}
    rates = {name: [] for name in ("one at a time", "together", "together, --batch-size 1")}
    times = []
    try:
        for service in sides.values():
            load(service, bodies, options.clients, 2 * options.clients)  # a first round is not counted
        for _ in range(options.rounds):
            rates["one at a time"].append(load(sides["batches"], bodies, 1, duration=options.seconds)[0])
            rate, seconds = load(sides["batches"], bodies, options.clients, duration=options.seconds)
            rates["together"].append(rate)
            times.append(seconds)
            rates["together, --batch-size 1"].append(
                load(sides["no batches"], bodies, options.clients, duration=options.seconds)[0])
        memory = [sides["batches"].resident()]
        for _ in range(10):
            load(sides["batches"], bodies, options.clients, options.requests // 10)
            memory.append(sides["batches"].resident())
    finally:
        for service in sides.values():
            service.end()
    return rates, np.concatenate(times) * 1e3, np.array(memory) / 1e6


def jpeg(number):
    """A picture of the shapes set as a JPEG file."""
    import cv2
    done, data = cv2.imencode(".jpg", draw_image(0, 1, number)[0][:, :, ::-1])
    if not done:
        raise InputError("OpenCV cannot write JPEG")
    return data.tobytes()


def report(options, rates, times, memory):
    """(lines, figures)."""
    base = np.array(rates["one at a time"])
    lines = [f"{options.clients} clients, {options.seconds:g} s a round, {options.rounds} rounds in turns; "
             f"{options.items} codes.", "", "| | requests a second (median) | ratio to one at a time | "
             "requests a CPU second of the service | ratio |", "|--|--|--|--|--|"]
    for name, found in rates.items():
        ratios = (np.array(found) / base).T
        text = [f"{np.median(values):.0f} | {np.median(ratio):.2f} ({ratio.min():.2f} to {ratio.max():.2f})"
                for values, ratio in zip(np.array(found).T, ratios)]
        lines.append(f"| {name} | {' | '.join(text)} |")
    half, most = np.percentile(times, [50, 99])
    tenths = ", ".join(f"{value:.0f}" for value in memory[1:])
    lines += ["", f"Waiting times of {options.clients} clients: {half:.0f} ms (median), {most:.0f} ms (99 %).", "",
              f"Memory of the process: {memory[0]:.0f} MB, then after each tenth of {options.requests} more requests "
              f"{tenths} MB."]
    wall, cpu = np.median(np.array(rates["together"]) / base, axis=0)
    return lines, {"ratio_wall": float(wall), "ratio_cpu": float(cpu), "rates": rates, "median_ms": half,
                   "p99_ms": most, "memory_mb": memory.tolist()}


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", help="model folder; default: an AlexNet of random weights")
    for flag, default in (("clients", 64), ("rounds", 3), ("items", 100_000), ("requests", 20_000)):
        parser.add_argument(f"--{flag}", type=int, default=default)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--seconds", type=float, default=10.0, help="of each side in a round")
    parser.add_argument("--write", action="store_true", help="put the figures into RESULTS.md")
    parser.add_argument("--json", help="also write the figures to this file")
    options = parser.parse_args(arguments)
    where = machine(threads(), numpy=np.__version__)
    folder = tempfile.mkdtemp()
    try:
        model = options.model_dir
        if model is None:
            from benchmarks.bench_encode import make_models  # with Paddle
            make_models(folder, onnx=False)
            model = os.path.join(folder, "model")
        lines, figures = report(options, *measure(options, folder, model))
    finally:
        shutil.rmtree(folder)
    what = "an AlexNet of random weights" if options.model_dir is None else options.model_dir
    lines = [f"`python benchmarks/bench_service.py {' '.join(arguments)}`".replace(" `", "`"), "", where, "",
             f"Model: {what}, {options.precision}.", "", *lines]
    print("\n".join(lines))
    if options.write:
        name = "service" if options.precision == "fp32" else f"service {options.precision}"
        write_section(name, [f"## {name}", "", *lines])
    if options.json:
        write_json(options.json, figures)


if __name__ == "__main__":
    run_main(main)
