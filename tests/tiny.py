"""Small stand-ins for the tests of the methods: a backbone, batches, comparisons with golden vectors."""
import os
import re

import numpy as np
import paddle
from paddle import nn

from models import METHODS, find_method

SIDE, WIDTH, TOKENS = 6, 10, 4
# the methods under test: all, or one from outside (METHOD=path/to/six.py)
NAMES = [find_method(os.environ["METHOD"]).name] if os.environ.get("METHOD") else list(METHODS)
# each with its defaults, and with the settings that change what is compared with what
CASES = [(name, variant) for name in NAMES for variant in [{}, *METHODS[name].variants]]
IDS = ["-".join([name, *(f"{key}={value}" for key, value in variant.items())]) for name, variant in CASES]


class TinyBackbone(nn.Layer):
    """Pictures [N, 3, 6, 6] -> features [N, 10] or tokens [N, 4, 10]; one linear layer."""

    name = "tiny"
    out_dim = token_dim = WIDTH

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3 * SIDE * SIDE // TOKENS, WIDTH)

    def tokens(self, image):
        return self.linear(image.reshape([image.shape[0], TOKENS, -1]))

    def forward(self, image):
        return nn.functional.relu(self.tokens(image)).mean(axis=1)

    def tail_parameters(self):
        return []


def identity_method(method_class, bits, num_train, num_classes, **hyper):
    """The method with its hash layer's output equal to ``feature0``: golden vectors start at the layer's output."""
    from models.backbones.build import build_backbone
    from models.method import DataFacts
    method = method_class(build_backbone(f"precomputed:{bits}"), bits, DataFacts(num_train, num_classes), **hyper)
    method.hash.weight.set_value(np.eye(bits, dtype="float32"))
    return method


def small(method_class, num_train=0, num_classes=0, bits=16, seed=0, **settings):
    """The method on a TinyBackbone; parameters follow ``seed``."""
    from models.method import DataFacts
    paddle.seed(seed)
    return method_class(TinyBackbone(), bits, DataFacts(num_train, num_classes), **settings)


def random_batch(method_class, n, num_train, num_classes, text_dim, seed):
    """What the loader would give ``method_class`` for n images; float32 arrays."""
    rng = np.random.default_rng(seed)
    batch = {f"image{view}": rng.standard_normal((n, 3, SIDE, SIDE)) for view in range(method_class.views)}
    batch["label"] = rng.random((n, num_classes)) < 0.3
    batch["text"] = rng.random((n, text_dim))
    batch = {key: value.astype("float32") for key, value in batch.items()}
    batch["index"] = rng.permutation(num_train)[:n]
    return batch


def tensors(batch, rows=slice(None)):
    """The rows of a batch of arrays as tensors."""
    return {key: paddle.to_tensor(value[rows]) for key, value in batch.items()}


def spread_codes(method):
    """Some codes start so near 0 that all of them look alike; no way of starting is part of the contract."""
    for parameter in method.head_parameters():
        if parameter.ndim == 2 and float(parameter.std()) < 0.05:
            parameter.set_value(50 * parameter)


def leaf(array, dtype="float32"):
    """A tensor that collects its gradient."""
    return paddle.to_tensor(np.asarray(array, dtype=dtype), stop_gradient=False)


def cases(z, pattern):
    """Distinct key prefixes of a golden file that match a regular expression, sorted; never none."""
    found = sorted({match.group() for match in (re.match(pattern, key) for key in z.files) if match})
    assert found, f"no key matches {pattern}"
    return found


def near(actual, expected, rtol=1e-5, atol=1e-6):
    """Values, with the tolerance of golden/README.md."""
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=rtol, atol=atol)


def near_gradient(actual, expected, tolerance=2e-5):
    """Gradients, relative to the largest entry."""
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=0, atol=tolerance * np.abs(expected).max() + 1e-8)


def all_finite(method, terms):
    """Backward, then: every term and every gradient is finite."""
    terms["total"].backward()
    grads = [p.grad for p in method.parameters() if p.grad is not None]
    return all(bool(paddle.isfinite(t).all()) for t in [*terms.values(), *grads])
