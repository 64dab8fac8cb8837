"""Small formulas that several methods share. Pure functions of tensors, safe for any finite input."""
import paddle


def softplus(x):
    """log(1 + exp(x)) as max(x, 0) + log(1 + exp(-|x|)): no overflow, and slope 1/2 at x = 0.

    max(x, 0) is written (x + |x|) / 2, whose slope at 0 is the smooth function's 1/2 on every Paddle
    version (``maximum`` has 0 or 1/2, ``relu`` 0, ``clip`` 1 there).

    Args:
        x: float tensor of any shape.
    """
    size = paddle.abs(x)
    return 0.5 * (x + size) + paddle.log1p(paddle.exp(-size))


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
