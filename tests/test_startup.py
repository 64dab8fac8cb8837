"""What starts with a command: the benchmark of it runs; an ONNX folder is answered without Paddle."""
import importlib.util
import re
import sys

import pytest

from tests.exported import exported

PACKAGES = "onnxruntime", "paddle2onnx"
needs_onnx = pytest.mark.skipif(not all(map(importlib.util.find_spec, PACKAGES)), reason=f"needs {PACKAGES}")


@pytest.mark.slow
def test_the_benchmark_runs(run):
    done = run("benchmarks/bench_startup.py", "--rounds", 1, "--backbone", "ConvNet:width=4", timeout=900)
    rows = re.findall(r"^\| (infer.py|predict.py) \| ([\w ]+) \| (.*) \|$", done.stdout, re.M)
    assert {"infer.py", "predict.py"} == {row[0] for row in rows}
    for _, engine, cells in rows:
        *parts, whole, fresh = map(float, cells.split(" | "))
        assert len(parts) == 11 and abs(sum(parts) - whole) < 0.1 and fresh > 0
        assert (parts[2] == 0) == (engine == "onnxruntime")  # paddle


@needs_onnx
@pytest.mark.parametrize("command", ["deploy/inference_python/infer.py", "predict.py"])
def test_onnx_imports_no_paddle(run, shapes, tmp_path, tmp_path_factory, command):
    source = exported(tmp_path_factory, shapes)
    run("deploy/onnx/convert.py", "--model-dir", source, "--save-dir", tmp_path / "onnx", "--opset", 13)
    done = run(command, "--model-dir", tmp_path / "onnx", "--save-path", tmp_path,
               program=[sys.executable, "-X", "importtime"])
    modules = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()
               if line.startswith("import time:")}
    assert "onnxruntime" in modules and "numba" in modules
    assert not modules & {"paddle", "paddle2onnx", "paddleclas", "models"}
