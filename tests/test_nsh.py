"""NSH against golden vectors and naive loops; the five faults of the public code, which ours must not have."""
import math

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.nsh import NSH, descending_order, similarity, soft_sort, sorted_cosine, sorted_nce
from tests.tiny import all_finite, cases, leaf, near, near_gradient, random_batch, small, tensors
from utils.errors import InputError

CODES, LATENTS = ("b1", "b2"), ("z1", "z2")


def nsh_loss(b1, b2, z1, z2, tau, tau_sort, positives=2, power=1.0, hard=False):
    return sorted_nce(sorted_cosine(soft_sort(similarity(b1, b2), tau_sort, power, hard), z1, z2), tau, positives)


def random_inputs(n=8, bits=12, dim=5, seed=0, binary=True):
    rng = np.random.default_rng(seed)
    codes = [rng.standard_normal((n, bits)) for _ in range(2)]
    codes = [np.where(c >= 0, 1.0, -1.0) if binary else np.tanh(c) for c in codes]
    return (*codes, *(rng.standard_normal((n, dim)) for _ in range(2)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_golden(golden, dtype):
    z = golden("nsh")
    tolerance = {"float32": 1.0, "float64": 1e-4}[dtype]
    for key in cases(z, r"[^/]+(?=/(soft|hard)/)"):
        tau, tau_sort, power = (float(z[f"{key}/{name}"]) for name in ("tau", "tau_sort", "pow"))
        for mode in ("soft", "hard"):
            x = {name: leaf(z[f"{key}/{name}"], dtype) for name in CODES + LATENTS}
            s = similarity(x["b1"], x["b2"])
            p = soft_sort(s, tau_sort, power, hard=mode == "hard")
            c = sorted_cosine(p, x["z1"], x["z2"])
            loss = sorted_nce(c, tau, int(z[f"{key}/m"]))
            loss.backward()
            near(s.numpy(), z[f"{key}/s"], rtol=1e-5 * tolerance, atol=1e-6 * tolerance)
            near(p.numpy(), z[f"{key}/{mode}/P"], rtol=1e-5 * tolerance, atol=1e-6 * tolerance)
            near(paddle.matmul(p, x["z1"]).numpy(), z[f"{key}/{mode}/E"], rtol=1e-5 * tolerance, atol=1e-6 * tolerance)
            near(c.numpy(), z[f"{key}/{mode}/cos"], rtol=1e-5 * tolerance, atol=1e-6 * tolerance)
            near(float(loss), z[f"{key}/{mode}/loss"], rtol=1e-5 * tolerance, atol=1e-6 * tolerance)
            for name in x:
                near_gradient(x[name].grad.numpy(), z[f"{key}/{mode}/d{name}"], 2e-5 * tolerance)


def naive_loss(b1, b2, z1, z2, tau, tau_sort, positives, power, hard):
    """The equations of models/nsh.py with loops, in float64."""
    n, total = len(b1), 0.0
    for a in range(n):
        s = [float(b1[a] @ b2[j]) / (2 * b1.shape[1]) + 0.5 for j in range(n)]
        cosines = []
        for place in sorted(s, reverse=True):
            gaps = [abs(value - place) for value in s]
            weights = [math.exp(-gap ** power / tau_sort) for gap in gaps]
            if hard:
                weights = [float(j == gaps.index(min(gaps))) for j in range(n)]
            e = sum(w / sum(weights) * z1[j] for j, w in enumerate(weights))
            cosines.append(float(e @ z2[a]) / (np.linalg.norm(e) * np.linalg.norm(z2[a])))
        rest = sum(math.exp(c / tau) for c in cosines[positives:])
        total -= sum(math.log(math.exp(c / tau) / (math.exp(c / tau) + rest)) for c in cosines[:positives])
    return total / (n * positives)


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("positives, power", [(1, 1.0), (2, 2.0), (3, 1.5)])
def test_equals_naive_loops(hard, binary, positives, power):
    arrays = random_inputs(binary=binary)
    ours = nsh_loss(*map(paddle.to_tensor, arrays), 0.3, 0.1, positives, power, hard)
    near(float(ours), naive_loss(*arrays, 0.3, 0.1, positives, power, hard), rtol=1e-9)


def test_gradient_equals_finite_differences():
    arrays = random_inputs(n=5, bits=6, dim=3, binary=False)
    leaves = [leaf(a, "float64") for a in arrays]
    nsh_loss(*leaves, 0.3, 0.1).backward()
    for which, array in enumerate(arrays):
        for at in [(0, 0), (2, 1), (4, 2)]:
            values = []
            for side in (1e-6, -1e-6):
                moved = [a.copy() for a in arrays]
                moved[which][at] += side
                values.append(float(nsh_loss(*map(paddle.to_tensor, moved), 0.3, 0.1)))
            near(leaves[which].grad.numpy()[at], (values[0] - values[1]) / 2e-6, rtol=1e-5, atol=1e-8)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=4))
def test_order_is_the_stable_descending_one(rows):
    s = np.array(rows, dtype="float32") / 3
    np.testing.assert_array_equal(descending_order(paddle.to_tensor(s)).numpy(), np.argsort(-s, axis=1, kind="stable"))


def test_cold_soft_sort_is_the_sort():
    s = np.random.default_rng(0).permutation(40).reshape(4, 10).astype("float32") / 40
    p = soft_sort(paddle.to_tensor(s), 1e-4)
    near(p.sum(axis=-1).numpy(), np.ones((4, 10)))
    near(paddle.matmul(p, paddle.to_tensor(s).unsqueeze(2)).squeeze(2).numpy(), -np.sort(-s, axis=1))


def test_hard_sort_separates_gaps_that_the_weights_can_not():
    s = paddle.to_tensor(np.array([[0.5, 0.5 + 1e-4, 0.5 - 1e-4]], dtype="float32"))
    assert (soft_sort(s, 0.1, power=2.0).numpy() == np.float32(1 / 3)).any()  # 1e-8 / 0.1 vanishes beside 1
    assert soft_sort(s, 0.1, power=2.0, hard=True).numpy().argmax(-1).tolist() == [[1, 0, 2]]


# the five faults ---------------------------------------------------------------------------
def double_softmax(c, tau, positives):
    """What the public code optimises: cross-entropy (softmax inside) of probabilities. [n, positives]"""
    losses = []
    for i in range(positives):
        v = np.concatenate([c[:, i:i + 1], c[:, positives:]], axis=1) / tau
        q = np.exp(v - v.max(1, keepdims=True))
        q /= q.sum(1, keepdims=True)
        losses.append(-q[:, 0] + np.log(np.exp(q).sum(1)))
    return np.stack(losses, axis=1)


def test_fault_1_softmax_twice(golden):
    z = golden("nsh")
    for key in cases(z, r"[^/]+/(soft|hard)(?=/)"):
        case = key.split("/")[0]
        c, tau, positives = z[f"{key}/cos"], float(z[f"{case}/tau"]), int(z[f"{case}/m"])
        buggy = double_softmax(c, tau, positives)
        near(buggy, z[f"{key}/buggy_ce"], rtol=1e-9)  # this is the fault, exactly
        ours = [[float(sorted_nce(paddle.to_tensor(np.concatenate([row[i:i + 1], row[positives:]])[None]), tau, 1))
                 for i in range(positives)] for row in c]
        near(np.mean(ours), z[f"{key}/loss"])
        assert np.abs(buggy - ours).max() > 0.1
    n, positives, tau = 20, 2, 0.1
    perfect = np.full((n, n), -1.0)
    perfect[:, :positives] = 1
    floor = math.log(1 + (n - positives) / math.e)  # the faulty loss stays in [floor, floor + 1]
    assert double_softmax(perfect, tau, positives).min() >= floor - 1e-9 > 1
    assert float(sorted_nce(paddle.to_tensor(perfect), tau, positives)) < 1e-6
    assert float(sorted_nce(paddle.to_tensor(-perfect), tau, positives)) > 2 / tau > floor + 1
    c, gradient = leaf(np.zeros((n, n)), "float64"), []
    sorted_nce(c, tau, positives).backward()
    for side in (1e-5, -1e-5):
        moved = np.zeros((n, n))
        moved[0, 0] += side
        gradient.append(double_softmax(moved, tau, positives).mean())
    assert abs(c.grad.numpy()[0, 0]) > 10 * abs(gradient[0] - gradient[1]) / 2e-5


def test_fault_2_divided_by_the_batch_twice(golden):
    z = golden("nsh")
    for key in cases(z, r"[^/]+/(soft|hard)(?=/)"):
        n = z[f"{key}/cos"].shape[0]
        near(z[f"{key}/buggy_value"], z[f"{key}/buggy_ce"].mean() / n, rtol=1e-9)  # this is the fault, exactly
    c = np.random.default_rng(0).uniform(-1, 1, (6, 9))
    once = float(sorted_nce(paddle.to_tensor(c), 0.1, 2))
    twice_as_many = float(sorted_nce(paddle.to_tensor(np.concatenate([c, c])), 0.1, 2))
    assert once == pytest.approx(twice_as_many)  # a mean over anchors; the fault halves it


def small_nsh(bits=16, **hyper):
    return small(NSH, bits=bits, **{"hidden": 16, "z_dim": 8, **hyper})


def test_fault_3_one_image_as_both_views():
    method, batch = small_nsh(), tensors(random_batch(NSH, 8, 8, 1, 0, 0))
    same = float(method.loss({**batch, "image1": batch["image0"]})["contrast"])
    assert abs(float(method.loss(batch)["contrast"]) - same) > 1e-3
    for name in ("image0", "image1"):
        batch[name].stop_gradient = False
    method.loss(batch)["contrast"].backward()
    assert all(float(batch[name].grad.abs().sum()) > 0 for name in ("image0", "image1"))
    assert NSH.views == 2


def test_fault_4_sign_without_straight_through():
    method, batch = small_nsh(lamda=0.0), tensors(random_batch(NSH, 8, 8, 1, 0, 0))
    method.loss(batch)["total"].backward()
    assert float(method.hash.weight.grad.abs().max()) > 1e-6
    codes = [leaf(a) for a in random_inputs()[:2]]
    z1, z2 = map(paddle.to_tensor, random_inputs()[2:])
    nsh_loss(*(paddle.sign(b) for b in codes), z1.astype("float32"), z2.astype("float32"), 0.1, 0.1).backward()
    assert float(codes[0].grad.abs().max()) == 0  # the fault: the codes learn nothing


def test_the_loss_sees_binary_codes():
    method, batch = small_nsh(lamda=0.0), tensors(random_batch(NSH, 8, 8, 1, 0, 0))
    before = float(method.loss(batch)["contrast"])
    method.hash.weight.set_value(method.hash.weight * 3)  # tanh(h) changes, its sign does not
    assert float(method.loss(batch)["contrast"]) == pytest.approx(before, rel=1e-6)


def test_gradient_reaches_both_views_of_codes_and_latents():
    method, batch = small_nsh(lamda=0.0), tensors(random_batch(NSH, 8, 8, 1, 0, 0))
    method.loss(batch)["total"].backward()
    trunks = [method.trunk(method.backbone(batch[f"image{view}"])).detach() for view in range(2)]
    u = [leaf(np.tanh(method.hash(t).numpy())) for t in trunks]
    b = [leaf(np.where(x.numpy() >= 0, 1, -1)) for x in u]
    z = [leaf(method.latent(t).numpy()) for t in trunks]
    nsh_loss(*b, *z, 0.1, 0.1).backward()
    # straight through the sign, then tanh and the layer, by hand
    through_hash = sum(t.T @ (g.grad * (1 - x * x)) for t, g, x in zip(trunks, b, u))
    through_latent = sum(t.T @ g.grad for t, g in zip(trunks, z))
    near_gradient(method.hash.weight.grad.numpy(), through_hash.numpy())
    near_gradient(method.latent.weight.grad.numpy(), through_latent.numpy())


def test_fault_5_sort_temperature_of_the_code_length():
    bits, n = 16, 12
    b1, b2, _, _ = random_inputs(n=n, bits=bits)
    s = similarity(paddle.to_tensor(b1), paddle.to_tensor(b2))
    assert 0 <= float(s.min()) and float(s.max()) <= 1
    near(s.numpy(), 1 - (b1[:, None] != b2[None]).mean(-1), rtol=1e-9)
    uniform = soft_sort(s, float(bits)).numpy()
    assert np.abs(uniform * n - 1).max() < 0.07  # the fault: nothing is sorted
    default = NSH.settings["tau_sort"].default
    places = (soft_sort(s, default) * s.unsqueeze(1)).sum(-1).numpy()
    assert (np.diff(places, axis=1) <= 1e-12).all()  # soft i-th largest: falls with i
    assert (places[:, 0] - places[:, -1]).min() > 10 * np.ptp((uniform * s.numpy()[:, None]).sum(-1), axis=1).max()


# edges -------------------------------------------------------------------------------------
@pytest.mark.parametrize("hyper", [{}, {"hard": True}, {"pow": 2.0}, {"positives": 6}])
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_edge_batches_are_finite(hyper, n):
    for constant in (False, True):
        method, batch = small_nsh(**hyper), tensors(random_batch(NSH, n, 8, 1, 0, 0))
        if constant:  # equal latents: zero ones even, as every bias starts at 0
            batch = {key: paddle.zeros_like(value) for key, value in batch.items()}
        terms = method.loss(batch)
        assert all_finite(method, terms)
        assert n > 1 or float(terms["contrast"]) == 0  # a single image has nothing to be sorted


def test_short_batches_keep_one_negative():
    c = paddle.to_tensor(np.random.default_rng(0).uniform(-1, 1, (3, 3)))
    near(float(sorted_nce(c, 0.1, 5)), float(sorted_nce(c, 0.1, 2)))


def test_extreme_temperatures_are_finite():
    leaves = [leaf(a) for a in random_inputs()]
    loss = nsh_loss(*leaves, 1e-3, 1e-6)
    loss.backward()
    assert np.isfinite(float(loss)) and all(np.isfinite(t.grad.numpy()).all() for t in leaves)


def test_terms_labels_and_code():
    method, batch = small_nsh(lamda=0.3), tensors(random_batch(NSH, 6, 8, 3, 0, 0))
    terms = method.loss(batch)
    near(float(terms["total"]), float(terms["contrast"]) + 0.3 * float(terms["quantization"]))
    u = [method.encode(batch[f"image{view}"]).numpy() for view in range(2)]
    near(float(terms["quantization"]), np.mean([(1 - np.abs(x)) ** 2 for x in u]))
    without = {key: value for key, value in batch.items() if key != "label"}
    assert float(method.loss(without)["total"]) == float(terms["total"])  # labels are not looked at


def test_training_lowers_the_loss():
    method, batch = small_nsh(), tensors(random_batch(NSH, 12, 12, 1, 0, 0))
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


@pytest.mark.parametrize("wrong", [{"tau": 0.0}, {"tau_sort": -1.0}, {"positives": 0}, {"pow": 0.5}, {"z_dim": 0},
                                   {"hidden": 0}, {"lamda": -1.0}])
def test_wrong_settings_are_named(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        small(NSH, 4, **wrong)
