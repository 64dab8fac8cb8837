"""How the benchmarks measure: sides in turns in one run, processor and wall time, ratios with their spread."""
import os
import platform
import re
import resource
import time

import numpy as np

from utils.files import write_text

RESULTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "RESULTS.md")


def machine(threads, **versions):
    """One line: processor, number of threads, load, Python, and the given versions."""
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            name = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), name)
    load = f", load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    versions = {"Python": platform.python_version(), **versions}
    return f"{name}, {threads} threads{load}; " + ", ".join(f"{key} {value}" for key, value in versions.items())


def used():
    """float [2]: wall clock, and processor time of this process and of its finished children, seconds."""
    parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return np.array([time.perf_counter(), sum(part.ru_utime + part.ru_stime for part in parts)])


def in_turns(jobs, rounds):
    """Run jobs in turns, so that other work on the machine meets all of them; a first round is not counted.

    Args:
        jobs: dict name -> callable.

    Returns:
        dict name -> float [rounds, 2]: wall and processor seconds.
    """
    times = {name: [] for name in jobs}
    for number in range(rounds + 1):
        for name, job in jobs.items():
            before = used()
            job()
            if number:
                times[name].append(used() - before)
    return {name: np.array(values) for name, values in times.items()}


def ratios(times, side, base):
    """How many times faster ``side`` is than ``base``: dict ``cpu`` and ``wall`` -> (median, lowest, highest)."""
    pairs = times[base] / times[side]
    return {name: (float(np.median(column)), float(column.min()), float(column.max()))
            for name, column in zip(("wall", "cpu"), pairs.T)}


def ratio_text(ratio):
    """``3.41 (3.2 to 3.6)``."""
    return f"{ratio[0]:.2f} ({ratio[1]:.2f} to {ratio[2]:.2f})"


def write_section(name, lines, path=RESULTS):
    """Put a benchmark's lines into RESULTS.md between its two markers; the other sections stay as they are."""
    text = "# Results of the benchmarks\n\nWritten by the commands that each section names; see README.md.\n"
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            text = file.read()
    start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    section = start + "\n".join(lines).strip() + "\n" + end
    pattern = re.compile(re.escape(start) + ".*?" + re.escape(end), re.DOTALL)
    text = pattern.sub(lambda _: section, text) if pattern.search(text) else f"{text.rstrip()}\n\n{section}"
    write_text(path, text)
