"""Post-training quantisation: 8-bit weights, bits and mAP near the float model's, codes of its own, one-line faults."""
import os
import platform
import shutil
import subprocess
import sys

import numpy as np
import paddle
import pytest

from deploy.differences import difference
from deploy.inference_python.predictor import Predictor
from deploy.model_folder import read_manifest
from deploy.slim import quantize
from models import METHODS
from tests import exported as small
from tests.exported import BITS, one_error_line, pictures
from utils.errors import InputError
from utils.files import sha256_file

QUANTIZE, INFER, COMPARE = "deploy/slim/quantize.py", "deploy/inference_python/infer.py", "deploy/compare.py"
PADDLE_2 = paddle.__version__.startswith("2.")
pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="oneDNN's int8 is for x86")


@pytest.fixture(scope="module")
def floats(tmp_path_factory, shapes, run):
    """name -> folder of an exported convolutional network in .pdmodel form."""
    kept = {}

    def make(name):
        if name not in kept:
            network, small.NETWORK = small.NETWORK, "ConvNet:width=8"
            try:  # a seed of its own: the checkpoints of other tests have another network
                path, _ = small.checkpoint(tmp_path_factory, shapes, name, seed=11)
            finally:
                small.NETWORK = network
            run("export_model.py", "--pretrained", path, "--save-inference-dir", path.parent / "float", "--format",
                *(["auto"] if PADDLE_2 else ["pdmodel"]))
            kept[name] = path.parent / "float"
        return kept[name]
    return make


def settings(source, target, *more):
    """Options of quantize.py."""
    return quantize.parse(["--model-dir", str(source), "--save-dir", str(target), "--threads", "1", *more])


@pytest.fixture(scope="module")
def quantised(floats, tmp_path_factory, run):
    """(float folder, int8 folder, what the command printed) of hashnet."""
    folder = tmp_path_factory.mktemp("int8") / "model"
    done = run(QUANTIZE, "--model-dir", floats("hashnet"), f"--save_dir={folder}", "--images", 24, "--threads", 1)
    return floats("hashnet"), folder, done.stdout


def weights(folder):
    return os.path.getsize(folder / "inference.pdiparams")


def test_command_makes_an_8_bit_model(quantised, shapes):
    source, folder, said = quantised
    assert "16 images of the query split" in said and "images a CPU second" in said and "MB" in said
    assert weights(folder) < 0.4 * weights(source)
    old, new = read_manifest(str(source)), read_manifest(str(folder))
    assert new["fingerprint"] != old["fingerprint"] == new["made_of"]
    assert new["precision"] == "int8" and new["int8"]["images"] == 24
    assert {key: new[key] for key in ("preprocess", "bits", "image", "dataset", "recipe")} == \
        {key: old[key] for key in ("preprocess", "bits", "image", "dataset", "recipe")}
    assert new["files"] == {name: sha256_file(folder / name) for name in set(os.listdir(folder)) - {"inference.yml"}}
    _, images = pictures(shapes)
    engine = Predictor(str(folder), threads=1)
    assert engine.precision == "int8" and engine.runtime()["enable_mkldnn"] is True
    found = difference(Predictor(str(source), threads=1).encode(images), engine.encode(images))
    print(found)
    assert 0 < found["flips"] <= 0.1 * found["codes"]  # neither the float model again nor a broken one
    assert found["largest"] > 1e-3


def test_codes_are_not_mixed_with_float_codes(quantised, tmp_path, run):
    """infer.py on both folders: code files of other names, and neither model takes the other's."""
    source, folder, _ = quantised
    for model, name in ((source, f"database_hashnet_{BITS}.npz"), (folder, f"database_hashnet_{BITS}_int8.npz")):
        run(INFER, "--model-dir", model, "--save-path", tmp_path, "--batch-size", 16, "--threads", 1)
        assert (tmp_path / name).is_file()
    done = run(INFER, "--model-dir", folder, "--code-file", tmp_path / f"database_hashnet_{BITS}.npz", ok=None)
    one_error_line(done, read_manifest(str(source))["fingerprint"])
    for more, words in (({"bf16": True}, "int8 model.*--bf16"), ({"device": "gpu"}, "int8 model.*--use-gpu False")):
        with pytest.raises(InputError, match=words):
            Predictor(str(folder), **more)


def test_map_is_near_the_float_models(quantised, run):
    source, folder, _ = quantised
    done = run(COMPARE, "--model-dir", source, "--other-dir", folder, "--evaluate", "--mkldnn", "--max-drop", 0.05,
               "--max-flips", 0.1, "--repeat", 1, "--threads", 1)
    assert "mAP@all: " in done.stdout and "176 images" in done.stdout
    one_error_line(run(COMPARE, "--model-dir", source, "--other-dir", folder, "--exact", "--repeat", 0, ok=None),
                   "gives other bits")


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_quantised(name, floats, tmp_path, shapes):
    quantize.quantize(settings(floats(name), tmp_path / "int8", "--images", "24", "--max-flips", "0.2"))
    _, images = pictures(shapes)
    first, second = (Predictor(str(folder), threads=1).encode(images) for folder in (floats(name), tmp_path / "int8"))
    assert difference(first, second)["flips"] < 0.2 * first.size
    assert read_manifest(str(tmp_path / "int8"))["method"] == name


def test_same_calibration_same_fingerprint(floats, quantised, tmp_path, shapes):
    _, folder, _ = quantised
    options = settings(floats("hashnet"), tmp_path / "a", "--images", "24")
    quantize.quantize(options)
    assert read_manifest(str(tmp_path / "a"))["fingerprint"] == read_manifest(str(folder))["fingerprint"]
    pictures_of = [quantize.calibration(read_manifest(str(folder)), options) for options.calibration_seed in (0, 0, 1)]
    assert pictures_of[0].shape == (24, 3, 48, 48) and pictures_of[0].dtype == np.float32
    assert (pictures_of[0] == pictures_of[1]).all() and (pictures_of[0] != pictures_of[2]).any()


def test_cross_modal_model_keeps_its_text_side(floats, tmp_path, shapes):
    from utils.text import Vectorizer
    source = floats("djsrh")
    quantize.quantize(settings(source, tmp_path / "int8", "--images", "16"))
    split, _ = pictures(shapes)
    rows = Vectorizer.load(str(tmp_path / "int8" / "vectorizer.json")).transform(split.texts)
    first, second = (Predictor(str(folder), threads=1) for folder in (source, tmp_path / "int8"))
    assert difference(first.encode_text(rows), second.encode_text(rows))["far_flips"] == 0


def test_too_many_flips_leave_nothing(floats, quantised, tmp_path):
    _, folder, _ = quantised
    kept = tmp_path / "kept"
    shutil.copytree(folder, kept)
    before = {name: (kept / name).read_bytes() for name in os.listdir(kept)}
    for target in (kept, tmp_path / "new"):
        with pytest.raises(InputError, match="--max-flips allows 0.0%"):
            quantize.quantize(settings(floats("hashnet"), target, "--images", "8", "--max-flips", "0"))
    assert os.listdir(tmp_path) == ["kept"]
    assert before == {name: (kept / name).read_bytes() for name in os.listdir(kept)}


def test_a_crash_of_the_worker_is_one_line(floats, tmp_path, monkeypatch):
    real = subprocess.run

    def crash(command, **settings):
        if "ptq_worker.py" in str(command[1]):
            command = [sys.executable, "-c", "print('RuntimeError: of the worker'); raise SystemExit(1)"]
        return real(command, **settings)
    monkeypatch.setattr(quantize.subprocess, "run", crash)
    with pytest.raises(InputError, match="status 1.*of the worker"):
        quantize.quantize(settings(floats("hashnet"), tmp_path / "x", "--images", "8"))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("arguments, words", [
    ((), ("--model-dir",)), (("--model-dir", "nowhere"), ("nowhere",)), (("--ops", "conv,lstm"), ("lstm", "matmul")),
    (("--algo", "best"), ("best",)), (("--max-flips", "3"), ("from 0 to 1",))])
def test_bad_command_lines(arguments, words, run):
    one_error_line(run(QUANTIZE, *arguments, ok=None), *words)


def test_what_cannot_be_quantised(quantised, tmp_path, shapes, tmp_path_factory, run):
    _, folder, _ = quantised
    done = run(QUANTIZE, "--model-dir", folder, "--save-dir", tmp_path / "x", ok=None)
    one_error_line(done, "no export of float graphs")
    if not PADDLE_2:
        source = small.exported(tmp_path_factory, shapes)
        one_error_line(run(QUANTIZE, "--model-dir", source, "--save-dir", tmp_path / "x", ok=None), "--format pdmodel")
    assert run(QUANTIZE, "--check").stdout.startswith("ready: Paddle ")
    assert not (tmp_path / "x").exists()
