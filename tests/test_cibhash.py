"""CIBHash against golden vectors; thresholds that follow the image, large and zero outputs."""
import numpy as np
import paddle
import pytest

from models.cibhash import CIBHash, binary_codes, contrast, divergence
from models.method import DataFacts
from tests import tiny
from tests.tiny import cases, leaf, near, near_gradient


def terms(h1, h2, temperature, noise=(None, None)):
    """(codes of both views, contrast, divergence) in one process."""
    z = [binary_codes(h, thresholds) for h, thresholds in zip((h1, h2), noise)]
    for codes in z:
        codes.retain_grads()
    return z, contrast(*z, *z, 0, temperature), (divergence(h1, h2) + divergence(h2, h1)) / 2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_golden(golden, dtype):
    z = golden("cibhash")
    for key in cases(z, r"(code|noise)/[^/]+(?=/h_i$)"):
        h = [leaf(z[f"{key}/h_{view}"], dtype) for view in "ij"]
        noise = [leaf(z[f"{key}/noise_{view}"], dtype) for view in "ij"] if key.startswith("noise") else (None, None)
        plus = "plus_" if f"{key}/plus_loss" in z.files else ""
        codes, nce, kl = terms(*h, float(z[f"{key}/temperature"]), noise)
        total = nce + float(z[f"{key}/weight"]) * kl
        total.backward()
        for view, code, leaf_ in zip("ij", codes, h):
            np.testing.assert_array_equal(np.rint(code.numpy()), z[f"{key}/{plus}z_{view}"])
            # the reference's 1 - p has no digits left where p is nearly 1
            near_gradient(leaf_.grad.numpy(), z[f"{key}/{plus}dh_{view}"], 1e-2 if "large" in key else 2e-5)
            if not plus:
                near_gradient(code.grad.numpy(), z[f"{key}/dz_{view}"])
        near(float(nce), z[f"{key}/{plus}contra"])
        near(float(kl), z[f"{key}/kl"], rtol=1e-2 if "large" in key else 1e-5)
        near(float(total), z[f"{key}/{plus}loss"], rtol=1e-2 if "large" in key else 1e-5)


def test_golden_encoder(golden):
    """The two layers of the method, its loss and the gradients of its weights."""
    z = golden("cibhash")
    for key in cases(z, r"encoder/[^/]+(?=/x_i$)"):
        hidden, width = z[f"{key}/W1"].shape
        bits = z[f"{key}/W2"].shape[0]
        method = build(bits, f"precomputed:{width}", hidden=hidden, temperature=float(z[f"{key}/temperature"]),
                       kl_weight=float(z[f"{key}/weight"]))
        layers = [(method.hidden_layer[0], "W1", "b1"), (method.hash, "W2", "b2")]
        for layer, weight, bias in layers:
            layer.weight.set_value(z[f"{key}/{weight}"].T)
            layer.bias.set_value(z[f"{key}/{bias}"])
        x = [leaf(z[f"{key}/x_{view}"]) for view in "ij"]
        loss = method.loss({"feature0": x[0], "feature1": x[1], "index": paddle.arange(len(x[0]))})
        loss["total"].backward()
        near(float(loss["contrast"]), z[f"{key}/contra"])
        near(float(loss["divergence"]), z[f"{key}/kl"])
        near(float(loss["total"]), z[f"{key}/loss"])
        for layer, weight, bias in layers:
            near_gradient(layer.weight.grad.numpy().T, z[f"{key}/d{weight}"])
            near_gradient(layer.bias.grad.numpy(), z[f"{key}/d{bias}"])
        for view, features in zip("ij", x):
            near_gradient(features.grad.numpy(), z[f"{key}/dx_{view}"])
            method.eval()
            p = 1 / (1 + np.exp(-method.code(features).numpy()))
            near(p, z[f"{key}/prob_{view}"])


def build(bits=16, backbone=None, seed=0, **more):
    from models.backbones.build import build_backbone
    paddle.seed(seed)
    return CIBHash(build_backbone(backbone) if backbone else tiny.TinyBackbone(), bits, DataFacts(20, 0),
                   **{"hidden": 16, **more})


def batch_of(n, seed=0):
    return tiny.tensors(tiny.random_batch(CIBHash, n, 20, 1, 0, seed))


def test_contrast_equals_a_plain_loop():
    rng = np.random.default_rng(0)
    z1, z2 = (rng.choice([-1.0, 1.0], (5, 8)) for _ in range(2))
    rows, losses = np.concatenate([z1, z2]) / 8 ** 0.5, []
    for a in range(10):
        e = np.exp(rows @ rows[a] / 0.3)
        losses.append(-np.log(e[(a + 5) % 10] / (e.sum() - e[a])))
    near(float(contrast(leaf(z1), leaf(z2), leaf(z1), leaf(z2), 0, 0.3)), np.mean(losses))


@pytest.mark.parametrize("sample", [False, True])
def test_the_order_of_the_rows_does_not_matter(sample):
    """Thresholds follow the image, so the loss of a batch is that of its rows in any order."""
    method, batch = build(sample=sample), batch_of(8)
    order = np.random.default_rng(1).permutation(8)
    mixed = {key: value[paddle.to_tensor(order)] for key, value in batch.items()}
    assert float(method.loss(batch)["total"]) == pytest.approx(float(method.loss(mixed)["total"]), rel=1e-5)


def test_thresholds_depend_on_seed_step_image_and_view_only():
    method, index = build(sample=True), paddle.to_tensor(np.array([3, 7, 3]))
    one = method.thresholds(index, 0).numpy()
    np.testing.assert_array_equal(one[0], one[2])
    assert one.dtype == np.float32 and 0 <= one.min() and one.max() < 1 and (one[0] != one[1]).all()
    assert (one != method.thresholds(index, 1).numpy()).all()
    method.start_step(1, 9)
    assert (one != method.thresholds(index, 0).numpy()).all()
    method.start_step(0, 9)
    np.testing.assert_array_equal(one, method.thresholds(index, 0).numpy())
    assert (one != build(sample=True, seed=1).thresholds(index, 0).numpy()).any()
    assert "noise_seed" in method.state_dict()
    assert build().thresholds(index, 0) is None and "noise_seed" not in build().state_dict()


def test_a_threshold_is_passed_with_the_probability_of_the_bit():
    method, h = build(bits=2000, sample=True), paddle.to_tensor(np.full((1, 2000), 1.0, "float32"))
    on = (binary_codes(h, method.thresholds(paddle.zeros([1], "int64"), 0)).numpy() > 0).mean()
    assert abs(on - 1 / (1 + np.exp(-1))) < 0.04  # four standard deviations


def test_the_sign_is_that_of_h():
    h = paddle.to_tensor(np.array([[1e-9, -1e-9, 0.0, 1e-30]], "float32"))
    assert np.rint(binary_codes(h).numpy()).tolist() == [[1, -1, 1, 1]]


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("sample", [False, True])
def test_edge_batches_are_finite(n, scale, sample):
    batch = batch_of(n)
    batch = {key: scale * value if key.startswith("image") else value for key, value in batch.items()}
    method = build(sample=sample)
    loss = method.loss(batch)
    assert tiny.all_finite(method, loss)
    assert n > 1 or abs(float(loss["contrast"])) < 1e-6


def test_training_lowers_the_contrast():
    method, batch = build(), batch_of(12)
    batch["image1"] = batch["image0"] + 0.3 * batch["image1"]
    optimizer = paddle.optimizer.Adam(0.01, parameters=method.parameters())
    losses = []
    for _ in range(40):
        total = method(batch)["total"]
        total.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(total))
    assert losses[-1] < 0.5 * losses[0]
