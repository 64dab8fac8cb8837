"""DHN against golden vectors and naive loops; switches, edge batches."""
import json
import math

import numpy as np
import paddle
import pytest

from models.dhn import DHN, pair_loss, quantization_loss
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


def test_golden_batch_form(golden):
    z = golden("dhn_loss")
    for key in cases(z, r"dhn_pytorch/.*(?=/H$)"):
        lamda, h, s = float(z[f"{key}/lamda"]), leaf(z[f"{key}/H"]), paddle.to_tensor(z[f"{key}/S"])
        pair, quantization = pair_loss(h, h, s), quantization_loss(h)
        (pair + lamda * quantization).backward()
        near(float(pair), z[f"{key}/paper_metric"])
        near(float(quantization), z[f"{key}/paper_quant"])
        near(float(pair + lamda * quantization), z[f"{key}/paper_loss"])
        near_gradient(h.grad.numpy(), z[f"{key}/paper_dH"])
        if lamda == 1:  # where DHN_PyTorch's formula is the paper's
            near(float(pair + quantization), z[f"{key}/loss"])
            if "edge" not in key:  # at theta = 0 it takes another slope than the smooth function
                near_gradient(h.grad.numpy(), z[f"{key}/dH"])


def bank_step(method, z, key, index):
    u, y = leaf(z[f"{key}/u"]), paddle.to_tensor(z[f"{key}/y"].astype("float32"))
    total = method.loss({"feature0": u, "label": y, "index": paddle.to_tensor(index.astype("int64"))})["total"]
    total.backward()
    near(float(total), z[f"{key}/loss"])
    near_gradient(u.grad.numpy(), z[f"{key}/du"])


def test_golden_bank_form_on_raw_outputs(golden):
    z = golden("dhn_loss")
    settings = {"pairs": "bank", "quantize": "raw", "lamda": json.loads(str(z["meta"]))["alpha"]}
    for labelling in cases(z, r"deephash_bank/[^/]+(?=/step)"):
        steps = sorted(cases(z, labelling + r"/step\d+"), key=lambda key: int(key.rsplit("step")[-1]))
        num_train, bits = z[f"{steps[0]}/bank_U_after"].shape
        method = identity_method(DHN, bits, num_train, z[f"{steps[0]}/y"].shape[1], **settings)
        for key in steps:
            bank_step(method, z, key, z[f"{key}/ind"])
            near(method.bank.codes.numpy(), z[f"{key}/bank_U_after"], rtol=1e-6)
            np.testing.assert_array_equal(method.bank.labels.numpy(), z[f"{key}/bank_Y_after"])
    for key in cases(z, r"deephash_bank/edge_large_u"):  # where the reference overflows in float32
        n, bits = z[f"{key}/u"].shape
        bank_step(identity_method(DHN, bits, n, z[f"{key}/y"].shape[1], **settings), z, key, np.arange(n))


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("quantize", ["tanh", "raw"])
def test_method_equals_naive_loops(half, quantize):
    rng = np.random.default_rng(0)
    h, y = rng.standard_normal((5, 8)), (rng.random((5, 3)) < 0.4).astype("float64")
    u = np.tanh(h) if quantize == "tanh" else h
    pair = quantization = 0.0
    for i in range(5):
        for j in range(5):
            theta = float(u[i] @ u[j]) / (2 if half else 1)
            pair += (math.log(1 + math.exp(theta)) - float(y[i] @ y[j] > 0) * theta) / 25
        quantization += sum(math.log(math.cosh(abs(x) - 1)) for x in u[i]) / 40
    method = identity_method(DHN, 8, 0, 3, half=half, quantize=quantize, lamda=0.3)
    h_leaf = leaf(h)
    terms = method.loss({"feature0": h_leaf, "label": paddle.to_tensor(y.astype("float32"))})
    near([float(terms[name]) for name in ("pair", "quantization", "total")],
         [pair, quantization, pair + 0.3 * quantization])
    terms["pair"].backward()
    g = 1 / (1 + np.exp(-(u @ u.T) / (2 if half else 1))) - (y @ y.T > 0)  # both sides of a pair are codes to learn
    slope = (1 - u ** 2) if quantize == "tanh" else 1
    near_gradient(h_leaf.grad.numpy(), (g + g.T) @ u / (2 if half else 1) / 25 * slope)
    near(method.encode_features(leaf(h)).numpy(), np.tanh(h))  # the code is tanh(h) whatever the loss sees


@pytest.mark.parametrize("settings", [{}, {"pairs": "bank"}, {"quantize": "raw"}])
@pytest.mark.parametrize("n", [1, 3])
def test_edge_batches_are_finite(settings, n):
    method = small(DHN, 5, 3, **settings)
    batch = tensors(random_batch(DHN, n, 5, 3, 0, 0))
    batch["image0"] = paddle.zeros_like(batch["image0"])
    for label in (0.0, 1.0):
        batch["label"] = paddle.full([n, 3], label)
        assert all_finite(method, method.loss(batch))


def test_bank_is_training_state_and_the_batch_form_has_none():
    method = small(DHN, 12, 3, pairs="bank")
    before = method.fingerprint({})
    method.loss(tensors(random_batch(DHN, 4, 12, 3, 0, 0)))
    assert np.abs(method.state_dict()["bank.codes"].numpy()).sum() > 0 and method.fingerprint({}) == before
    assert not [key for key in small(DHN, 12, 3).state_dict() if key.startswith("bank")]


@pytest.mark.parametrize("wrong, words", [
    ({"pairs": "halves"}, ["pairs", "batch", "bank"]),
    ({"quantize": "sign"}, ["quantize", "tanh", "raw"]),
    ({"lamda": -0.1}, ["lamda"]),
    ({"num_classes": 0}, ["dhn", "labels"]),
])
def test_wrong_settings_are_named(wrong, words):
    with pytest.raises(InputError) as error:
        small(DHN, 4, **{"num_classes": 2, **wrong})
    assert all(word in str(error.value) for word in words)
