"""Whole commands: HashNet's frozen recipe on CIFAR-10 at several lengths, one after another, against an older checkout.

    git worktree add ../before 80e7c52
    python benchmarks/bench_commands.py --before ../before --data-path data/cifar10 --weights FILE [--write]

80e7c52 computes its features in the dynamic network and keeps none. Every command is a process of its own with an empty
output folder; ours share the feature store that the first of them fills. The older side runs ``--before-bits`` only: no
run of it knows of another, so one stands for all. mAP of both is printed.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from benchmarks.measure import machine, used, write_section  # noqa: E402
from utils.cpu import threads  # noqa: E402
from utils.errors import run_main  # noqa: E402

CONFIG = "configs/hashnet/cifar10-1_frozen.yaml"


def data(options):
    """Flags of the data."""
    return [word for flag, value in (("--data-path", options.data_path), ("--dataset", options.dataset)) if value
            for word in (flag, os.path.abspath(value))]


def one_run(checkout, options, bit, folder):
    """Train and evaluate in ``checkout``; float [2] of wall and CPU seconds, and the mAP that it says."""
    run = os.path.join(folder, f"hashnet_{bit}")
    start = used()
    done = subprocess.run(
        [sys.executable, "main_single_gpu.py", "--config", CONFIG, "--bit", str(bit), "--output-dir", run,
         "--backbone-weights", os.path.abspath(options.weights), "--no-visualdl", *data(options)],
        cwd=checkout, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{checkout}, {bit} bits: {done.stderr[-2000:]}")
    with open(os.path.join(run, "result.json"), encoding="utf-8") as file:
        return used() - start, json.load(file)["score"]


def pictures(options):
    """What the data is."""
    if not options.dataset:
        return "CIFAR-10"
    return f"a folder of {sum(len(names) for _, _, names in os.walk(options.dataset))} pictures"


def main(argv):
    """Measure, print, and write the section ``commands`` of RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", required=True, help="folder of the older checkout")
    parser.add_argument("--before-bits", type=int, nargs="+", default=[16], help="lengths it runs (default 16)")
    parser.add_argument("--bits", type=int, nargs="+", default=[16, 32, 48], help="lengths of ours (default 16 32 48)")
    parser.add_argument("--data-path", help="CIFAR-10 as the recipe wants it")
    parser.add_argument("--dataset", help="in its place a folder of pictures, as the data page says")
    parser.add_argument("--weights", required=True, help="weights of SqueezeNet1_1")
    parser.add_argument("--write", action="store_true", help="write benchmarks/RESULTS.md")
    options = parser.parse_args(argv)
    lines = [f"## Whole commands (bench_commands.py)\n\n{machine(threads())}.\n",
             f"`main_single_gpu.py --config {CONFIG} --bit B`, {pictures(options)}, an empty output folder at the "
             "start.\n",
             "| | bits | wall, s | CPU, s | ratio, wall | ratio, CPU | mAP@all |", "|--|--|--|--|--|--|--|"]
    before = None
    sides = [("before", options.before, options.before_bits), ("ours", ROOT, options.bits)]
    for name, checkout, bits in sides:
        with tempfile.TemporaryDirectory() as folder:
            for bit in bits:
                seconds, score = one_run(checkout, options, bit, folder)
                if before is None:
                    before = seconds
                wall, cpu = before / seconds
                lines.append(f"| {name} | {bit} | {seconds[0]:.0f} | {seconds[1]:.0f} | {wall:.1f} | {cpu:.1f} | "
                             f"{score:.4f} |")
                print(lines[-1], flush=True)
    print("\n".join(lines))
    if options.write:
        write_section("commands", lines)


if __name__ == "__main__":
    run_main(main)
