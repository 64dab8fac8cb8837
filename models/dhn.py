"""DHN: Deep Hashing Network for Efficient Similarity Retrieval (Zhu, Long, Wang, Cao; AAAI 2016).

Two terms on the codes u = tanh(h): the likelihood of the pairs, P(s_ij = 1) = sigmoid(theta_ij) with
theta_ij = <u_i, u_j> / 2, and a smooth distance of every component to +1 or -1:

    L = mean_ij [ log(1 + exp(theta_ij)) - s_ij theta_ij ],   Q = mean_ik log cosh(|u_ik| - 1),   L + lamda Q

Defaults are these equations, over the pairs of the batch, i = j included, with lamda 1. The public codes:

                    factor     pairs        u        terms   lamda
    authors (caffe)  1         batch        tanh     sum     0.2     (half: false, lamda: 0.2; ours are means)
    DHN_PyTorch      1/2       batch        tanh     mean    1       (the defaults)
    DeepHash-pytorch 1/2       bank         raw h    mean    0.1     (pairs: bank, quantize: raw, lamda: 0.1)

DHN_PyTorch lets lamda enter the likelihood as well, log(1 + exp(-|lamda theta|)) + max(theta, 0) - lamda s theta,
which is the likelihood of nothing unless lamda = 1; here it weighs Q only. DeepHash-pytorch's cosh overflows for
|h| above 90 in float32; here it does not.

Ranks: a rank computes its own rows against all columns (the gathered batch or the bank), 4 B n or 4 B num_train
bytes for a matrix.
"""
import paddle

from models.losses import Bank, hash_layer, log_cosh, negative_log_likelihood, share_a_label
from models.method import HashMethod
from utils.settings import Setting
from utils.training.distributed import gather


def pair_loss(u, other, s, half=True):
    """L of the docstring above, for this rank's rows.

    Args:
        u: codes [N, K]; other: codes [M, K] of the columns; s: similarity 0 or 1, [N, M].
        half: theta = <u_i, u_j> / 2 rather than <u_i, u_j>.

    Returns:
        Scalar; its mean over ranks is that of the global batch.
    """
    theta = paddle.matmul(u, other, transpose_y=True)
    return negative_log_likelihood(0.5 * theta if half else theta, s).mean()


def quantization_loss(u):
    """Q of the docstring above; u [N, K]. Scalar."""
    return log_cosh(paddle.abs(u) - 1).mean()


class DHN(HashMethod):
    """Pairwise likelihood of codes, and a quantisation term: the method of the docstring above."""

    name = "dhn"
    paper = "Zhu et al., Deep Hashing Network for Efficient Similarity Retrieval, AAAI 2016"
    kind = "supervised"
    bit_lengths = (16, 32, 48, 128)
    training_state = ("bank.",)
    variants = ({"pairs": "bank"}, {"quantize": "raw", "half": False})
    settings = {
        "lamda": Setting(1.0, "weight of the quantisation term", low=0),
        "pairs": Setting("batch", "what a batch is compared with: the batch, or all training images (bank)",
                         choices=("batch", "bank")),
        "half": Setting(True, "theta = <u_i, u_j> / 2; false leaves the 1/2 out, as the authors' caffe layer does"),
        "quantize": Setting("tanh", "the codes that both terms see; raw (DeepHash-pytorch) = before the tanh",
                            choices=("tanh", "raw")),
    }

    def build(self):
        """See HashMethod.build."""
        self.hash = hash_layer(self.feature_dim, self.bits)
        if self.pairs == "bank":
            self.bank = Bank(self.facts.num_train, self.bits, self.facts.num_classes)

    def code(self, features):
        """Features float32 [N, D] -> relaxed code float32 [N, bits]: tanh of the hash layer."""
        return paddle.tanh(self.hash(features))

    def loss(self, batch):
        """Terms ``pair``, ``quantization`` and ``total`` = pair + lamda quantization."""
        h, y = self.hash(self.view(batch)), batch["label"]
        u = paddle.tanh(h) if self.quantize == "tanh" else h
        if self.pairs == "bank":
            self.bank.write(batch["index"], u, y)
            other, s = self.bank.codes, share_a_label(y, self.bank.labels)
        else:
            other, s = gather(u), share_a_label(y, gather(y))
        pair, quantization = pair_loss(u, other, s, self.half), quantization_loss(u)
        return {"total": pair + self.lamda * quantization, "pair": pair, "quantization": quantization}
