"""Formulas and layers that several papers share. Safe for any finite input."""
import math

import numpy as np
import paddle
from paddle import nn

from utils.training.distributed import gather, world_size


def log_cosh(x):
    """log(cosh(x)) as |x| + log((1 + exp(-2|x|)) / 2): no overflow, exactly 0 at 0.

    Args:
        x: float tensor of any shape.
    """
    size = paddle.abs(x)
    return size + paddle.log1p(0.5 * paddle.expm1(-2 * size))


def sign(x):
    """+1 where x >= 0, else -1 (zero counts as +1 everywhere in this project); no gradient.

    Args:
        x: float tensor of any shape.
    """
    return paddle.where(x >= 0, paddle.ones_like(x), -paddle.ones_like(x)).detach()


def sign_ste(x):
    """``sign`` with the straight-through estimator: the value is the sign, the gradient that of x.

    Args:
        x: float tensor of any shape.
    """
    return x + (sign(x) - x).detach()


def l2_normalize(x, axis=-1, epsilon=1e-12):
    """Rows divided by max(norm, epsilon).

    A row shorter than epsilon has no direction: it gets no gradient (the plain formula gives 1 / epsilon,
    which would end the training), so a zero vector has cosine 0 with everything.

    Args:
        x: float tensor.
        axis: the axis of the vectors.
        epsilon: the smallest norm that is divided by.
    """
    squared = (x * x).sum(axis=axis, keepdim=True)
    long = squared > epsilon * epsilon
    norm = paddle.sqrt(paddle.where(long, squared, paddle.ones_like(squared)))
    return paddle.where(long.expand_as(x), x / norm, x.detach() / epsilon)


def share_a_label(a, b):
    """S_ij = 1 where rows i and j have a label in common, else 0.

    Args:
        a: multi-hot labels float32 [N, C].
        b: multi-hot labels float32 [M, C].

    Returns:
        float32 [N, M] of 0 and 1, no gradient.
    """
    return (paddle.matmul(a, b, transpose_y=True) > 0).astype("float32").detach()


def labelled_mean(values, labels):
    """Mean of a loss over the rows of all ranks that have a label; 0 where there is none.

    Args:
        values: the loss of each row of this rank, [n].
        labels: multi-hot labels float32 [n, C].

    Returns:
        Scalar; its mean over ranks is that of the global batch.
    """
    has = (labels.sum(axis=1) > 0).astype(values.dtype)
    count = gather(has.sum().reshape([1])).sum() / world_size()
    return (has * values).sum() / paddle.where(count > 0, count, paddle.ones_like(count))


def label_shares(labels, first=False):
    """Soft targets: each label of a row gets the same share of 1; a row without label stays 0.

    Args:
        labels: multi-hot labels float32 [n, C].
        first: the lowest-numbered label gets it all.
    """
    if first:
        return labels * (paddle.cumsum(labels, axis=1) == 1).astype(labels.dtype)
    return labels / paddle.clip(labels.sum(axis=1, keepdim=True), min=1)


def cross_entropy(logits, shares):
    """Cross-entropy of each row, [n]. (Paddle's soft-label function takes for granted that ``shares`` sum to 1.)

    Args:
        logits: [n, C].
        shares: targets [n, C].
    """
    return -(shares * nn.functional.log_softmax(logits, axis=1)).sum(axis=1)


def pair_cosines(x):
    """Cosines of rows i and i + n // 2, for i < n // 2; of an odd number of rows the last has no partner.

    Args:
        x: [n, D].

    Returns:
        [n // 2].
    """
    half, x = x.shape[0] // 2, l2_normalize(x)
    return (x[:half] * x[half:2 * half]).sum(axis=1)


def rebuild_cosines(codes, features):
    """Mean squared difference of the pair cosines of codes and features; 0 where a row is alone.

    Rows are paired over the whole batch, so both must have been gathered from all ranks.

    Args:
        codes: [n, K].
        features: [n, D]; constants.
    """
    if codes.shape[0] < 2:
        return 0 * codes.sum()
    return ((pair_cosines(codes) - pair_cosines(features.detach())) ** 2).mean()


def negative_log_likelihood(d, s, linear_above=None):
    """-log P(s | d) for P(s = 1 | d) = sigmoid(d), i.e. log(1 + exp(d)) - s d, without overflow.

    Args:
        d: logits float [N, M].
        s: similarity, 0 or 1, [N, M].
        linear_above: where d exceeds it, use d (1 - s) instead, which differs by exp(-d) at most (the
            guard of the HashNet authors; 15 there).

    Returns:
        [N, M]
    """
    loss = nn.functional.softplus(d) - s * d
    if linear_above is not None:
        loss = paddle.where(d > linear_above, d * (1 - s), loss)
    return loss


def hash_layer(width, bits, bias=True):
    """Linear [width -> bits] with weight N(0, 0.01) and bias 0, as the authors of HashNet and DHN start it."""
    return nn.Linear(width, bits, weight_attr=nn.initializer.Normal(0.0, 0.01),
                     bias_attr=nn.initializer.Constant(0.0) if bias else False)


def torch_linear(inputs, outputs, bias=True):
    """Linear layer with torch's default start: weights and biases uniform in +-1/sqrt(inputs)."""
    bound = 1.0 / math.sqrt(inputs)
    return nn.Linear(inputs, outputs, weight_attr=nn.initializer.Uniform(-bound, bound),
                     bias_attr=nn.initializer.Uniform(-bound, bound) if bias else False)


def numpy_generator():
    """A numpy Generator that follows ``paddle.seed`` as the layers' first weights do: the same on every rank."""
    return np.random.default_rng(int(paddle.randint(0, 2 ** 31 - 1, [1])))


class Bank(nn.Layer):
    """The latest code and the labels of every training image; constants for the loss.

    Buffers: ``codes`` float32 [num_train, bits] and ``labels`` float32 [num_train, num_classes], zero until
    the image was seen. All ranks hold the same bank: 4 (bits + num_classes) num_train bytes each.
    """

    def __init__(self, num_train, bits, num_classes):
        super().__init__()
        self.register_buffer("codes", paddle.zeros([num_train, bits]))
        self.register_buffer("labels", paddle.zeros([num_train, num_classes]))

    @paddle.no_grad()
    def write(self, index, codes, labels):
        """Store the rows of all ranks. An index that occurs twice keeps its last row (on any device).

        Args:
            index: int64 [n], position in the training split.
            codes: [n, bits]; the values are stored, not their graph.
            labels: [n, num_classes].
        """
        index, codes, labels = gather(index), gather(codes.detach()), gather(labels)
        # every occurrence of an index writes the last one's row: the order of writing does not matter
        same = (index.unsqueeze(1) == index.unsqueeze(0)).astype("int64")
        last = (same * paddle.arange(index.shape[0], dtype="int64")).max(axis=1)
        for bank, rows in ((self.codes, codes), (self.labels, labels)):
            bank.set_value(paddle.scatter(bank, index, paddle.index_select(rows, last).astype(bank.dtype)))
