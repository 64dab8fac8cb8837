"""Learning rates, clipping, accumulation: each against its definition, and through the training command."""
import json
import math

import numpy as np
import paddle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import METHODS
from tests.conftest import SHAPES_SIZES
from utils.config import RECIPE
from utils.errors import InputError
from utils.training import optim
from utils.training.checkpoint import load_checkpoint
from utils.training.meter import Meter, check_finite

DEFAULTS = {key: setting.default for key, setting in RECIPE.items()}
BY_ROWS = [name for name, method in METHODS.items() if method.coupling == "rows" and method.modalities == ("image",)]


@given(epoch=st.integers(0, 99), steps=st.integers(1, 50), data=st.data())
def test_without_warm_up_a_schedule_moves_with_the_epochs_only(epoch, steps, data):
    step = data.draw(st.integers(0, steps - 1))
    recipe = {**DEFAULTS, "epoch": 100, "learning_rate": 0.3, "lr_step": 7, "lr_gamma": 0.5, "lr_min_ratio": 0.01}
    wanted = {"constant": 0.3, "step": 0.3 * 0.5 ** (epoch // 7),
              "cosine": 0.003 + (0.3 - 0.003) * (1 + math.cos(math.pi * epoch / 100)) / 2}
    for name, value in wanted.items():
        assert optim.learning_rate({**recipe, "lr_schedule": name}, epoch, step, steps) == value


@pytest.mark.parametrize("warmup", [0.5, 1, 2.5])
def test_warm_up_grows_step_by_step_and_the_cosine_follows(warmup):
    steps, epochs = 8, 6
    recipe = {**DEFAULTS, "epoch": epochs, "learning_rate": 0.2, "lr_schedule": "cosine", "lr_update": "step",
              "warmup_epochs": warmup, "lr_min_ratio": 0.1}
    rates = [optim.learning_rate(recipe, epoch, step, steps) for epoch in range(epochs) for step in range(steps)]
    top = round(warmup * steps)
    np.testing.assert_allclose(rates[:top], [0.2 * (i + 1) / top for i in range(top)])
    falling = rates[top - 1:]
    assert all(a >= b for a, b in zip(falling, falling[1:])) and falling[0] == max(rates)
    beyond = optim.learning_rate(recipe, epochs, 0, steps)
    assert beyond == pytest.approx(0.02) and rates[-1] > beyond


def test_a_warm_up_as_long_as_the_training_is_refused():
    with pytest.raises(InputError, match="warmup_epochs is 4"):
        optim.make_optimizer(None, {**DEFAULTS, "epoch": 4, "warmup_epochs": 4.0})


@pytest.mark.parametrize("limit, length", [(0, 13.0), (1.0, 1.0), (100.0, 13.0)])
def test_gradients_are_shortened_over_all_groups_together(limit, length):
    first, second = (paddle.create_parameter([n], "float32") for n in (2, 1))
    before = [parameter.numpy() for parameter in (first, second)]
    optimizer = paddle.optimizer.SGD(1.0, [{"params": [first]}, {"params": [second]}])
    ((first * paddle.to_tensor([3.0, 4.0])).sum() + 12 * second.sum()).backward()
    optim.apply_gradients(optimizer, [first, second], limit)
    moved = np.concatenate([old - new.numpy() for old, new in zip(before, (first, second))])
    np.testing.assert_allclose(moved, np.array([3, 4, 12]) / 13 * length, rtol=1e-4)


def test_the_step_with_a_term_that_is_no_number_is_named():
    meter = Meter()
    for value in (1.0, float("inf"), 3.0):
        meter.stepped({"total": paddle.to_tensor(1.0), "pair": paddle.to_tensor([value])}, 4)
    with pytest.raises(InputError, match=r"'pair' is inf at epoch 3, step 12; .* batch: picture 11$"):
        check_finite(meter.read(), 2, 10, lambda step: [f"picture {step}"])


@pytest.fixture(scope="module")
def train(run, shapes):
    sizes = [f"--{key.replace('_', '-')}={value}" for key, value in SHAPES_SIZES.items()]

    def call(method, folder, *more, script="main_single_gpu.py", **kwargs):
        run(script, "--method", method, "--bit", 8, "--data-path", shapes, *sizes, "--backbone", "SqueezeNet1_1",
            "--no-pretrained", "--resize-size", 36, "--crop-size", 32, "--device", "cpu", "--no-visualdl",
            "--eval-epoch", 1, "--epoch", 2, "--optimizer", "momentum", "--augment", "none", "--lr-schedule", "cosine",
            "--learning-rate", 0.003, "--output-dir", folder, *more, **kwargs)
        return load_checkpoint(folder / "latest.safetensors")[0], json.loads((folder / "result.json").read_text())
    return call


@pytest.mark.parametrize("method", BY_ROWS)
def test_accumulated_batches_are_one_batch(train, method, tmp_path):
    whole, _ = train(method, tmp_path / "one", "--batch-size", 24, "--clip-norm", 0.5)
    parts, _ = train(method, tmp_path / "parts", "--batch-size", 12, "--accumulate", 2, "--clip-norm", 0.5)
    ranks, _ = train(method, tmp_path / "ranks", "--batch-size", 6, "--accumulate", 2, "--clip-norm", 0.5,
                     script="main_multi_gpu.py")
    for other in (parts, ranks):
        for key, value in whole.items():
            np.testing.assert_allclose(other[key], value, rtol=1e-4, atol=2e-5, err_msg=key)


def test_how_often_the_log_is_written_changes_nothing(train, tmp_path):
    more = ["--warmup-epochs", 0.5, "--lr-update", "step"]
    often, first = train("hashnet", tmp_path / "often", "--log-step", 1, *more)
    seldom, second = train("hashnet", tmp_path / "seldom", "--log-step", 100, *more)
    assert all(np.array_equal(often[key], seldom[key]) for key in often)
    assert first["training"]["history"] == second["training"]["history"]
