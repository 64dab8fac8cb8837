"""Fixed targets of the classes: Hadamard rows, random rows, and the figures that are logged."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.targets import centres, codebook, describe_targets, hadamard_rows, target_figures
from tests.tiny import cases


def rng(seed=0):
    return np.random.default_rng(seed)


def sizes(z, pattern):
    """(targets of the golden file, bits, classes) of the keys that match."""
    for key in cases(z, pattern + r"/\d+x\d+(?!\d|_)"):
        if z[key].ndim == 2:
            yield z[key].astype(int), z[key].shape[1], z[key].shape[0]


def test_reference_order_is_that_of_the_public_codes(golden):
    for target, bits, classes in sizes(golden("csq"), "targets/deephash"):
        ours = centres(bits, classes, rng(), "rows")
        fixed = min(classes, 2 * bits)
        np.testing.assert_array_equal(ours[:fixed], target[:fixed])
        # random rows: no worse than the public draw
        assert (ours.sum(axis=1)[fixed:] == 0).all()
        assert target_figures(ours)["smallest"] >= target_figures(target)["smallest"]


def test_random_rows_have_the_wanted_distances(golden):
    for target, bits, classes in sizes(golden("csq"), "targets/tutorial_random"):
        ours = centres(bits, classes, rng())
        np.testing.assert_array_equal((ours == -1).sum(axis=1), round(bits / 2))
        figures, theirs = target_figures(ours), target_figures(target)
        assert figures["smallest"] > bits // 4 and figures["mean"] >= bits / 2
        assert theirs["smallest"] >= 20 / 64 * bits and theirs["mean"] >= bits / 2


@pytest.mark.parametrize("kind", ["bernoulli", "maxhd"])
def test_codebooks_are_as_far_apart_as_the_public_ones(golden, kind):
    for target, bits, classes in sizes(golden("orthohash"), f"codebook/{kind}"):
        ours = [target_figures(codebook(bits, classes, rng(seed), kind)) for seed in range(5)]
        theirs = target_figures(target)
        assert min(each["smallest"] for each in ours) <= theirs["smallest"] + 3
        assert max(each["smallest"] for each in ours) >= theirs["smallest"] - 1
        assert abs(np.mean([each["mean"] for each in ours]) - theirs["mean"]) < 0.05 * bits


def test_the_hadamard_codebook_is_in_the_reference_order():
    np.testing.assert_array_equal(codebook(16, 10, rng(), "hadamard"), hadamard_rows(16, "rows")[:10])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 7), st.data())
def test_hadamard_rows_are_half_the_bits_apart(digits, data):
    bits = 1 << digits
    classes = data.draw(st.integers(1, 2 * bits))
    rows = centres(bits, classes, rng(), data.draw(st.sampled_from(["spread", "rows"]))).astype(int)
    products = rows @ rows.T - bits * np.eye(classes, dtype=int)
    assert rows.shape == (classes, bits) and set(np.unique(np.abs(rows))) == {1}
    assert ((products == 0) | (products == -bits)).all()


@pytest.mark.parametrize("bits", [8, 16, 32, 64, 128])
def test_spread_rows_waste_no_bit(bits):
    """From log2 K + 2 classes on; the public order has 2^ceil(log2 C) different bits, one of them constant."""
    for classes in range(bits.bit_length() + 1, bits + 1):
        figures = target_figures(centres(bits, classes, rng()))
        assert (figures["constant"], figures["repeated"]) == (0, 0), classes
        plain = target_figures(centres(bits, classes, rng(), "rows"))
        distinct = min(bits, 1 << (classes - 1).bit_length())
        assert plain["constant"] == bits // distinct and plain["repeated"] >= bits - plain["constant"] - distinct


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 30), st.sampled_from(["centres", "bernoulli", "maxhd", "hadamard"]))
def test_any_length_and_number_of_classes(bits, classes, kind):
    def make():
        return centres(bits, classes, rng(3)) if kind == "centres" else codebook(bits, classes, rng(3), kind)
    rows = make()
    assert rows.shape == (classes, bits) and rows.dtype == np.int8 and (np.abs(rows) == 1).all()
    np.testing.assert_array_equal(rows, make())
    line = describe_targets(rows)
    assert ("equal targets" in line) == (len(np.unique(rows, axis=0)) < classes) and "\n" not in line


def test_figures_equal_a_plain_count():
    targets = np.array([[1, 1, -1, 1, -1], [1, -1, -1, 1, 1], [1, 1, -1, -1, -1]])
    figures = target_figures(targets)  # bits 0 and 2 are constant, bit 4 is the opposite of bit 1
    assert figures == {"smallest": 1, "mean": (2 + 1 + 3) / 3, "constant": 2, "repeated": 1}
    assert "no rows at least 2 bits apart" in describe_targets(targets, wanted=2)
    assert target_figures(targets[:1]) == {"smallest": 5, "mean": 5.0, "constant": 5, "repeated": 0}
