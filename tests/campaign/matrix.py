"""A matrix of TIPC chains as one command, with a stand-in for Python that trains nothing: the runner is what is tried.

    python -m tests.campaign.matrix REPO CONFIG ...

What a killed runner has started may still write: then this waits, as its message says.
"""
import os
import pathlib
import runpy
import sys
import time

from test_tipc.run import Mistake, sole_writer
from tests.test_tipc import variables

OUTPUT = "test_tipc/output"


def main(repo, configs):
    """Run the copy's runner on the configs, as its scripts/tipc.sh does."""
    os.chdir(repo)
    os.environ.update(variables(pathlib.Path(repo)))
    os.makedirs(OUTPUT, exist_ok=True)
    while True:
        try:
            os.close(sole_writer(OUTPUT))
            break
        except Mistake:
            time.sleep(.05)
    sys.argv = ["test_tipc/run.py", *configs, "--jobs", "2"]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
