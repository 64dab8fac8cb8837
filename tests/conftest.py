"""Shared fixtures: golden vectors, shared real data, a small shapes set, and the commands as subprocesses."""
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import settings

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
GOLDEN = pathlib.Path(os.environ.get("GOLDEN_DIR", SHARED / "golden"))

sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")
# new examples on every run of a developer, the same ones in CI, which must not fail by chance
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


def kills(count):
    """How often a test kills what it looks at: ``DEEPHASH_KILLS``, else ``count``."""
    return int(os.environ.get("DEEPHASH_KILLS", count))


@pytest.fixture(scope="session")
def golden():
    """``golden(name)`` opens GOLDEN_DIR/<name>.npz (default ../shared/golden) or skips with the reason."""
    def load(name):
        path = GOLDEN / f"{name}.npz"
        if not path.exists():
            pytest.skip(f"golden vectors not at hand: {path} (set GOLDEN_DIR)")
        return np.load(path, allow_pickle=False)
    return load


@pytest.fixture(scope="session")
def shared():
    """The folder with the real data and weights, or a skip where it is absent."""
    if not SHARED.exists():
        pytest.skip(f"shared material not at hand: {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def run():
    """``run("predict.py", "--bit", 16)`` runs a command of the repository and checks its exit status."""
    def call(*arguments, ok=True, env=None, cwd=ROOT, timeout=300, program=None):
        command = [*(program or [sys.executable]), *map(str, arguments)]
        done = subprocess.run(command, cwd=cwd, env={**os.environ, "GLOG_v": "0", **(env or {})}, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout)
        if ok is not None and (done.returncode == 0) != ok:
            pytest.fail(f"exit status {done.returncode}: {' '.join(command)}\n"
                        f"--- stdout\n{done.stdout[-4000:]}\n--- stderr\n{done.stderr[-4000:]}")
        return done
    return call


@pytest.fixture(scope="module")
def milvus_servers():
    """The Milvus servers that the tests of a file have started end with it."""
    from tests.indexes import stop_servers
    yield
    stop_servers()


@pytest.fixture
def place(request, tmp_path, milvus_servers):
    """Where a test makes its index; the parameter is the engine."""
    from tests.indexes import Place
    return Place(request.param, tmp_path)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """Root of a small generated shapes set (64 train inside 160 database, 16 query)."""
    from utils.datasets import load_protocol
    root = tmp_path_factory.mktemp("shapes")
    load_protocol("shapes", root=str(root), **SHAPES_SIZES)
    return root


SHAPES_SIZES = {"num_train": 64, "num_database": 160, "num_query": 16}
