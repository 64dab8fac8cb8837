"""Bi-half against golden vectors; ties, odd batches."""
import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.bihalf import BiHalf, half_split, split_codes
from models.losses import pair_cosines, rebuild_cosines
from tests.tiny import cases, identity_method, leaf, near, near_gradient


def layer_loss(u, gamma):
    return gamma / 2 * ((u - half_split(u)) ** 2).mean()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_golden_layer(golden, dtype):
    z = golden("bihalf")
    for key in cases(z, r"layer/[^/]+(?=/U$)"):
        u, g = leaf(z[f"{key}/U"], dtype), paddle.to_tensor(z[f"{key}/g"].astype(dtype))
        codes = split_codes(u)
        np.testing.assert_array_equal(half_split(u).numpy(), z[f"{key}/B"])
        ((codes * g).sum() + layer_loss(u, float(z[f"{key}/gamma"]))).backward()
        near_gradient(u.grad.numpy(), z[f"{key}/dU"])
        if f"{key}/B_of_two_halves_apart" in z.files:
            half = u.shape[0] // 2
            apart = np.concatenate([half_split(part).numpy() for part in (u[:half], u[half:])])
            np.testing.assert_array_equal(apart, z[f"{key}/B_of_two_halves_apart"])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_golden_loss(golden, dtype):
    z = golden("bihalf")
    for key in cases(z, r"loss/[^/]+(?=/U$)"):
        x, u, gamma = leaf(z[f"{key}/x"], dtype), leaf(z[f"{key}/U"], dtype), float(z[f"{key}/gamma"])
        codes = split_codes(u)
        codes.retain_grads()
        pair = rebuild_cosines(codes, x)
        total = pair + layer_loss(u, gamma)
        total.backward()
        np.testing.assert_array_equal(np.rint(codes.numpy()), z[f"{key}/B"])
        near(pair_cosines(codes).numpy(), z[f"{key}/target_b"])
        near(pair_cosines(x).numpy(), z[f"{key}/target_x"])
        near(float(pair), z[f"{key}/loss"])
        near(float(total), z[f"{key}/explicit_total"])
        wanted = z[f"{key}/dB"]  # 0 for two rows, whose cosine is -1 whatever the network does
        np.testing.assert_allclose(codes.grad.numpy(), wanted, rtol=0, atol=2e-5 * np.abs(wanted).max() + 1e-7)
        near_gradient(u.grad.numpy(), z[f"{key}/dU"])


def test_the_method_is_these_formulas():
    rows = np.random.default_rng(0).standard_normal((6, 8)).astype("float32")
    method = identity_method(BiHalf, 8, 0, 0, gamma=2.0)
    terms = method.loss({"feature0": paddle.to_tensor(rows)})
    u = leaf(rows)
    near(float(terms["total"]), float(rebuild_cosines(split_codes(u), u) + layer_loss(u, 2.0)))
    assert list(terms) == ["total", "pair", "distance"]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.integers(0, 3))
def test_half_of_every_bit_and_ties_by_row(n, seed):
    u = np.random.default_rng(seed).integers(0, 3, (n, 4)).astype("float32")
    codes = half_split(paddle.to_tensor(u)).numpy()
    assert ((codes == 1).sum(axis=0) == n // 2).all()
    order = np.argsort(-u, axis=0, kind="stable")
    np.testing.assert_array_equal(np.take_along_axis(codes, order, 0) == 1, np.arange(n)[:, None].repeat(4, 1) < n // 2)
