"""CSQ against golden vectors; ties, rows without label, large outputs."""
import numpy as np
import paddle
import pytest

from models.csq import CSQ, centre_loss, image_centres, quantization_loss
from models.losses import label_shares, labelled_mean, negative_log_likelihood, share_a_label
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


def arrays(z, key, *names):
    return [np.asarray(z[f"{key}/{name}"], dtype="float64") for name in names]


def first_label(label):
    """Only the lowest-numbered label of each row, as public codes see multi-hot labels on most sets."""
    return label_shares(paddle.to_tensor(label), first=True).numpy()


def centre_of(z, key, tie="vector"):
    """(labels as the case means them, centre [B, K])."""
    label, targets, vector = arrays(z, key, "label", "targets", "tie_center")
    label = first_label(label) if "taken_as_single" in key else label
    pick = paddle.to_tensor(vector) if tie == "vector" else paddle.to_tensor(first_label(label) @ targets)
    return label, image_centres(paddle.to_tensor(label), paddle.to_tensor(targets), pick).numpy()


def test_golden_centres(golden):
    z = golden("csq")
    for key in cases(z, r"(authors|deephash)/.*(?=/label$)"):
        np.testing.assert_array_equal(centre_of(z, key)[1], z[f"{key}/center"])
        if f"{key}/center_tie_first_label" in z.files:
            np.testing.assert_array_equal(centre_of(z, key, "first_label")[1], z[f"{key}/center_tie_first_label"])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind, loss_name, gradient_name", [("square", "stable_loss", "stable_du"),
                                                            ("log_cosh", None, "paper_du")])
def test_golden_losses_of_raw_outputs(golden, dtype, kind, loss_name, gradient_name):
    z = golden("csq")
    for key in cases(z, r"deephash/.*(?=/u$)"):
        u, centre, lamda = leaf(z[f"{key}/u"], dtype), leaf(z[f"{key}/center"], dtype), float(z[f"{key}/lambda"])
        parts = centre_loss(u, centre).mean(), quantization_loss(paddle.tanh(u), kind).mean()
        total = parts[0] + lamda * parts[1]
        total.backward()
        near(float(parts[1]), z[f"{key}/{'quant' if kind == 'square' else 'paper_quant'}"])
        if "large" not in key:  # there the reference clamps its logarithms
            near(float(parts[0]), z[f"{key}/center_loss"])
        if loss_name:
            near(float(total), z[f"{key}/{loss_name}"])
        near_gradient(u.grad.numpy(), z[f"{key}/{gradient_name}"])


def test_golden_losses_of_the_authors(golden):
    """They start at y = tanh(u), and may add a pair term, which is not ours: it is added here by its own formula."""
    z = golden("csq")
    for key in cases(z, r"authors/.*(?=/y$)"):
        lamda0, lamda1, lamda2 = (float(z[f"{key}/lambda{i}"]) for i in range(3))
        y, centre = leaf(z[f"{key}/y"], "float64"), leaf(z[f"{key}/center"], "float64")
        u = 0.5 * (paddle.log1p(y) - paddle.log1p(-y))
        parts = centre_loss(u, centre).mean(), quantization_loss(y).mean()
        near(float(parts[0]), z[f"{key}/center_loss"])
        near(float(parts[1]), z[f"{key}/quant"])
        total = lamda0 * parts[0] + lamda2 * parts[1]
        if lamda1:
            half, label = y.shape[0] // 2, paddle.to_tensor(z[f"{key}/label"].astype("float32"))
            d = 10 / y.shape[1] * paddle.matmul(y[:half], y[half:], transpose_y=True)
            pair = negative_log_likelihood(d, share_a_label(label[:half], label[half:]).astype("float64")).mean()
            near(float(pair), z[f"{key}/pair"])
            total = total + lamda1 * pair
        total.backward()
        near(float(total), z[f"{key}/loss"])
        near_gradient(y.grad.numpy(), z[f"{key}/dy"])


@pytest.mark.parametrize("tie", ["vector", "first_label"])
def test_the_method_is_these_formulas(golden, tie):
    """From cached features to the total, rows without label left out."""
    z = golden("csq")
    for key in cases(z, r"deephash/.*(?=/u$)"):
        label, centre = centre_of(z, key, tie)
        bits, lamda = z[f"{key}/u"].shape[1], float(z[f"{key}/lambda"])
        method = identity_method(CSQ, bits, 0, label.shape[1], lamda=lamda, tie=tie)
        method.targets.set_value(z[f"{key}/targets"].astype("float32"))
        method.tie_bits.set_value(z[f"{key}/tie_center"].astype("float32"))
        terms = method.loss({"feature0": paddle.to_tensor(z[f"{key}/u"]), "label": leaf(label)})
        u, centre = leaf(z[f"{key}/u"], "float64"), paddle.to_tensor(centre)
        rows = centre_loss(u, centre) + lamda * quantization_loss(paddle.tanh(u))
        near(float(terms["total"]), rows.numpy()[label.sum(1) > 0].mean())
        assert list(terms) == ["total", "centre", "quantization"]


def test_rows_without_label_add_nothing():
    values, labels = leaf([1.0, 100.0, 3.0]), leaf([[1, 0], [0, 0], [1, 1]])
    loss = labelled_mean(values, labels)
    loss.backward()
    assert float(loss) == 2 and values.grad.numpy().tolist() == [0.5, 0, 0.5]
    assert float(labelled_mean(values, leaf(np.zeros((3, 2))))) == 0


def test_one_ulp_below_one_has_the_true_gradient(golden):
    """The coded form has 931 where the true gradient is 0.03."""
    z = golden("csq")
    key, = cases(z, r"deephash/edge_large_u(?=/f32_du)")
    u = leaf(z[f"{key}/u"])
    centre_loss(u, leaf(z[f"{key}/center"])).mean().backward()
    assert np.abs(z[f"{key}/f32_du"]).max() > 100 > 1 > np.abs(u.grad.numpy()).max()


def build(seed=0, bits=16, classes=6, **more):
    return small(CSQ, 20, classes, bits, seed, **more)


def test_targets_and_tie_vector_follow_the_seed_and_are_saved():
    one, same, other = build(), build(), build(1)
    saved = one.state_dict()
    assert all(key in saved for key in ("targets", "tie_bits"))
    np.testing.assert_array_equal(one.tie_bits.numpy(), same.tie_bits.numpy())
    assert (one.tie_bits.numpy() != other.tie_bits.numpy()).any()
    assert one.fingerprint({}) == same.fingerprint({})
    same.tie_bits.set_value(-same.tie_bits)  # for training only
    assert one.fingerprint({}) == same.fingerprint({})


def test_the_log_names_wasted_bits():
    line, = build(bits=64, classes=10, target_order="rows").describe()
    assert "distance at least 32" in line and "4 constant bits, 45 that repeat others" in line
    line, = build(bits=64, classes=10).describe()
    assert "0 constant bits, 0 that repeat others" in line


@pytest.mark.parametrize("more", [{}, {"head": "deep"}, {"quantize": "log_cosh", "tie": "first_label"}])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_edge_batches_are_finite(more, n):
    batch = tensors(random_batch(CSQ, n, 20, 6, 0, 0))
    for labels in (batch["label"], paddle.zeros_like(batch["label"]), paddle.ones_like(batch["label"])):
        method = build(**more)
        method.hash.weight.set_value(1e4 * method.hash.weight)
        assert all_finite(method, method.loss({**batch, "label": labels}))


def test_dropout_only_while_training():
    method = build(head="deep")
    image = paddle.randn([3, 3, 6, 6])
    assert (method.encode(image).numpy() != method.encode(image).numpy()).any()
    method.eval()
    np.testing.assert_array_equal(method.encode(image).numpy(), method.encode(image).numpy())
