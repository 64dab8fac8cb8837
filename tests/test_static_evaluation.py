"""Many pictures through the static graph of the whole network: same bits, and results say what made them."""
import json

import numpy as np
import paddle
import pytest
from paddle import nn

from utils.datasets import load_protocol
from utils.retrieval.codes import CodeFile
from utils.retrieval.hamming import unpack
from utils.training.static_function import DYNAMIC, StaticFunction, flipped_codes

COMMON = ["--method", "hashnet", "--dataset", "shapes", "--bit", 16, "--backbone", "ConvNet:width=4", "--no-pretrained",
          "--augment", "none", "--resize-size", 40, "--crop-size", 32, "--epoch", 1, "--device", "cpu", "--num-train",
          64, "--num-query", 20]


@pytest.fixture(scope="module")
def trained(run, tmp_path_factory):
    """(folder of a run on 600 database pictures whose network trains, folder of the data)."""
    folder = tmp_path_factory.mktemp("static")
    run("main_single_gpu.py", *COMMON, "--num-database", 600, "--data-path", folder / "data", "--output-dir",
        folder / "run")
    return folder / "run", folder / "data"


def dynamic_codes(checkpoint, split):
    """Relaxed codes by the network itself, a few pictures a call."""
    from models.encoder import checkpoint_encoder
    from utils.transforms import preprocess
    encoder = checkpoint_encoder(str(checkpoint))
    return np.concatenate([encoder.encode(np.stack([preprocess(split.images.read(i), encoder.spec)
                                                    for i in range(start, min(start + 50, len(split)))]))
                           for start in range(0, len(split), 50)])


def same_bits(codes, relaxed):
    """Bits agree where the code is not next to zero."""
    near = np.abs(relaxed) <= 1e-3 * np.abs(relaxed).max()
    return bool(((unpack(codes, relaxed.shape[1]) > 0) == (relaxed >= 0))[~near].all())


def test_training_evaluates_by_the_static_graph(trained):
    folder, data = trained
    result = json.loads((folder / "result.json").read_text())
    codes = CodeFile.load(next(folder.glob("database_*.npz")))
    assert result["engine"] == codes.meta["engine"] == "oneDNN fp32"
    assert "codes by oneDNN fp32: 0.0" in (folder / "train.log").read_text()
    database = load_protocol("shapes", root=str(data), num_train=64, num_query=20, num_database=600).database
    assert same_bits(codes.codes, dynamic_codes(folder / "best.safetensors", database))


def test_few_pictures_stay_with_the_network(run, tmp_path):
    run("main_single_gpu.py", *COMMON, "--num-database", 100, "--data-path", tmp_path / "data", "--output-dir",
        tmp_path / "run")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["engine"] == DYNAMIC


def test_predict_encodes_a_gallery_alike(run, trained, tmp_path):
    """The codes of 600 pictures of a checkpoint are those of training; the line and the file name the engine."""
    folder, _ = trained
    done = run("predict.py", "--pretrained", folder, "--code-file", tmp_path / "codes.npz", "--save-path", tmp_path)
    assert "----- codes by oneDNN fp32: 0.0" in done.stdout
    made, kept = CodeFile.load(tmp_path / "codes.npz"), CodeFile.load(next(folder.glob("database_*.npz")))
    assert made.meta["engine"] == "oneDNN fp32" and made.ids == kept.ids
    assert (made.codes != kept.codes).mean() < 1e-3


class Sign(nn.Layer):
    """A layer of one weight; its graph is wrong on purpose where ``wrong``: it was saved with another sign."""

    def __init__(self, wrong):
        super().__init__()
        self.wrong = wrong

    def encode(self, images):
        out = images.mean([1, 2, 3]).unsqueeze(1)
        return -out if self.wrong and not paddle.in_dynamic_mode() else out


@pytest.mark.skipif(paddle.__version__.startswith("2."), reason="Paddle 2.6 loads no graph without weights")
@pytest.mark.parametrize("wrong", [False, True])
def test_a_graph_with_other_bits_is_not_used(wrong):
    layer, said = Sign(wrong), []
    layer.eval()
    function = StaticFunction(layer, layer.encode, "codes", flipped_codes, say=said.append)
    images = np.random.default_rng(0).standard_normal([16, 3, 8, 8]).astype("float32")
    function.prepare(images)
    assert function.engine == (DYNAMIC if wrong else "oneDNN fp32")
    assert said[-1].startswith(f"codes by {function.engine}")
    if wrong:
        assert "100.000 % of the bits flip" in said[0]
    np.testing.assert_allclose(function(images), layer.encode(paddle.to_tensor(images)).numpy(), rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_two_ranks_choose_alike(run, trained, tmp_path):
    folder, data = trained
    run("main_multi_gpu.py", "--nprocs", 2, "--eval", "--pretrained", folder, "--device", "cpu", "--data-path", data,
        "--output-dir", tmp_path / "run")
    one, two = (json.loads((path / "result.json").read_text()) for path in (folder, tmp_path / "run"))
    assert two["engine"] == one["engine"] and two["score"] == pytest.approx(one["score"], abs=1e-3)
