"""What a run says: every line has its time, a step fits a terminal, long work shows progress where there is no bar."""
import importlib.util
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from test_tipc import analysis, compare_results
from tests.conftest import SHAPES_SIZES
from utils.training import logger


@given(st.lists(st.text("abc: 0123.", min_size=1, max_size=60), min_size=1))
def test_a_folded_text_is_the_text_in_lines_that_fit(fields):
    text = ", ".join(fields)
    lines = logger.fold(text)
    assert "".join("".join(lines).split()) == "".join(text.split())
    longest = max(map(len, re.split(r"(?<=[,;] )|(?<=  )", text)))
    assert all(len(logger.INDENT + line) <= max(logger.WIDTH, longest + len(logger.INDENT)) for line in lines)


def test_progress_off_a_terminal_is_a_line_now_and_then(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(logger, "on_terminal", lambda: False)
    assert list(logger.bar(iter("abc"), 3, "encode query")) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")  # short work needs no word
    monkeypatch.setattr(logger, "EVERY", 0.0)
    list(logger.bar(iter("abcd"), 4, "encode query"))
    out, err = capsys.readouterr()  # stdout holds a command's answer
    assert not out and re.findall(r"^\d\d:\d\d:\d\d encode query: (\d+) %, \d:\d\d:\d\d left$", err, re.M)[-1] == "75"
    log = logger.RunLog(tmp_path)
    list(logger.bar(iter("ab"), 2, "features train"))
    log.close()
    assert "features train: 50 %" in (tmp_path / "train.log").read_text()
    list(logger.bar(iter("ab"), 2, "features train"))
    assert "features train: 50 %" in capsys.readouterr().err


def test_time_left_is_that_of_the_run(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(logger.time, "monotonic", lambda: clock[0])
    progress = logger.Progress(100)
    for _ in range(10):  # with pauses for evaluations between the steps
        clock[0] += 400
        progress.step()
    assert progress.left() == "10:00:00" and logger.duration(90061.4) == "25:01:01"
    progress.close()


def training(shapes, folder):
    sizes = [f"--{key.replace('_', '-')}={value}" for key, value in SHAPES_SIZES.items()]
    return ["main_single_gpu.py", "--method", "dhn", "--bit", 8, "--backbone", "ConvNet:width=4", "--no-pretrained",
            "--resize-size", 36, "--crop-size", 32, "--batch-size", 16, "--epoch", 2, "--eval-epoch", 1,
            "--log-step", 1, "--device", "cpu", *sizes, "--data-path", shapes, "--output-dir", folder]


HIDDEN = """
import importlib.util, runpy, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "visualdl" else found(name, *more)
sys.path.insert(0, "")
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_scalars_are_written_where_asked_for(run, shapes, tmp_path):
    done = run("-c", HIDDEN, *training(shapes, tmp_path / "run"), "--visualdl", ok=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and not (tmp_path / "run").exists()
    assert "requirements-visualdl.txt" in done.stderr
    if importlib.util.find_spec("visualdl") is None:
        pytest.skip("visualdl is not installed")
    run(*training(shapes, tmp_path / "run"), "--visualdl", "--stop-epoch", 1)
    assert os.listdir(tmp_path / "run" / "vdl")


def test_lines_of_a_run(run, shapes, tmp_path):
    done = run(*training(shapes, tmp_path))
    assert not (tmp_path / "vdl").exists()
    log = (tmp_path / "train.log").read_text()
    assert log == done.stdout
    lines = log.splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d \S|         \S", line) for line in lines)
    first = next(i for i, line in enumerate(lines) if "epoch: [1/2], step: [1/4]" in line)
    last = next(i for i, line in enumerate(lines) if "result of the best checkpoint" in line)
    assert max(map(len, lines[first:last])) <= 100
    # TIPC's readers find what they look for
    speed = analysis.speed(log, 0, 16, 1)
    assert speed["steps"] == 8 and speed["ips"] > 0
    losses = compare_results.read_losses(tmp_path / "train.log")
    assert len(losses) == 2 and set(losses[0]) == {"loss", "pair", "quantization"}
