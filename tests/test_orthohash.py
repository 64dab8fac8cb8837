"""OrthoHash against golden vectors; batch norm, rows without label, zero codes."""
import math

import numpy as np
import paddle
import pytest

from models.losses import cross_entropy, label_shares, negative_log_likelihood
from models.method import DataFacts
from models.orthohash import GlobalBatchNorm, OrthoHash, class_cosines, margin_logits, quantization_loss, weighted_bce
from tests import tiny
from tests.tiny import cases, leaf, near, near_gradient

QUANTIZE = {"cs": "cosine", "l1": "l1", "l2": "l2"}


def class_loss(z, labels, kind):
    """The classification term by its name in the golden files."""
    if kind == "imbalance":
        return weighted_bce(z, labels)
    if kind == "bce":
        return negative_log_likelihood(z, labels).mean()
    return cross_entropy(z, label_shares(labels)).mean()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_golden_losses(golden, dtype):
    z = golden("orthohash")
    for key in cases(z, r"loss/[^/]+(?=/v$)"):
        s, m, quan = (float(z[f"{key}/{name}"]) for name in ("s", "m", "quan"))
        multi, kind = int(z[f"{key}/multiclass"]), str(z[f"{key}/multiclass_loss"])
        v, labels, targets = (leaf(z[f"{key}/{name}"], dtype) for name in ("v", "label", "codebook"))
        labels = labels if multi else label_shares(labels, first=True)
        cosine = class_cosines(v, targets)
        cosine.retain_grads()
        loss = class_loss(margin_logits(cosine, labels, s, m, str(z[f"{key}/m_type"])), labels, kind if multi else "")
        q = quantization_loss(v, QUANTIZE[str(z[f"{key}/quan_type"])]).mean()
        total = loss + quan * q
        total.backward()
        near(cosine.numpy(), z[f"{key}/cos"])
        near(float(loss), z[f"{key}/ce"])
        near(float(total), z[f"{key}/loss"])
        if quan:
            near(float(q), z[f"{key}/quan_value"])
        near_gradient(cosine.grad.numpy(), z[f"{key}/dcos"])
        near_gradient(v.grad.numpy(), z[f"{key}/dv"])


@pytest.mark.parametrize("training", [True, False])
def test_golden_head(golden, training):
    """Linear, batch norm, cosine and loss of the method itself, and what batch norm remembers."""
    z = golden("orthohash")
    for key in cases(z, r"head/[^/]+(?=/x$)"):
        bits, width = z[f"{key}/W"].shape
        classes = z[f"{key}/codebook"].shape[0]
        method = build(bits, classes, f"precomputed:{width}", scale=float(z[f"{key}/s"]), margin=float(z[f"{key}/m"]),
                       label_loss="shares" if int(z[f"{key}/multiclass"]) else "first")
        method.hash.weight.set_value(z[f"{key}/W"].T)
        norm = method.batch_norm
        for tensor, name in ((norm.weight, "gamma"), (norm.bias, "beta"), (norm._mean, "running_mean"),
                             (norm._variance, "running_var"), (method.targets, "codebook")):
            tensor.set_value(z[f"{key}/{name}"].astype("float32"))
        assert norm._epsilon == pytest.approx(float(z[f"{key}/eps"]))
        assert 1 - norm._momentum == pytest.approx(float(z[f"{key}/torch_momentum"]))
        x = leaf(z[f"{key}/x"])
        method.train() if training else method.eval()
        v = method.code(x)
        name = "" if training else "eval_"
        tolerance = 5e-3 if "two_rows" in key else 5e-5
        near(v.numpy(), z[f"{key}/{name}v"], rtol=1e-4, atol=2e-5)
        near(class_cosines(v, method.targets).numpy(), z[f"{key}/{name}cos"], rtol=1e-4, atol=1e-5)
        if not training:
            continue
        for tensor, after in ((norm._mean, "running_mean"), (norm._variance, "running_var")):
            near(tensor.numpy(), z[f"{key}/{after}_after"])
        loss = method.loss({"feature0": x, "label": leaf(z[f"{key}/label"])})["total"]
        loss.backward()
        near(float(loss), z[f"{key}/loss"], rtol=1e-4)
        for tensor, gradient in ((x, "dx"), (norm.weight, "dgamma"), (norm.bias, "dbeta")):
            near_gradient(tensor.grad.numpy(), z[f"{key}/{gradient}"], tolerance)
        near_gradient(method.hash.weight.grad.numpy().T, z[f"{key}/dW"], tolerance)


def build(bits=16, classes=6, backbone=None, seed=0, **more):
    from models.backbones.build import build_backbone
    paddle.seed(seed)
    network = build_backbone(backbone) if backbone else tiny.TinyBackbone()
    return OrthoHash(network, bits, DataFacts(20, classes), **more)


def test_batch_norm_is_paddles_but_for_the_unbiased_variance():
    rows = np.random.default_rng(0).standard_normal((7, 4)).astype("float32")
    ours, theirs = GlobalBatchNorm(4), paddle.nn.BatchNorm1D(4)
    a, b = leaf(rows), leaf(rows)
    (ours(a) ** 3).sum().backward()
    (theirs(b) ** 3).sum().backward()
    near(ours(a).numpy(), theirs(b).numpy())
    near_gradient(a.grad.numpy(), b.grad.numpy())
    near(ours._mean.numpy(), theirs._mean.numpy())
    near((ours._variance.numpy() - 0.81) * 6 / 7, theirs._variance.numpy() - 0.81, rtol=1e-4)  # two updates of .9
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_one_row_takes_the_running_moments():
    """Torch refuses it; Paddle hands it on as it is and spoils nothing; its own moments would make it zero."""
    method = build()
    method.batch_norm._mean.set_value(np.full(16, 0.5, "float32"))
    batch = tiny.tensors(tiny.random_batch(OrthoHash, 1, 20, 6, 0, 0))
    one = method.encode(batch["image0"]).numpy()
    method.eval()
    np.testing.assert_array_equal(one, method.encode(batch["image0"]).numpy())
    near(method.batch_norm._mean.numpy(), 0.5)


def test_the_scale_is_the_root_of_the_length():
    batch = tiny.tensors(tiny.random_batch(OrthoHash, 6, 20, 6, 0, 0))
    for bits in (16, 20):
        totals = [float(build(bits, scale=scale).loss(batch)["total"]) for scale in (0.0, math.sqrt(bits), 8.0)]
        assert totals[0] == totals[1] != totals[2]


@pytest.mark.parametrize("more", [{}, *OrthoHash.variants])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_edge_batches_are_finite(more, n):
    batch = tiny.tensors(tiny.random_batch(OrthoHash, n, 20, 6, 0, 0))
    for labels in (batch["label"], paddle.zeros_like(batch["label"]), paddle.ones_like(batch["label"])):
        method = build(**more)
        assert tiny.all_finite(method, method.loss({**batch, "label": labels}))
    same = {"image0": paddle.zeros_like(batch["image0"]), "label": batch["label"]}  # all codes are zero
    assert tiny.all_finite(method, method.loss(same))


@pytest.mark.parametrize("more", [{}, *OrthoHash.variants])
def test_rows_without_label_add_nothing_but_their_moments(more):
    batch = tiny.tensors(tiny.random_batch(OrthoHash, 6, 20, 6, 0, 0))
    labels = batch["label"].numpy()
    labels[:, 0], labels[-2:] = 1, 0
    method = build(**more)
    v = method.code(method.view(batch))
    method.code = lambda features: v[:features.shape[0]]
    whole = method.loss({**batch, "label": leaf(labels)})
    part = method.loss({"image0": batch["image0"][:4], "label": leaf(labels[:4])})
    for key in whole:
        near(float(whole[key]), float(part[key]))


def test_targets_follow_the_seed_and_belong_to_training():
    one, same, other = build(), build(), build(seed=1)
    assert "targets" in one.state_dict() and one.fingerprint({}) == same.fingerprint({})
    assert (one.targets.numpy() != other.targets.numpy()).any()
    same.targets.set_value(-same.targets)
    assert one.fingerprint({}) == same.fingerprint({})
    assert "6 classes, 16 bits" in one.describe()[0]
