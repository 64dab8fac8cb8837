"""--precision, and oneDNN by default where the export found that it flips no bit: through the public commands."""
import json
import shutil

import numpy as np
import pytest

from deploy.engines import AUTO_FLIPS, keeps_bits, open_model
from deploy.model_folder import read_manifest
from tests.exported import BITS, SIZES, exported, one_error_line, pictures
from tests.manifests import edited
from utils.datasets import load_protocol
from utils.paddle_inference import fast_bf16
from utils.retrieval.codes import CodeFile
from utils.retrieval.hamming import pack, unpack

INFER = "deploy/inference_python/infer.py"


@pytest.fixture(scope="module")
def model(tmp_path_factory, shapes):
    return exported(tmp_path_factory, shapes)


def copy_with(model, folder, onednn):
    """The model folder, with another finding about oneDNN in its manifest."""
    shutil.copytree(model, folder)
    edited(folder, lambda manifest: manifest.pop("onednn") if onednn is None else manifest.update(onednn=onednn))
    return folder


def test_export_says_what_onednn_flips(model):
    found = read_manifest(str(model))["onednn"]["image"]
    assert found["codes"] == 8 * BITS and 0 <= found["flips"] <= found["codes"]


@pytest.mark.parametrize("onednn, on", [({"image": {"flips": 0, "codes": 160}}, True),
                                        ({"image": {"flips": 1, "codes": 160}}, False),
                                        ({"image": {"flips": 0, "codes": 1}, "text": {"flips": 2, "codes": 9}}, False),
                                        (None, False)])
def test_default_follows_the_export(model, tmp_path, onednn, on):
    folder = str(copy_with(model, tmp_path / "model", onednn))
    assert keeps_bits(read_manifest(folder)) is on
    for mkldnn, wanted in ((None, on), (False, False), (True, True)):
        engine = open_model(folder, threads=1, mkldnn=mkldnn)
        assert engine.runtime()["enable_mkldnn"] is wanted
        assert engine.engine == "Paddle Inference" + (", oneDNN" if wanted else "")


def test_default_and_plain_kernels_give_the_same_bits(model, shapes):
    _, images = pictures(shapes)
    default, plain = (open_model(str(model), threads=1, mkldnn=mkldnn).encode(images) for mkldnn in (None, False))
    far = np.abs(plain) > 1e-3 * np.abs(plain).max()
    assert ((default >= 0) == (plain >= 0))[far].all()


def test_auto_takes_bf16_within_its_bound(run, model, shapes, tmp_path):
    done = run(INFER, "--model-dir", model, "--save-path", tmp_path, "--precision", "auto", "--batch-size", 16)
    line = next(line for line in done.stdout.splitlines() if line.startswith("----- Precision: "))
    path, = tmp_path.glob("database_*.npz")
    codes = CodeFile.load(path)
    chosen = line.split()[2]
    assert codes.meta["precision"] == chosen and path.name == f"database_hashnet_{BITS}" + \
        ("_bf16.npz" if chosen == "bf16" else ".npz")
    assert codes.meta["engine"].startswith("Paddle Inference")
    if not fast_bf16():
        assert chosen == "fp32" and "no bf16 instructions" in line
        return
    if "does not run here" in line:
        assert chosen == "fp32" and "no bf16" in done.stdout
        return
    share = float(line.split("(")[1].split("%")[0]) / 100
    assert (chosen == "bf16") == (share <= AUTO_FLIPS)
    database = load_protocol("shapes", root=str(shapes), **SIZES).database
    _, images = pictures(shapes, len(database), "database")
    exact = pack(open_model(str(model), threads=1, mkldnn=False).encode(images))
    assert (unpack(codes.codes, BITS) != unpack(exact, BITS)).mean() <= 5 * AUTO_FLIPS


def test_predict_names_engine_and_precision(run, model, tmp_path):
    answers = [json.loads(run("predict.py", "--model-dir", model, "--save-path", tmp_path, "--json", *flags).stdout)
               for flags in (["--precision", "fp32"], ["--mkldnn", "False"])]
    assert [answer["precision"] for answer in answers] == ["fp32", "fp32"]
    assert answers[1]["engine"] == "Paddle Inference"
    assert answers[0]["engine"] == ("Paddle Inference, oneDNN" if keeps_bits(read_manifest(str(model))) else
                                    "Paddle Inference")


@pytest.mark.parametrize("command", [INFER, "predict.py"])
@pytest.mark.parametrize("flags, words", [
    (["--precision", "fp16"], "one of fp32, bf16, auto"),
    (["--precision", "fp32", "--bf16"], "contradict"),
    (["--precision", "bf16", "--mkldnn", "False"], "bf16 runs on oneDNN")])
def test_mistakes(run, model, tmp_path, command, flags, words):
    one_error_line(run(command, "--model-dir", model, "--save-path", tmp_path, *flags, ok=False), words)
    assert not list(tmp_path.iterdir())
