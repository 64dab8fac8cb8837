"""Run the campaign: ``python -m tests.campaign``, see ``tests/campaign/__init__.py``."""
import argparse
import contextlib
import os
import pathlib
import signal
import sys
import tempfile
import time

os.environ.update(OMP_NUM_THREADS="1", GLOG_v="0")

from tests.campaign import kills, material, mutations, results  # noqa: E402  (Paddle must not begin with more threads)
from tests.campaign.preload import preload  # noqa: E402


def parse(argv):
    """The command line."""
    parser = argparse.ArgumentParser("campaign.sh", description="Kill commands at any moment, read damaged files.")
    parser.add_argument("--minutes", type=float, default=5, help="in all, a half of it for each part (5)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("kills", "mutations"))
    parser.add_argument("--keep", type=pathlib.Path, metavar="DIR", help="folder for the inputs that come out wrong")
    parser.add_argument("--material", type=pathlib.Path, metavar="DIR",
                        help="where the sound models are; made there if they are not")
    parser.add_argument("--results", type=pathlib.Path, metavar="FILE",
                        help="append to this file, and print the tables of all that is in it")
    parser.add_argument("names", nargs="*", help="parts of the names of commands and kinds of files")
    return parser.parse_args(argv)


def say(text):
    """A line with its time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def main(argv):
    """Run both parts and print their tables; returns the exit status: 1 where something came out wrong."""
    options = parse(argv)
    parts = [part for part in (kills, mutations) if options.only in (None, part.__name__.rpartition(".")[2])]
    with contextlib.ExitStack() as stack:
        folder = options.material or pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="campaign-")))
        material.make(folder)
        preload()
        for number in (signal.SIGINT, signal.SIGTERM):   # what came of it so far is told; Paddle has its own handlers
            signal.signal(number, signal.default_int_handler)
        rows = []
        for part in parts:
            more = {"keep": options.keep} if part is mutations else {}
            found = part.run(60 * options.minutes / len(parts), options.seed, options.names, folder, say=say, **more)
            if options.results:
                name = part.__name__.rpartition(".")[2]
                results.keep(options.results, name, found)
                found = results.kept(options.results, name, part.Row)
            print("\n".join(["", *part.table(found), ""]), flush=True)
            rows += found
    faults = [fault for row in rows for fault in row.faults]
    for label, what in faults:
        print(f"{label}: {what}")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
