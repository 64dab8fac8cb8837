"""HashNet against golden vectors and naive loops; bank, schedules, edge batches."""
import json
import math

import numpy as np
import paddle
import pytest

from models.hashnet import HashNet, hashnet_loss
from models.losses import Bank, log_cosh, negative_log_likelihood, share_a_label
from tests.tiny import (
    all_finite,
    cases,
    identity_method,
    leaf,
    near,
    near_gradient,
    random_batch,
    small,
    tensors,
)
from utils.errors import InputError


def step(method, u, y, index, scale=1.0):
    """(loss, gradient for the hash layer's output) of one call on golden inputs."""
    method.beta.set_value(paddle.full([1], float(scale)))
    u = leaf(u)
    total = method.loss({"feature0": u, "label": paddle.to_tensor(y.astype("float32")),
                         "index": paddle.to_tensor(index.astype("int64"))})["total"]
    total.backward()
    return float(total), u.grad.numpy()


def test_golden_bank(golden):
    z = golden("hashnet_loss")
    alpha = json.loads(str(z["meta"]))["alpha"]
    for labelling in cases(z, r"bank/[^/]+"):
        steps = sorted(cases(z, labelling + r"/step\d+"), key=lambda key: int(key.rsplit("step")[-1]))
        num_train, bits = z[f"{steps[0]}/bank_U_after"].shape
        method = identity_method(HashNet, bits, num_train, z[f"{steps[0]}/y"].shape[1], alpha=alpha)
        for key in steps:
            loss, gradient = step(method, z[f"{key}/u"], z[f"{key}/y"], z[f"{key}/ind"], z[f"{key}/scale"])
            near(loss, z[f"{key}/loss"])
            near_gradient(gradient, z[f"{key}/du_bank_detached"])
            near(method.bank.codes.numpy(), z[f"{key}/bank_U_after"], rtol=1e-6)
            np.testing.assert_array_equal(method.bank.labels.numpy(), z[f"{key}/bank_Y_after"])


def test_golden_batch(golden):
    z = golden("hashnet_loss")
    alpha = json.loads(str(z["meta"]))["alpha"]
    for key in cases(z, r"batch/[^/]+/case\d+"):
        u, y = z[f"{key}/u"], z[f"{key}/y"]
        method = identity_method(HashNet, u.shape[1], 0, y.shape[1], alpha=alpha, pairs="batch")
        loss, gradient = step(method, u, y, np.arange(len(u)), z[f"{key}/scale"])
        near(loss, z[f"{key}/loss"])
        near_gradient(gradient, z[f"{key}/du"])


def test_golden_without_positives_or_negatives(golden):
    z = golden("hashnet_loss")
    alpha = json.loads(str(z["meta"]))["alpha"]
    for key in cases(z, r"edge/[^/]+"):
        u, y = z[f"{key}/u"], z[f"{key}/y"]
        for pairs in ("bank", "batch"):
            method = identity_method(HashNet, u.shape[1], len(u), y.shape[1], alpha=alpha, pairs=pairs)
            loss, gradient = step(method, u, y, np.arange(len(u)))
            near(loss, z[f"{key}/{pairs}_loss"])
            near_gradient(gradient, z[f"{key}/{pairs}_du"])


def test_golden_halves(golden):
    z = golden("hashnet_loss")
    for key in cases(z, r"thuml_pairwise/[^/]+(?=/out1)"):
        alpha, class_num, threshold = (float(z[f"{key}/{name}"])
                                       for name in ("sigmoid_param", "class_num", "l_threshold"))
        s = share_a_label(*(paddle.to_tensor(z[f"{key}/label{i}"]) for i in (1, 2)))
        paper = key.replace("thuml_pairwise", "thuml_updated")
        for where, settings in ((key, (alpha, class_num, threshold)), (paper, (1.0, 0, None))):
            out1, out2 = leaf(z[f"{key}/out1"]), leaf(z[f"{key}/out2"])
            loss = hashnet_loss(out1, out2, s, *settings)
            loss.backward()
            near(float(loss), z[f"{where}/loss"])
            near_gradient(out1.grad.numpy(), z[f"{where}/dout1"])
            near_gradient(out2.grad.numpy(), z[f"{where}/dout2"])


def test_no_overflow_where_the_reference_has_nan():
    out1, out2 = leaf(np.ones((4, 128))), leaf(np.ones((4, 128)))
    for threshold in (None, 15.0):
        for class_num in (0, 1):
            loss = hashnet_loss(out1, out2, paddle.ones([4, 4]), 1.0, class_num, threshold)
            loss.backward()
            assert float(loss) == pytest.approx(0, abs=1e-6) and np.isfinite(out1.grad.numpy()).all()


def naive(u, other, s, alpha, class_num):
    """The paper's equations with loops and weights, in float64."""
    n_similar, n_all = s.sum(), s.size
    total = weights = 0.0
    for i in range(len(u)):
        for j in range(len(other)):
            d = alpha * float(u[i] @ other[j])
            if class_num:
                w = class_num if s[i, j] else 1.0
            else:
                w = n_all / n_similar if s[i, j] else n_all / (n_all - n_similar)
            total += w * (math.log(1 + math.exp(d)) - s[i, j] * d)
            weights += w if class_num else 1.0
    return total / weights


@pytest.mark.parametrize("class_num", [0, 1, 7.5])
def test_equals_naive_loops(class_num):
    rng = np.random.default_rng(0)
    u, other = np.tanh(rng.standard_normal((5, 8))), np.tanh(rng.standard_normal((7, 8)))
    s = (rng.random((5, 7)) < 0.3).astype("float64")
    ours = hashnet_loss(*map(paddle.to_tensor, (u, other, s)), 0.7, class_num)
    near(float(ours), naive(u, other, s, 0.7, class_num), rtol=1e-6)


def test_halves_compares_the_first_half_with_the_second():
    rng = np.random.default_rng(1)
    u, y = rng.standard_normal((7, 12)).astype("float32"), (rng.random((7, 4)) < 0.4).astype("float32")
    method = identity_method(HashNet, 12, 0, 4, pairs="halves", alpha=0, class_num=5)
    loss, _ = step(method, u, y, np.arange(7))
    t, s = np.tanh(u.astype("float64")), (y @ y.T > 0).astype("float64")
    near(loss, naive(t[:3], t[3:], s[:3, 3:], 10 / 12, 5))  # alpha 0: the authors' 10 / bits


def test_log_cosh_and_likelihood_of_any_finite_logit():
    """Also the likelihood of Paddle's own softplus, which this relies on: no overflow, slope 1/2 at 0."""
    x = np.array([-1e4, -100, -1, -1e-4, 0, 1e-4, 1, 100, 1e4])
    for ours, exact, slope in ((lambda t: negative_log_likelihood(t, 0 * t), np.logaddexp(0, x),
                                0.5 * (1 + np.tanh(x / 2))),
                               (log_cosh, np.logaddexp(x, -x) - np.log(2), np.tanh(x))):
        for dtype, tolerance in (("float32", 1e-6), ("float64", 1e-12)):
            t = leaf(x, dtype)
            ours(t).sum().backward()
            near(ours(t).numpy(), exact, rtol=tolerance, atol=tolerance)
            near(t.grad.numpy(), slope, rtol=tolerance, atol=tolerance)


def test_bank_keeps_the_last_of_equal_indices_and_no_graph():
    bank = Bank(5, 2, 3)
    rows = leaf([[1, 1], [2, 2], [3, 3], [4, 4]])
    labels = paddle.to_tensor(np.eye(4, 3, dtype="float32"))
    for _ in range(2):  # a bank with a graph fails at the second step on Paddle 3
        bank.write(paddle.to_tensor([1, 3, 1, 0]), rows, labels)
    assert bank.codes.numpy().tolist() == [[4, 4], [3, 3], [0, 0], [2, 2], [0, 0]]
    assert bank.labels.numpy()[1].tolist() == [0, 0, 1] and bank.codes.stop_gradient


def test_bank_and_beta_are_checkpointed_but_not_part_of_the_fingerprint():
    method = small(HashNet, 12, 3)
    before = method.fingerprint({})
    method.start_epoch(50, 100)
    batch = tensors(random_batch(HashNet, 4, 12, 3, 0, 0))
    loss = float(method.loss(batch)["total"])
    state = {key: value.numpy() for key, value in method.state_dict().items()}
    assert np.abs(state["bank.codes"]).sum() > 0 and state["bank.labels"].sum() == batch["label"].numpy().sum()
    assert method.fingerprint({}) == before

    other = small(HashNet, 12, 3, seed=1)
    other.set_state_dict(state)
    assert float(other.loss(batch)["total"]) == loss
    assert other.fingerprint({}) == before
    method.hash.weight.set_value(method.hash.weight * 1.001)
    assert method.fingerprint({}) != before


def test_epoch_schedule():
    method = small(HashNet, 4, 2, 8, step_continuation=3)
    betas = []
    for epoch in range(8):
        method.start_epoch(epoch, 10)
        betas.append(float(method.beta))
    near(betas, np.sqrt([1, 1, 1, 2, 2, 2, 3, 3]))
    image = paddle.to_tensor(random_batch(HashNet, 4, 4, 2, 0, 0)["image0"])
    near(method.encode(image).numpy(), np.tanh(math.sqrt(3) * method.hash(method.backbone(image)).numpy()))


def test_iteration_schedule_follows_the_steps_of_the_run():
    method = small(HashNet, 4, 2, 8, continuation="iteration", pairs="batch")
    betas = []
    for step in (198, 199, 1000):
        method.start_epoch(3, 10)  # the epoch has no say in this schedule
        method.start_step(step, 2000)
        betas.append(float(method.beta))
    near(betas, [1, math.sqrt(2), math.sqrt(6)])
    assert int(method.steps) == 1001


@pytest.mark.parametrize("pairs", ["bank", "batch", "halves"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_edge_batches_are_finite(pairs, n):
    method = small(HashNet, 5, 3, pairs=pairs)
    batch = tensors(random_batch(HashNet, n, 5, 3, 0, 0))
    batch["image0"] = paddle.zeros_like(batch["image0"])  # constant pictures
    for label in (0.0, 1.0):                                # no positive pair, no negative pair
        batch["label"] = paddle.full([n, 3], label)
        assert all_finite(method, method.loss(batch))


def test_saturated_codes_are_finite():
    method = identity_method(HashNet, 16, 4, 2, alpha=5.0)
    loss, gradient = step(method, np.full((4, 16), 1e6), np.eye(4, 2), np.arange(4), 3.0)
    assert np.isfinite(loss) and np.isfinite(gradient).all()


@pytest.mark.parametrize("wrong, words", [
    ({"pairs": "bnk"}, ["pairs", "bank", "halves"]),
    ({"continuation": "step"}, ["continuation", "epoch", "iteration"]),
    ({"step_continuation": 0}, ["step_continuation"]),
    ({"alpha": -1.0}, ["alpha"]),
    ({"num_classes": 0}, ["hashnet", "labels"]),
])
def test_wrong_settings_are_named(wrong, words):
    with pytest.raises(InputError) as error:
        small(HashNet, 4, **{"num_classes": 2, **wrong})
    assert all(word in str(error.value) for word in words)


def test_the_hash_layer_starts_small_and_without_bias():
    method = small(HashNet, 4, 2)
    assert float(method.hash.bias.abs().sum()) == 0 and 0.007 < float(method.hash.weight.std()) < 0.013
