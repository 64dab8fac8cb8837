"""encode.py over a Ray cluster: a worker and a node are killed, and the bytes are those of one process."""
import importlib.util
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import pytest

from deploy import cluster
from deploy.inference_python import encode
from tests.conftest import ROOT
from tests.exported import exported, one_error_line
from tests.test_bulk import COMMAND, contents, flags, gallery
from utils.errors import InputError

NEEDS_RAY = pytest.mark.skipif(importlib.util.find_spec("ray") is None or sys.platform != "linux",
                               reason="needs Linux and Ray: pip install -r requirements-cluster.txt")
ENVIRONMENT = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
               "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
RAY = [sys.executable, "-c", "from ray.scripts.scripts import main; main()"]


@pytest.fixture(scope="module")
def model(tmp_path_factory, shapes):
    return exported(tmp_path_factory, shapes)


@pytest.fixture(scope="module")
def photos(tmp_path_factory, shapes):
    return gallery(shapes, tmp_path_factory.mktemp("photos") / "photos", 160)


def descendants(process):
    """dict number -> name of all processes below one."""
    children, names = {}, {}
    for place in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(place.name)] = (place / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
        except OSError:
            continue
        children.setdefault(parent, []).append(int(place.name))
    found, waiting = {}, [process.pid]
    while waiting:
        for child in children.get(waiting.pop(), []):
            found[child] = names[child]
            waiting.append(child)
    return found


def kill(numbers):
    for number in numbers:
        try:
            os.kill(number, signal.SIGKILL)
        except ProcessLookupError:
            pass


class Cluster:
    """Two nodes of Ray on addresses of the loopback: 127.0.0.1 would become the machine's own address."""

    def __init__(self, folder):
        with socket.socket() as probe:
            probe.bind(("127.0.0.2", 0))
            self.address = f"127.0.0.2:{probe.getsockname()[1]}"
        self.folder, self.nodes = folder, []
        self.log = open(os.path.join(folder, "ray.log"), "w+")

    def start(self):
        port = self.address.rpartition(":")[2]
        self.nodes.append(self._start("--head", "--node-ip-address=127.0.0.2", f"--port={port}",
                                      "--include-dashboard=false", f"--temp-dir={self.folder}/ray"))
        self._wait(1)
        self.nodes.append(self._start(f"--address={self.address}", "--node-ip-address=127.0.0.3"))
        self._wait(2)

    def _start(self, *words):
        return subprocess.Popen([*RAY, "start", "--block", "--num-cpus=1", *words], env=ENVIRONMENT, stdout=self.log,
                                stderr=self.log, start_new_session=True)

    def _wait(self, nodes):
        stop = time.monotonic() + 200
        while time.monotonic() < stop:
            done = subprocess.run([*RAY, "status", f"--address={self.address}"], env=ENVIRONMENT, capture_output=True,
                                  text=True)
            if done.stdout.count(" node_") == nodes:
                return
            time.sleep(1)
        self.log.seek(0)
        pytest.fail(f"Ray did not start:\n{self.log.read()[-3000:]}")

    def worker(self, node):
        """Number of the process on a node that makes shards."""
        return next(number for number, name in descendants(self.nodes[node]).items() if name.startswith("ray::work"))

    def kill(self, node):
        process = self.nodes[node]
        kill([*descendants(process), process.pid])
        process.wait()

    def stop(self):
        for node in range(len(self.nodes)):
            self.kill(node)
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def nodes():
    """Two nodes, in a folder with a short path: the names of Ray's sockets have a limit."""
    running = Cluster(tempfile.mkdtemp(prefix="ray"))
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.mark.slow
@NEEDS_RAY
def test_a_worker_and_a_node_are_killed(nodes, model, photos, tmp_path):
    more = ["--shard-size", 1, "--keep-relaxed"]
    encode.main(flags(model, photos, tmp_path / "wanted", *more))
    folder = tmp_path / "codes"
    command = subprocess.Popen([sys.executable, COMMAND, *flags(model, photos, folder, *more), "--cluster",
                                nodes.address], cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    shards = lambda: len(list(folder.glob("shard-*")))  # noqa: E731
    while shards() < 3 and command.poll() is None:
        time.sleep(.002)
    kill([nodes.worker(0)])
    nodes.kill(1)
    left = 161 - shards()
    said = command.communicate(timeout=300)
    assert command.returncode == 0, said
    assert left > 20, "it was over before anything was killed"
    assert contents(folder) == contents(tmp_path / "wanted")
    assert "2 of 161 could not be read" in said[0]


@pytest.mark.slow
@NEEDS_RAY
def test_a_wrong_token_is_refused(nodes, run, model, photos, tmp_path):
    for token in ("f" * 64, ""):
        done = run(COMMAND, *flags(model, photos, tmp_path / "codes"), "--cluster", nodes.address, ok=None,
                   env={**ENVIRONMENT, "RAY_AUTH_TOKEN": token, "HOME": str(tmp_path)})
        one_error_line(done, "no Ray cluster at", "the same token on every node")
    assert not (tmp_path / "codes" / "manifest.json").exists()


@NEEDS_RAY
def test_no_cluster_at_the_address(run, model, photos, tmp_path):
    one_error_line(run(COMMAND, *flags(model, photos, tmp_path), "--cluster", "127.0.0.2:1", ok=None),
                   "no Ray cluster at 127.0.0.2:1")


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray(run, model, photos, tmp_path):
    one_error_line(run(COMMAND, *flags(model, photos, tmp_path), "--cluster", "auto", ok=None),
                   "requirements-cluster.txt")


def test_what_a_node_says_is_one_line_here(model, tmp_path):
    options = vars(encode.parse(flags(model, tmp_path / "nowhere", tmp_path / "codes")))
    with pytest.raises(RuntimeError) as found:
        cluster.make_shard(tuple(sorted(options.items())), 0)
    told = cluster._told(RuntimeError(f"ray::work() (pid=7)\n  File ...\nRuntimeError: {found.value}"))
    assert isinstance(told, InputError) and str(told).startswith("the gallery ") and "nowhere" in str(told)
    other = ValueError("a fault of the program")
    assert cluster._told(other) is other
