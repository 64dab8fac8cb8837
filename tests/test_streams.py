"""Closed and full standard streams, and machines without files or memory to spare: one line at most, nothing spoilt."""
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT, SHAPES_SIZES
from tests.exported import exported
from utils.training.checkpoint import load_checkpoint

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
FULL = "No space left on device"
SIZES = " ".join(f"--{key.replace('_', '-')}={value}" for key, value in SHAPES_SIZES.items())
TINY = "--bit 12 --dataset shapes --backbone ConvNet:width=8 --no-pretrained --resize-size 36 --crop-size 32 " \
       f"{SIZES} --batch-size 16 --epoch 1 --eval-epoch 1 --device cpu --no-visualdl --num-workers 2"


def shell(command, limits="", timeout=300):
    """A Python command line run by a shell; exit status and what is left of its streams."""
    return subprocess.run(["bash", "-c", f"{limits} exec {sys.executable} {command}"], cwd=ROOT, capture_output=True,
                          text=True, timeout=timeout, env={**os.environ, "GLOG_v": "0"})


@pytest.mark.parametrize("where, status", [(">&-", 0), ("2>&-", 0), ("<&- >&- 2>&-", 0), ("2>/dev/full", 0),
                                           (">/dev/full", 2), (">/dev/full 2>/dev/full", 2)])
def test_a_short_command(where, status):
    done = shell(f"-m utils.datasets list {where}")
    assert done.returncode == status and "Traceback" not in done.stderr and "ignored" not in done.stderr
    assert (FULL in done.stderr) == (where == ">/dev/full") and len(done.stderr.splitlines()) <= 1
    assert ("shapes" in done.stdout) == (">&-" not in where.split() and not where.startswith(">"))


def test_a_reader_that_goes_is_no_fault():
    code = "from utils.errors import run_main; run_main(lambda argv: [print('x' * 99) for _ in range(9999)])"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 141
    process.stderr.close()


def test_a_mistake_is_status_2_wherever_its_line_goes():
    for where in ("", "2>&-", "2>/dev/full", ">/dev/full", ">&- 2>&-"):
        done = shell(f"main_single_gpu.py --config nothing.yaml {where}")
        assert done.returncode == 2 and len(done.stderr.splitlines()) == (0 if "2>" in where else 1)


@pytest.mark.parametrize("where", [">&- 2>&-", "<&- 2>/dev/full"])
def test_training_without_streams_writes_whole_files(shapes, tmp_path, where):
    done = shell(f"main_single_gpu.py {TINY} --data-path {shapes} --output-dir {tmp_path} {where}")
    assert done.returncode == 0
    load_checkpoint(tmp_path / "best.safetensors")
    assert "result of the best checkpoint" in (tmp_path / "train.log").read_text()


@pytest.mark.parametrize("script", ["main_single_gpu.py", pytest.param("main_multi_gpu.py", marks=pytest.mark.slow)])
def test_training_into_a_full_disk_says_so(shapes, tmp_path, script):
    done = shell(f"{script} {TINY} --data-path {shapes} --output-dir {tmp_path} > /dev/full")
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and len(lines) == 1 and FULL in lines[0] and "Traceback" not in done.stderr


def test_an_answer_into_a_full_disk(shapes, tmp_path_factory, tmp_path):
    model = exported(tmp_path_factory, shapes)
    done = shell(f"predict.py --model-dir {model} --save-path {tmp_path} --json > /dev/full")
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and len(lines) == 1 and FULL in lines[0] and "Traceback" not in done.stderr


# machines with little to spare --------------------------------------------------------------------
@pytest.mark.parametrize("files, ends", [(6, (2,)), (9, (0, 2)), (12, (0, 2)), (16, (0,))])
def test_few_open_files(shapes, tmp_path, files, ends):
    done = shell(f"main_single_gpu.py {TINY} --data-path {shapes} --output-dir {tmp_path}", f"ulimit -n {files};", 120)
    assert done.returncode in ends and "Traceback" not in done.stderr, done.stderr[-2000:]
    assert done.returncode == 0 or "ulimit -n" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("files", [16, 18, 20, 22, 26])
def test_ranks_with_few_open_files_end(shapes, tmp_path, files):
    done = shell(f"main_multi_gpu.py --nprocs 2 {TINY} --data-path {shapes} --output-dir {tmp_path}",
                 f"ulimit -n {files};", 150)
    assert done.returncode == 0 or "error: " in done.stderr


def test_no_memory_is_one_line():
    for code in ("bytearray(1 << 62)", "__import__('numpy').zeros(1 << 50)"):
        done = shell(f"-c \"from utils.errors import run_main; run_main(lambda argv: {code})\"")
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "not enough memory" in done.stderr


def test_other_errors_of_the_system_stay_what_they_are():
    done = shell("-c \"from utils.errors import run_main; run_main(lambda argv: open('/nowhere/x'))\"")
    assert done.returncode == 1 and "FileNotFoundError" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_rank_that_the_system_kills_ends_the_job(shapes, tmp_path):
    from tests.test_interrupted import Started, children, wait_for, wait_until_gone
    words = ["main_multi_gpu.py", "--nprocs", 2, *TINY.replace("--epoch 1 ", "--epoch 100000 ").split(), "--data-path",
             shapes, "--output-dir", tmp_path / "run"]
    with Started(words) as started:
        wait_for(tmp_path / "run" / "latest.safetensors")
        ranks = [pid for pid in children(started.process.pid)
                 if "resource_tracker" not in open(f"/proc/{pid}/cmdline").read()]
        os.kill(ranks[-1], signal.SIGKILL)
        stop = time.time() + 60
        while started.process.poll() is None:
            assert time.time() < stop
            time.sleep(0.1)
        assert started.process.returncode in (1, 2) and "error: " in started.process.stderr.read()
        wait_until_gone(ranks)
    load_checkpoint(tmp_path / "run" / "latest.safetensors")
