"""What the methods that learn from labelled pairs share: the likelihood of a pair and the memory bank."""
import paddle
from paddle import nn

from models.functional import softplus
from utils.distributed import gather
from utils.errors import InputError


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
    loss = softplus(d) - s * d
    if linear_above is not None:
        loss = paddle.where(d > linear_above, d * (1 - s), loss)
    return loss


def hash_layer(width, bits):
    """Linear [width -> bits] with weight N(0, 0.01) and bias 0, as the authors of HashNet and DHN start it."""
    return nn.Linear(width, bits, weight_attr=nn.initializer.Normal(0.0, 0.01),
                     bias_attr=nn.initializer.Constant(0.0))


def check_choice(name, value, choices):
    """Raise InputError unless the hyperparameter ``name`` has one of the choices."""
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(choices)}, not {value!r}")


def check_labels(method, num_classes):
    """Raise InputError for a supervised method on a data set without labels."""
    if not num_classes:
        raise InputError(f"method {method} learns from labels, and this data set has none")


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
