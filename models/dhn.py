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

from models.functional import log_cosh, share_a_label
from models.method import HashMethod
from models.pairwise import Bank, check_choice, check_labels, hash_layer, negative_log_likelihood
from utils.distributed import gather
from utils.errors import InputError


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
    name = "dhn"
    paper = "Zhu et al., Deep Hashing Network for Efficient Similarity Retrieval, AAAI 2016"
    kind = "supervised"
    bit_lengths = (16, 32, 48, 128)
    training_state = ("bank.",)
    hyperparameters = {
        "lamda": (1.0, "weight of the quantisation term"),
        "pairs": ("batch", "what a batch is compared with: batch, or bank (all training images)"),
        "half": (True, "theta = <u_i, u_j> / 2; false leaves the 1/2 out, as the authors' caffe layer does"),
        "quantize": ("tanh", "the codes that both terms see: tanh, or raw (DeepHash-pytorch: before the tanh)"),
    }

    def __init__(self, backbone, bits, num_train, num_classes, text_dim=None, feature_norm="none", frozen=False,
                 lamda=1.0, pairs="batch", half=True, quantize="tanh"):
        super().__init__(backbone, bits, feature_norm, frozen)
        check_labels(self.name, num_classes)
        check_choice("pairs", pairs, ("batch", "bank"))
        check_choice("quantize", quantize, ("tanh", "raw"))
        if lamda < 0:
            raise InputError(f"lamda must not be negative, not {lamda}")
        self.hash = hash_layer(self.feature_dim, bits)
        self.lamda = lamda
        self.pairs = pairs
        self.half = half
        self.quantize = quantize
        if pairs == "bank":
            self.bank = Bank(num_train, bits, num_classes)

    def code(self, features):
        return paddle.tanh(self.hash(features))

    def loss(self, batch):
        h, y = self.hash(self.view(batch)), batch["label"]
        u = paddle.tanh(h) if self.quantize == "tanh" else h
        if self.pairs == "bank":
            self.bank.write(batch["index"], u, y)
            other, s = self.bank.codes, share_a_label(y, self.bank.labels)
        else:
            other, s = gather(u), share_a_label(y, gather(y))
        pair, quantization = pair_loss(u, other, s, self.half), quantization_loss(u)
        return {"total": pair + self.lamda * quantization, "pair": pair, "quantization": quantization}
