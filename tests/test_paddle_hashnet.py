"""Whole models of paddle_hashnet: its layout by name and shape, its forward written out here, our commands on it."""
import json
import os

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from models.build import load_method
from models.checkpoint import open_checkpoint
from tests.conftest import SHAPES_SIZES
from utils.datasets import load_protocol
from utils.errors import InputError
from utils.training.checkpoint import find_checkpoint, save_checkpoint
from utils.transforms import preprocess, recipe_spec

BITS = 16
CONVOLUTIONS = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}
POOLED = (0, 3, 10)


def layout(bits=BITS, seed=0):
    """dict name -> float32 array: what paddle.save(model.state_dict()) of its HashNet(bits) holds."""
    shapes = {}
    for number, shape in CONVOLUTIONS.items():
        shapes.update({f"features.{number}.weight": shape, f"features.{number}.bias": shape[:1]})
    for number, shape in {1: (9216, 4096), 4: (4096, 4096), 6: (4096, bits)}.items():
        shapes.update({f"classifier_plus.{number}.weight": shape, f"classifier_plus.{number}.bias": shape[1:]})
    rng = np.random.default_rng(seed)
    arrays = {}
    for key, shape in shapes.items():
        inputs = shape[0] if len(shape) == 2 else int(np.prod(shape[1:]))
        arrays[key] = rng.standard_normal(shape, "float32") * np.float32((2 / inputs) ** 0.5 if inputs > 1 else 0.1)
    return arrays


def forward(arrays, x):
    """Its network: images float32 [N, 3, 224, 224] -> [N, bits]; the code is the sign."""
    w = {key: paddle.to_tensor(value) for key, value in arrays.items()}
    for number in CONVOLUTIONS:
        stride, padding = {0: (4, 2), 3: (1, 2)}.get(number, (1, 1))
        x = F.relu(F.conv2d(x, w[f"features.{number}.weight"], w[f"features.{number}.bias"], stride, padding))
        x = F.max_pool2d(x, 3, 2) if number in POOLED else x
    x = x.reshape([x.shape[0], 256 * 6 * 6])
    for number in (1, 4):
        x = F.relu(F.linear(x, w[f"classifier_plus.{number}.weight"], w[f"classifier_plus.{number}.bias"]))
    return F.linear(x, w["classifier_plus.6.weight"], w["classifier_plus.6.bias"])


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """(folder with weights_16.pdparams, the arrays)."""
    folder = tmp_path_factory.mktemp("paddle_hashnet")
    arrays = layout()
    paddle.save({key: paddle.to_tensor(value) for key, value in arrays.items()},
                str(folder / f"weights_{BITS}.pdparams"))
    return folder, arrays


def signs(codes):
    return np.where(np.asarray(codes) >= 0, 1, -1)


def test_the_codes_of_pictures_are_those_of_its_own_network(weights, shapes):
    folder, arrays = weights
    method, meta = load_method(str(folder / "weights_16"))
    assert (method.name, method.bits, meta["recipe"]["dataset"]) == ("hashnet", BITS, "coco")
    pictures = load_protocol("shapes", root=str(shapes), **SHAPES_SIZES).query.images
    x = paddle.to_tensor(np.stack([preprocess(pictures.read(i), recipe_spec(meta["recipe"])) for i in range(12)]))
    expected = forward(arrays, x).numpy()
    got = method.encode(x).numpy()
    np.testing.assert_allclose(got, np.tanh(expected), rtol=1e-4, atol=1e-4)
    clear = np.abs(expected) > 1e-3
    assert clear.mean() > 0.99 and np.array_equal(signs(got)[clear], signs(expected)[clear])
    assert len(np.unique(signs(expected), axis=0)) > 1


def small_shapes(folder):
    return ("--dataset", "shapes", "--data-path", folder / "shapes", "--num-train", 8, "--num-database", 24,
            "--num-query", 8)


def test_its_file_is_evaluated_and_does_not_resume(weights, run, tmp_path):
    folder, data = weights[0], small_shapes(tmp_path)
    run("main_single_gpu.py", "--eval", "--pretrained", folder / "weights_16", "--bit", BITS, *data, "--output-dir",
        tmp_path / "eval")
    result = json.loads((tmp_path / "eval" / "result.json").read_text())
    assert result["recipe"]["backbone"] == "AlexNet" and 0 < result["score"] <= 1
    refused = run("main_single_gpu.py", "--resume", folder / "weights_16", ok=False)
    assert refused.returncode == 2 and "--pretrained" in refused.stderr and refused.stderr.count("\n") == 1


@pytest.mark.slow
def test_train_export_and_answer_from_its_file(weights, run, tmp_path):
    (folder, arrays), data = weights, small_shapes(tmp_path)
    settings = ("--backbone", "AlexNet", "--freeze-backbone", "--crop-size", 224, "--resize-size", 256, "--augment",
                "none", "--feature-norm", "none", "--epoch", 1, "--learning-rate", 0, "--weight-decay", 0)
    run("main_single_gpu.py", "--method", "hashnet", "--pretrained", folder / "weights_16.pdparams", "--bit", BITS,
        *data, *settings, "--output-dir", tmp_path / "run")
    tensors, _ = open_checkpoint(tmp_path / "run")
    assert np.array_equal(tensors["model/hash.weight"], arrays["classifier_plus.6.weight"])
    done = run("export_model.py", "--pretrained", folder / "weights_16", "--save-inference-dir", tmp_path / "model")
    assert "same bits" in done.stdout
    pictures = next((tmp_path / "shapes").rglob("*.jpg")).parent
    answer = run("predict.py", "--pretrained", folder / "weights_16", "--gallery", pictures, "--img",
                 next(pictures.glob("q*.jpg")), "--topk", 1, "--json", "--save-path", tmp_path / "answer")
    assert '"distance": 0' in answer.stdout


def test_written_back_its_network_loads_and_gives_the_same_numbers(weights, run, tmp_path):
    folder, arrays = weights
    done = run("export_model.py", "--pretrained", folder / "weights_16", "--format", "pdparams-hashnet",
               "--save-inference-dir", tmp_path)
    assert str(tmp_path / "weights_16.pdparams") in done.stdout and os.listdir(tmp_path) == ["weights_16.pdparams"]
    state = paddle.load(str(tmp_path / "weights_16.pdparams"))
    assert list(state) == list(arrays)
    assert all(np.array_equal(state[key].numpy(), value) for key, value in arrays.items())


def test_another_network_is_not_written_in_its_layout(run, shapes, tmp_path):
    run("main_single_gpu.py", "--dataset", "shapes", "--data-path", shapes, "--num-train", 64, "--num-database", 160,
        "--num-query", 16, "--bit", BITS, "--epoch", 1, "--output-dir", tmp_path)
    refused = run("export_model.py", "--pretrained", tmp_path, "--format", "pdparams-hashnet", ok=False)
    assert refused.returncode == 2 and "ConvNet" in refused.stderr and refused.stderr.count("\n") == 1


@pytest.mark.parametrize("change, text", [
    (lambda a: a.pop("features.3.bias"), "1 missing: features.3.bias"),
    (lambda a: a.update({"neck.weight": np.ones(2, "float32")}), "1 unexpected: neck.weight"),
    (lambda a: a.pop("classifier_plus.6.weight"), "neither a checkpoint of this project nor")])
def test_what_is_no_such_model_is_said_so(tmp_path, change, text):
    arrays = {key: np.zeros([1] * value.ndim, "float32") for key, value in layout().items()}
    change(arrays)
    paddle.save(arrays, str(tmp_path / "w.pdparams"))
    with pytest.raises(InputError, match=text):
        open_checkpoint(tmp_path / "w")


def test_names_without_an_ending_and_run_folders(tmp_path):
    for name in ("run/best.safetensors", "run/latest.safetensors", "model_best_16.pdparams"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_checkpoint(tmp_path / "run") == str(tmp_path / "run" / "best.safetensors")
    assert find_checkpoint(tmp_path / "run" / "latest") == str(tmp_path / "run" / "latest.safetensors")
    assert find_checkpoint(tmp_path / "model_best_16") == str(tmp_path / "model_best_16.pdparams")
    assert find_checkpoint("no/such") == "no/such"
    (tmp_path / "run" / "best.safetensors").unlink()
    save_checkpoint(tmp_path / "run" / "best.safetensors", {}, {"recipe": {"bit": 16}})
    assert find_checkpoint(tmp_path / "run" / "model_best_16") == str(tmp_path / "run" / "best.safetensors")
    with pytest.raises(InputError, match="has codes of 16 bits"):
        find_checkpoint(tmp_path / "run" / "model_best_32")
    (tmp_path / "model_best_16.safetensors").touch()
    with pytest.raises(InputError, match="write the ending too"):
        find_checkpoint(tmp_path / "model_best_16")
