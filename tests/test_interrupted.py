"""Runs that meet, are interrupted, or lose the process that started them."""
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT, SHAPES_SIZES
from utils.training.checkpoint import load_checkpoint

SIZES = [f"--{key.replace('_', '-')}={value}" for key, value in SHAPES_SIZES.items()]
TINY = ["--bit", "12", "--backbone", "ConvNet:width=8", "--no-pretrained", "--resize-size", "36", "--crop-size", "32",
        "--batch-size", "16", "--eval-epoch", "50", "--device", "cpu", "--no-visualdl"]
LONG = ["--epoch", "100000"]
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


class Started:
    """A command in a process group of its own, as a shell starts it; it is ended in any case."""

    def __init__(self, words):
        self.process = subprocess.Popen([sys.executable, *map(str, words)], cwd=ROOT, text=True, start_new_session=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        env={**os.environ, "GLOG_v": "0"})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.communicate()

    def end(self, number, group=True):
        """Send a signal; returns (exit status, stdout, stderr)."""
        (os.killpg if group else os.kill)(self.process.pid, number)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


def wait_for(path, epochs=1, seconds=120):
    """Until a checkpoint has so many epochs."""
    stop = time.time() + seconds
    while not (path.exists() and load_checkpoint(path, lambda key: False)[1]["epoch"] >= epochs):
        assert time.time() < stop, f"no {path} within {seconds} seconds"
        time.sleep(0.05)


@pytest.fixture
def train(shapes):
    def call(folder, *more, script="main_single_gpu.py"):
        return [script, *TINY, *SIZES, "--data-path", shapes, "--output-dir", folder, *more]
    return call


# two runs in one folder ---------------------------------------------------------------------------
def test_two_runs_do_not_share_a_folder(run, train, tmp_path):
    with Started(train(tmp_path / "run", *LONG)) as first:
        wait_for(tmp_path / "run" / "latest.safetensors")
        for more in (["--overwrite", "--seed", 1], ["--resume", tmp_path / "run"]):
            words = train(tmp_path / "run", *more) if more[0] == "--overwrite" else \
                ["main_single_gpu.py", *more, "--device", "cpu"]
            done = run(*words, ok=False)
            assert done.returncode == 2 and done.stderr.count("\n") == 1
            for word in (f"process {first.process.pid} on {socket.gethostname()}", "--output-dir", str(tmp_path)):
                assert word in done.stderr
        assert first.process.poll() is None
        first.end(signal.SIGKILL)
    # the dead own nothing, and what they had not finished is gone
    part = tmp_path / "run" / ".latest.abc.part.safetensors"
    part.write_text("half")
    resumed = load_checkpoint(tmp_path / "run" / "latest.safetensors")[1]["epoch"]
    run("main_single_gpu.py", "--resume", tmp_path / "run", "--stop-epoch", resumed + 1, "--device", "cpu")
    assert not part.exists()


def test_a_run_on_another_machine_is_named(run, train, tmp_path):
    lock = tmp_path / "run" / ".lock"
    lock.parent.mkdir()
    lock.write_text("process 12 on elsewhere\n")
    done = run(*train(tmp_path / "run", "--epoch", 1), ok=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "process 12 on elsewhere" in done.stderr and f"remove {lock}" in done.stderr
    assert os.listdir(tmp_path / "run") == [".lock"]
    lock.unlink()
    run(*train(tmp_path / "run", "--epoch", 1))
    assert lock.read_text() == ""


@pytest.mark.parametrize("seed, name", [(0, "hashnet_shapes_12"), (3, "hashnet_shapes_12_seed3")])
def test_the_default_folder_tells_seeds_apart(seed, name):
    from engine import resolve
    assert resolve(["--bit", "12", "--seed", str(seed)])[1]["output_dir"] == os.path.join("output", name)


# interrupted --------------------------------------------------------------------------------------
@pytest.mark.parametrize("script", ["main_single_gpu.py", pytest.param("main_multi_gpu.py", marks=pytest.mark.slow)])
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_says_how_to_go_on(run, train, tmp_path, script, number, status):
    folder = tmp_path / "a run"  # a name that a shell takes apart
    with Started(train(folder, *LONG, script=script)) as started:
        wait_for(folder / "latest.safetensors", 2)
        ranks = children(started.process.pid)
        # a terminal sends Ctrl-C to the whole group, a batch system its signal to the command
        code, out, err = started.end(number, group=number == signal.SIGINT)
    epoch = load_checkpoint(folder / "latest.safetensors")[1]["epoch"]
    assert code == status and "Traceback" not in out + err, err[-3000:]
    wait_until_gone(ranks)
    log = (folder / "train.log").read_text()
    said = f"interrupted; epoch {epoch} of 100000 is kept in {folder}/latest.safetensors; go on with"
    assert said in out and said in log
    command = log.splitlines()[-1].strip()
    assert command.startswith(f"python {script}") and command in out
    run("-c", "import shlex, subprocess, sys; "
              f"sys.exit(subprocess.call([sys.executable] + shlex.split({command!r})[1:] "
              f"+ ['--stop-epoch', '{epoch + 1}']))")
    assert load_checkpoint(folder / "latest.safetensors")[1]["epoch"] == epoch + 1


def test_interrupted_before_there_is_anything_to_keep(train, tmp_path):
    with Started(train(tmp_path, "--epoch", 5, "--num-workers", 0, "--batch-size", "1", "--log-step", "1")) as started:
        stop = time.time() + 60
        while "step: [2/" not in ((tmp_path / "train.log").read_text() if (tmp_path / "train.log").exists() else ""):
            assert time.time() < stop
            time.sleep(0.02)
        code, out, err = started.end(signal.SIGINT)
    assert code == 130 and "Traceback" not in err
    assert ("there is no checkpoint to go on from" in out) != (tmp_path / "latest.safetensors").exists()


# ranks --------------------------------------------------------------------------------------------
def children(pid):
    """Process numbers of all below ``pid``."""
    below = []
    for name in os.listdir("/proc") if sys.platform == "linux" else ():
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as file:
                    if int(file.read().rpartition(")")[2].split()[1]) == pid:
                        below += [int(name), *children(int(name))]
            except OSError:
                pass
    return below


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until_gone(pids):
    stop = time.time() + 20
    while any(map(alive, pids)):
        assert time.time() < stop, "processes live on"
        time.sleep(0.1)


LAUNCH = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir"]


@needs_linux
@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["own", "paddle"])
def test_ranks_end_with_their_launcher(train, tmp_path, launcher):
    words = train(tmp_path / "run", *LONG, script="main_multi_gpu.py")
    with Started(words if launcher == "own" else [*LAUNCH, tmp_path / "log", *words]) as started:
        wait_for(tmp_path / "run" / "latest.safetensors")
        ranks = [pid for pid in children(started.process.pid)
                 if "resource_tracker" not in open(f"/proc/{pid}/cmdline").read()]
        assert len(ranks) >= 2
        os.kill(started.process.pid, signal.SIGKILL)
        wait_until_gone(ranks)


def test_the_single_main_joins_the_group_that_a_launcher_makes(run, train, tmp_path):
    """The official scripts start it so."""
    done = run(*LAUNCH, tmp_path / "log", *train(tmp_path / "run", "--epoch", 1), timeout=200)
    said = (tmp_path / "log" / "workerlog.0").read_text()
    assert "device cpu x 2" in said and (tmp_path / "run" / "result.json").exists(), done.stdout[-2000:]
    assert "epoch:" not in (tmp_path / "log" / "workerlog.1").read_text()
    assert json.loads((tmp_path / "run" / "result.json").read_text())["training"]["epoch"] == 1
