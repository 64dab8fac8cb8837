"""Feature normalisation: fitted once, fixed while the backbone trains, silent dimensions left out."""
import numpy as np
import paddle
import pytest

from models import METHODS
from models.backbones.build import build_backbone
from models.method import DataFacts, FeatureNorm
from tests.conftest import SHAPES_SIZES
from utils.errors import InputError
from utils.training.checkpoint import load_checkpoint

SIZES = [f"--{key.replace('_', '-')}={value}" for key, value in SHAPES_SIZES.items()]
POOLED = [name for name, method in METHODS.items() if method.modalities == ("image",)
          and method.feature_kind == "pooled"]


def features(n, silent, rng):
    """Features float32 [n, 8] of which some dimensions are nearly silent."""
    x = np.abs(rng.standard_normal((n, 8)) * [1, 2, 0.5, 1, 30, 1, 1, 1]).astype("float32")
    x[:, silent] = 0
    return x


@pytest.mark.parametrize("kind", FeatureNorm.KINDS[1:])
@pytest.mark.parametrize("first", [0.0, 1e-3])  # never awake; a trace of it in one picture of a thousand
@pytest.mark.parametrize("name", POOLED)
def test_a_dimension_that_training_has_not_seen_does_not_change_a_code(name, kind, first):
    rng, silent = np.random.default_rng(0), [2, 5]
    method = METHODS[name](build_backbone("precomputed:8"), 16, DataFacts(1000, 4), feature_norm=kind, frozen=True,
                           **METHODS[name].small)
    train = features(1000, silent, rng)
    train[0, silent] = first
    assert "2 constant" in method.norm.fit(train)
    method.eval()
    query = features(50, silent, rng)
    awake = query.copy()
    awake[:, silent] = 5.0
    codes = [method.encode_features(paddle.to_tensor(x)).numpy() for x in (query, awake)]
    assert np.array_equal(*codes) and (np.abs(codes[0]) > 0).any()


def test_other_dimensions_are_standardised():
    norm, x = FeatureNorm("standardize", 8), features(500, [3], np.random.default_rng(1))
    norm.fit(x)
    y = np.delete(norm(paddle.to_tensor(x)).numpy(), 3, 1)
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(0), 1, atol=1e-5)


def test_nothing_to_fit_on_is_said():
    with pytest.raises(InputError, match="the same"):
        FeatureNorm("standardize", 3).fit(np.ones((5, 3), "float32"))


@pytest.fixture(scope="module")
def train(run, shapes):
    def call(folder, *more, script="main_single_gpu.py"):
        done = run(script, "--method", "hashnet", "--bit", 12, "--backbone", "ConvNet:width=8", "--no-pretrained",
                   "--resize-size", 36, "--crop-size", 32, "--batch-size", 16, "--eval-epoch", 1, "--device", "cpu",
                   "--no-visualdl", "--feature-norm", "standardize", "--learning-rate", 0.01, *SIZES, "--data-path",
                   shapes, "--output-dir", folder, *more)
        return done, load_checkpoint(folder / "latest.safetensors")[0]
    return call


def test_it_stays_while_the_backbone_trains(run, train, tmp_path):
    said, one = train(tmp_path / "one", "--epoch", 1)
    assert said.stdout.count("feature_norm standardize: fitted on 64 features") == 1
    _, three = train(tmp_path / "three", "--epoch", 3)
    run("main_single_gpu.py", "--resume", tmp_path / "one", "--epoch", 3, "--device", "cpu", "--no-visualdl")
    resumed = load_checkpoint(tmp_path / "one" / "latest.safetensors")[0]
    assert resumed.keys() == three.keys() and all(np.array_equal(resumed[key], three[key]) for key in three)
    norms = [key for key in one if "/norm." in key]
    assert norms and all(np.array_equal(one[key], three[key]) for key in norms)
    trained = [key for key in one if key.startswith("model/backbone.") and key.endswith("weight")]
    assert any(not np.array_equal(one[key], three[key]) for key in trained)
    done = run("export_model.py", "--pretrained", tmp_path / "three", "--save-inference-dir", tmp_path / "model")
    assert "same bits" in done.stdout


def test_ranks_fit_the_same(train, tmp_path):
    _, one = train(tmp_path / "one", "--epoch", 1)
    _, two = train(tmp_path / "two", "--epoch", 1, script="main_multi_gpu.py")
    for key in ("model/norm.mean", "model/norm.scale"):
        np.testing.assert_allclose(two[key], one[key], rtol=1e-5, atol=1e-6)
