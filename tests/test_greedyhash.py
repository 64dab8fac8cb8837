"""GreedyHash against golden vectors, from labels and from features; odd batches, dropout of the frozen network."""
import numpy as np
import paddle
import pytest

from models.greedyhash import GreedyHash, cubic_distance
from models.losses import cross_entropy, label_shares, pair_cosines, rebuild_cosines, sign_ste
from tests import tiny
from tests.tiny import cases, leaf, near, near_gradient
from utils.errors import InputError


def goal(z, key, name):
    """The entry with sign(0) = +1 where the reference's differs."""
    return z[f"{key}/plus_{name}"] if f"{key}/plus_{name}" in z.files else z[f"{key}/{name}"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_golden_from_labels(golden, dtype):
    z = golden("greedyhash")
    for key in cases(z, r"supervised/[^/]+(?=/u$)"):
        u, weight, label = (leaf(z[f"{key}/{name}"], dtype) for name in ("u", "W", "label"))
        code = sign_ste(u)
        logits = paddle.matmul(code, weight, transpose_y=True)
        loss1 = cross_entropy(logits, label_shares(label, first=True)).mean()
        loss2 = cubic_distance(u).mean()
        total = loss1 + float(z[f"{key}/alpha"]) * loss2
        total.backward()
        np.testing.assert_array_equal(code.numpy(), goal(z, key, "code"))
        if f"{key}/plus_loss" not in z.files:
            near(logits.numpy(), z[f"{key}/logits"])
            near(float(loss1), z[f"{key}/loss1"])
        near(float(loss2), z[f"{key}/loss2"])
        near(float(total), goal(z, key, "loss"))
        near_gradient(u.grad.numpy(), goal(z, key, "du"))
        near_gradient(weight.grad.numpy(), goal(z, key, "dW"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_golden_from_features(golden, dtype):
    z = golden("greedyhash")
    for key in cases(z, r"unsupervised/[^/]+(?=/h$)"):
        x, h = (leaf(z[f"{key}/{name}"], dtype) for name in ("x", "h"))
        code = sign_ste(h)
        pair, cube = rebuild_cosines(code, x), cubic_distance(h).mean()
        total = pair + float(z[f"{key}/alpha"]) * cube
        total.backward()
        np.testing.assert_array_equal(code.numpy(), goal(z, key, "code"))
        near(pair_cosines(code).numpy(), goal(z, key, "target_b"))
        near(pair_cosines(x).numpy(), z[f"{key}/target_x"])
        if f"{key}/plus_loss" not in z.files:
            near(float(pair), z[f"{key}/loss1"])
        near(float(cube), z[f"{key}/loss2"])
        near(float(total), goal(z, key, "loss"))
        near_gradient(h.grad.numpy(), goal(z, key, "dh"))
        assert x.grad is None


def test_the_method_is_these_formulas(golden):
    """From cached features to the total, with the classifier and the settings of the case."""
    z = golden("greedyhash")
    for key in cases(z, r"supervised/[^/]+(?=/u$)"):
        classes, bits = z[f"{key}/W"].shape
        method = tiny.identity_method(GreedyHash, bits, 0, classes, alpha=float(z[f"{key}/alpha"]), first_label=True)
        method.hash.bias.set_value(np.zeros(bits, "float32"))
        method.classifier.weight.set_value(z[f"{key}/W"].T)
        terms = method.loss({"feature0": leaf(z[f"{key}/u"]), "label": leaf(z[f"{key}/label"])})
        near(float(terms["total"]), goal(z, key, "loss"))
        assert list(terms) == ["total", "class", "quantization"]


def build(more, classes=6):
    return tiny.small(GreedyHash, 20, classes, **more)


def test_labels_are_needed_only_where_they_are_learnt_from():
    with pytest.raises(InputError, match="labels"):
        build({}, classes=0)
    method = build({"learn_from": "features"}, classes=0)
    batch = tiny.tensors(tiny.random_batch(GreedyHash, 6, 20, 1, 0, 0))
    del batch["label"]
    assert list(method.loss(batch)) == ["total", "pair", "quantization"]
    assert not any(key.startswith("classifier") for key in method.state_dict())


def test_several_labels_share_the_target():
    batch = tiny.tensors(tiny.random_batch(GreedyHash, 4, 20, 6, 0, 0))
    labels = np.zeros((4, 6), "float32")
    labels[:, [1, 4]] = 1
    labels[3] = 0  # adds nothing
    method = build({})
    logits = method.classifier(sign_ste(method.code(method.view(batch)))).numpy()
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    near(float(method.loss({**batch, "label": leaf(labels)})["class"]), -log_p[:3][:, [1, 4]].mean())
    near(float(build({"first_label": True}).loss({**batch, "label": leaf(labels)})["class"]), -log_p[:3, 1].mean())


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("more", [{}, *GreedyHash.variants])
def test_edge_batches_are_finite(more, n):
    batch = tiny.tensors(tiny.random_batch(GreedyHash, n, 20, 6, 0, 0))
    for scale in (0.0, 1.0, 1e4):
        method = build(more)
        scaled = {"image0": scale * batch["image0"], "label": batch["label"]}
        terms = method.loss(scaled)
        assert tiny.all_finite(method, terms)
        assert n > 1 or float(terms.get("pair", 0)) == 0


def test_the_last_row_of_an_odd_batch_has_no_partner():
    rows = np.random.default_rng(0).standard_normal((7, 5))
    even = pair_cosines(leaf(rows[:6])).numpy()
    np.testing.assert_array_equal(pair_cosines(leaf(rows)).numpy(), even)
    near(even, [(a @ b) / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(rows[:3], rows[3:6])])


def test_the_features_are_a_constant_for_the_pairs():
    method = build({"learn_from": "features", "alpha": 0.0})
    batch = tiny.tensors(tiny.random_batch(GreedyHash, 6, 20, 6, 0, 0))
    method.loss(batch)["total"].backward()
    u = leaf(method.code(method.view(batch)).numpy())
    rebuild_cosines(sign_ste(u), method.view(batch)).backward()
    x = method.view(batch).detach()
    near_gradient(method.hash.weight.grad.numpy(), paddle.matmul(x, u.grad, transpose_x=True).numpy())
