"""Files written before the rooms were moved (version 0.2.0) load and give the same bits.

``tests/before`` holds a run of two epochs on a small shapes set: ``best`` and ``latest.safetensors``, the database's
codes, and its export. The figures below are what version 0.2.0 printed for them.
"""
import json
import shutil

import numpy as np
import pytest

from tests.conftest import ROOT
from utils.datasets import load_protocol
from utils.retrieval.codes import CodeFile

BEFORE = ROOT / "tests" / "before"
SIZES = {"num_train": 24, "num_database": 48, "num_query": 8}
SCORE, FINGERPRINT, NEXT_LOSS = 0.2689786152659399, "46ec759541413bd5", 1.3284019629160564


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("before")
    load_protocol("shapes", root=str(root), **SIZES)
    return root


def same_codes(path):
    """The codes of a file are those of version 0.2.0."""
    old, new = CodeFile.load(BEFORE / "database_hashnet_16.npz", FINGERPRINT), CodeFile.load(path, FINGERPRINT)
    assert old.ids == new.ids and np.array_equal(old.codes, new.codes) and np.array_equal(old.labels, new.labels)


def test_a_checkpoint_evaluates_alike(run, data, tmp_path):
    shutil.copy(BEFORE / "best.safetensors", tmp_path)
    run("main_single_gpu.py", "--eval", "--pretrained", tmp_path / "best.safetensors", "--data-path", data, "--device",
        "cpu")
    result = json.loads((tmp_path / "eval" / "result.json").read_text())
    assert result["fingerprint"] == FINGERPRINT and result["score"] == pytest.approx(SCORE, abs=1e-12)
    same_codes(tmp_path / "eval" / "database_hashnet_16.npz")


def test_a_run_goes_on_exactly(run, data, tmp_path):
    for name in ("best", "latest"):
        shutil.copy(BEFORE / f"{name}.safetensors", tmp_path)
    run("main_single_gpu.py", "--resume", tmp_path / "latest.safetensors", "--epoch", 3, "--data-path", data,
        "--device", "cpu")
    history = json.loads((tmp_path / "result.json").read_text())["training"]["history"]
    assert [row["epoch"] for row in history] == [2, 3] and history[1]["loss"] == pytest.approx(NEXT_LOSS, abs=1e-5)


def test_a_model_folder_answers_alike(run, data, tmp_path):
    import paddle
    if paddle.__version__.startswith("2."):
        pytest.skip("the folder's graph was written by Paddle 3")
    done = run("predict.py", "--model-dir", BEFORE / "model", "--code-file", BEFORE / "database_hashnet_16.npz",
               "--data-path", data, "--save-path", tmp_path, "--json")
    answer = json.loads(done.stdout)
    assert answer["fingerprint"] == FINGERPRINT and answer["database_items"] == 48
    run("deploy/inference_python/infer.py", "--model-dir", BEFORE / "model", "--data-path", data, "--save-path",
        tmp_path)
    same_codes(tmp_path / "database_hashnet_16.npz")


def test_an_export_is_the_same_model(run, tmp_path):
    run("export_model.py", "--pretrained", BEFORE / "best.safetensors", "--save-inference-dir", tmp_path / "model")
    import yaml
    old, new = (yaml.safe_load((folder / "inference.yml").read_text())
                for folder in (BEFORE / "model", tmp_path / "model"))
    for key in ("method", "bits", "fingerprint", "preprocess", "image"):
        assert old[key] == new[key]
