"""ONNX: the converted model gives the bits of Paddle Inference; faults are one line and leave nothing."""
import importlib.util
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from deploy import differences
from deploy.differences import difference
from deploy.engines import open_model
from deploy.inference_python.predictor import Predictor
from deploy.model_folder import read_manifest
from deploy.onnx import convert
from models import METHODS
from tests.exported import BITS, exported, one_error_line, pictures
from tests.manifests import edited
from utils.errors import InputError

CONVERT, COMPARE = "deploy/onnx/convert.py", "deploy/compare.py"
INFER = "deploy/inference_python/infer.py"
needs_packages = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnxruntime", "paddle2onnx")),
    reason="onnxruntime or paddle2onnx is not installed: sh scripts/setup.sh --deploy")

# A stand-in for an interpreter with a converter: `python -c CHILD graph weights target opset`.
STAND_IN = """#!{python}
import os, signal, sys
graph, weights, target, opset = sys.argv[3:]
print("paddle2onnx 0.0")
if graph != "-":
    {action}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory, shapes):
    """name -> (folder of the export, folder of its ONNX form), made by the function behind the command."""
    kept = {}

    def make(name):
        if name not in kept:
            source = exported(tmp_path_factory, shapes, name)
            target = tmp_path_factory.mktemp("onnx") / name
            convert.convert(str(source), str(target))
            kept[name] = source, target
        return kept[name]
    return make


@pytest.fixture
def converter(tmp_path):
    """converter(action) -> path of a stand-in whose conversion does that."""
    def write(action):
        path = tmp_path / "converter"
        path.write_text(STAND_IN.format(python=sys.executable, action=action))
        path.chmod(0o755)
        return str(path)
    return write


@needs_packages
@pytest.mark.parametrize("name", METHODS)
def test_same_bits_and_manifest(name, made, shapes):
    source, target = made(name)
    split, images = pictures(shapes)
    paddle_engine, other = Predictor(str(source), threads=1), open_model(str(target), threads=1)
    assert other.engine == "onnxruntime" and other.bits == BITS
    found = difference(paddle_engine.encode(images), other.encode(images))
    assert found["far_flips"] == 0 and found["near_zero"] < 0.05 * found["codes"] and found["largest"] < 1e-3
    assert (paddle_engine.codes(images)[:3] == other.codes(images[:3])).all()  # another batch size
    assert other.encode(images[:0]).shape == (0, BITS)
    if "text" in METHODS[name].modalities:
        from utils.text import Vectorizer
        rows = Vectorizer.load(str(target / "vectorizer.json")).transform(split.texts)
        assert difference(paddle_engine.encode_text(rows), other.encode_text(rows))["far_flips"] == 0
    old, new = read_manifest(str(source)), read_manifest(str(target))
    del old["onednn"]  # about the graphs of Paddle Inference
    assert {**new, "files": 0, "engine": 0, "onnx": 0} == {**old, "files": 0, "engine": 0, "onnx": 0}
    assert new["engine"] == "onnx" and new["onnx"]["converter"].startswith("paddle2onnx ")
    assert sorted(new["files"]) == sorted(set(os.listdir(target)) - {"inference.yml"})


@needs_packages
def test_commands(run, shapes, tmp_path, tmp_path_factory):
    """convert.py, then infer.py on both folders finds the same, without Paddle in the process."""
    source = exported(tmp_path_factory, shapes)
    done = run(CONVERT, "--model-dir", source, f"--save_dir={tmp_path / 'onnx'}", "--opset", 13)
    assert "0 of 320 bits differ" in done.stdout and "16 images of the query split" in done.stdout
    said = []
    for folder in (source, tmp_path / "onnx"):
        done = run(INFER, "--model-dir", folder, "--save-path", tmp_path / "codes", "--threads", 1, "--evaluate",
                   "--batch-size", 16, "--topk", 3)
        said.append([line for line in done.stdout.splitlines() if "Load" not in line and "Enco" not in line
                     and "Save" not in line])
    assert [line.replace("codes of onnxruntime", "codes of Paddle Inference, oneDNN") for line in said[1]] == said[0]
    assert "codes of onnxruntime" in "".join(said[1])
    answers = [json.loads(run("predict.py", "--model-dir", folder, "--code-file", tmp_path / "codes" /
                              f"database_hashnet_{BITS}.npz", "--save-path", tmp_path, "--threads", 1, "--json").stdout)
               for folder in (source, tmp_path / "onnx")]
    assert [answer.pop("engine") for answer in answers] == ["Paddle Inference, oneDNN", "onnxruntime"]
    assert answers[0] == answers[1] and answers[0]["queries"][0]["matches"]
    code = ("import sys; from deploy.engines import open_model; import numpy; "
            f"p = open_model({str(tmp_path / 'onnx')!r}, threads=1); "
            "p.codes(numpy.zeros([1, 3, 48, 48], 'float32')); "
            "print([m for m in ('paddle', 'paddle2onnx', 'models', 'paddleclas') if m in sys.modules])")
    assert run("-c", code).stdout.splitlines()[-1] == "[]"


@needs_packages
def test_a_wrong_graph_is_not_accepted(converter, made, tmp_path, monkeypatch):
    """The ONNX form of another network, a broken file and a killed converter: one line, and the old folder stays."""
    source, target = made("hashnet")
    other = made("wch")[1] / "inference.onnx"
    kept = tmp_path / "kept"
    shutil.copytree(target, kept)
    before = {name: (kept / name).read_bytes() for name in os.listdir(kept)}
    folders = [kept, tmp_path / "new", kept, kept, tmp_path / "new"]
    copy = f"import shutil; shutil.copy({str(other)!r}, target)"
    for folder, (action, words) in zip(folders, (
            (copy, "gives other bits"),
            ("open(target, 'wb').write(b'no graph')", "onnxruntime .* cannot load"),
            ("os.kill(os.getpid(), signal.SIGSEGV)", r"crashed \(signal 11\)"),
            ("print('ERROR: no operator xyz'); sys.exit(1)", "failed on .*no operator xyz"),
            ("pass", "failed on"))):
        with pytest.raises(InputError, match=words):
            convert.convert(str(source), str(folder), converter=converter(action))
    assert not (tmp_path / "new").exists()
    assert before == {name: (kept / name).read_bytes() for name in os.listdir(kept)}


@needs_packages
def test_a_crash_of_the_check_is_one_line(made, tmp_path, monkeypatch):
    source, _ = made("hashnet")
    real = subprocess.run

    def crash(command, **settings):
        if COMPARE.split("/")[-1] in str(command[1]):
            return subprocess.CompletedProcess(command, -8, "", "")
        return real(command, **settings)
    monkeypatch.setattr(differences.subprocess, "run", crash)
    with pytest.raises(InputError, match=r"onnxruntime crashed \(signal 8\)"):
        convert.convert(str(source), str(tmp_path / "x"))
    assert not (tmp_path / "x").exists()


@needs_packages
def test_damaged_or_foreign_folders(made, tmp_path):
    source, target = made("hashnet")
    with pytest.raises(InputError, match="open_model"):
        Predictor(str(target))
    with pytest.raises(InputError, match="float32"):
        open_model(str(target), bf16=True)
    with pytest.raises(InputError, match="no export of float graphs"):
        convert.convert(str(target), str(tmp_path / "x"))
    with pytest.raises(InputError, match="the model itself"):
        convert.convert(str(source), str(source))
    damaged = tmp_path / "damaged"
    shutil.copytree(target, damaged)
    (damaged / "inference.onnx").write_bytes((target / "inference.onnx").read_bytes()[:-50])
    with pytest.raises(InputError, match="not the file that inference.yml describes"):
        open_model(str(damaged))


def test_missing_packages_are_one_line(converter, shapes, tmp_path, tmp_path_factory, run, monkeypatch):
    source = exported(tmp_path_factory, shapes)
    (tmp_path / "onnxruntime").mkdir()  # found, and broken: what this process would import
    done = run(CONVERT, "--check", "--converter", "/no/such/python", env={"PYTHONPATH": str(tmp_path)})
    assert done.stdout.startswith("missing: --converter /no/such/python does not start")
    absent = converter("pass").replace("converter", "absent")
    with open(absent, "w", encoding="utf-8") as file:
        file.write(f"#!{sys.executable}\nprint('ModuleNotFoundError: none'); raise SystemExit(3)\n")
    os.chmod(absent, 0o755)
    monkeypatch.setattr(convert, "need_onnxruntime", lambda: None)
    with pytest.raises(InputError, match="pip install --no-deps paddle2onnx=="):
        convert.convert(str(source), str(tmp_path / "x"), converter=absent)
    assert not (tmp_path / "x").exists()
    monkeypatch.undo()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="onnxruntime is not installed.*scripts/setup.sh --deploy"):
        convert.convert(str(source), str(tmp_path / "x"))


@pytest.mark.parametrize("arguments, words", [
    ((CONVERT,), ("--model-dir",)),
    ((CONVERT, "--model-dir", "nowhere"), ("nowhere", "export_model.py")),
    ((CONVERT, "--model-dr", "x"), ("--model-dir",)),
    ((CONVERT, "--opset", "six"), ("six",)),
    ((COMPARE, "--model-dir", "x"), ("--other-dir",)),
    ((COMPARE, "--model-dir", "x", "--other-dir", "y", "--max-drop", "2"), ("from 0 to 1",)),
    ((COMPARE, "--model-dir", "nowhere", "--other-dir", "y"), ("nowhere",))])
def test_bad_command_lines(arguments, words, run):
    one_error_line(run(*arguments, ok=None), *words)


# compare.py -------------------------------------------------------------------------------------
def test_difference_counts_by_hand():
    reference = np.array([[1.0, -1.0, 0.0005, 0.002]])
    found = difference(reference, np.array([[1.0, 0.5, -0.0005, 0.002]]))
    assert (found["items"], found["codes"], found["near_zero"], found["flips"], found["far_flips"]) == (1, 4, 1, 2, 1)
    assert found["largest"] == 1.5
    assert difference(reference, reference)["flips"] == 0


def test_compare_with_itself_and_with_another_model(run, shapes, tmp_path, tmp_path_factory):
    source, other = exported(tmp_path_factory, shapes), exported(tmp_path_factory, shapes, seed=4)
    done = run(COMPARE, "--model-dir", source, "--other-dir", source, "--evaluate", "--exact", "--max-drop", 0,
               "--repeat", 1, "--threads", 1)
    assert "176 images of the query and database split: 0 of 3520 bits differ" in done.stdout
    for words in ("difference +0.000000", "(1.00 times)", "images a CPU second"):
        assert words in done.stdout
    one_error_line(run(COMPARE, "--model-dir", source, "--other-dir", other, ok=None), "was not made of")
    # says that it was made of the first, and gives other bits
    false = tmp_path / "false"
    shutil.copytree(other, false)
    edited(false, lambda manifest: manifest.update(made_of=read_manifest(str(source))["fingerprint"]))
    call = (COMPARE, "--model-dir", source, "--other-dir", false, "--repeat", 0, "--threads", 1)
    one_error_line(run(*call, "--exact", ok=None), "gives other bits")
    one_error_line(run(*call, "--max-flips", 0.1, ok=None), "--max-flips allows 10.0%")
    assert "64 images" not in run(*call, "--images", 0).stdout
    done = run(*call, "--max-drop", 0, ok=None)
    drop = float(done.stdout.split("difference ")[-1].split()[0])
    assert (done.returncode == 2) == (drop < 0)


def test_without_the_data_random_inputs_are_compared(run, shapes, tmp_path, tmp_path_factory):
    moved = tmp_path / "moved"
    shutil.copytree(exported(tmp_path_factory, shapes), moved)
    edited(moved, lambda manifest: manifest["dataset"].update(name="cifar10-1", root=str(tmp_path / "no"), sizes={}))
    call = (COMPARE, "--model-dir", moved, "--other-dir", moved, "--repeat", 0, "--threads", 1)
    assert "Random inputs only" in run(*call, "--exact").stdout
    assert run(*call, "--evaluate", ok=False).stderr.count("error: ") == 1
