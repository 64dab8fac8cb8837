"""CIBHash: Unsupervised Hashing with Contrastive Information Bottleneck (Qiu, Su, Ou, Yu, Chen; IJCAI 2021).

Authors' code: zexuanqiu/CIBHash. Two views of each image give p = sigmoid(h) and codes b = sign(p - 1/2) of +-1, with
the gradient passed straight through to p. All 2 B codes of a batch are contrasted; a code's positive is that of the
other view. A second term keeps little of what only one view knows:

    L = -mean_a log( exp(cos(b_a, b_a') / T) / sum_{c != a} exp(cos(b_a, b_c) / T) )
        + weight (KL(p1 || p2) + KL(p2 || p1)) / 2

KL is summed over bits; its second argument is a constant, so its gradient is not that of the symmetric divergence.

Where paper and code differ, and what is done here:
* the paper samples the codes; the code never does (``sample: false``). ``true`` draws the threshold of each bit, for
  each view of each image, from (seed, step, image, view): not from its place in the batch, so ranks do not matter.
* the features come from a frozen network, which stays in training mode in the code: its dropout makes them noisy
  (``feature_dropout: true``).
* 1 - p is written sigmoid(-h): exact where p is 1 in float32. The sign of a code is that of h.

Ranks: a rank takes its own 2 B codes as anchors and all codes of all ranks as candidates, 16 B n bytes for a matrix.
"""
import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F

from models.losses import l2_normalize, numpy_generator, sign, torch_linear
from models.method import HashMethod
from utils.settings import Setting
from utils.training.distributed import gather, own_rows

EPSILON = 1e-8  # inside the logarithms, as in the authors' code


def binary_codes(h, thresholds=None):
    """Codes of +-1 whose gradient is that of p = sigmoid(h).

    Args:
        h: [n, K].
        thresholds: what p is compared with, [n, K]; None = 1/2.
    """
    p = F.sigmoid(h)
    binary = sign(h if thresholds is None else p - thresholds)
    return p + (binary - p).detach()


def contrast(own1, own2, all1, all2, first, temperature):
    """NT-Xent of this rank's codes against those of all ranks.

    Args:
        own1, own2: codes of this rank's images in the two views, [n, K].
        all1, all2: codes of all ranks, [N, K].
        first: place of this rank's first image among the N.
        temperature: T.

    Returns:
        Scalar, mean over the 2 n anchors. A single image has no negatives, and no loss.
    """
    count, total = own1.shape[0], all1.shape[0]
    anchors, candidates = (l2_normalize(paddle.concat(codes)) for codes in ((own1, own2), (all1, all2)))
    logits = paddle.matmul(anchors, candidates, transpose_y=True) / temperature
    place = paddle.arange(count) + first
    own, other = (F.one_hot(paddle.concat(places), 2 * total).astype(logits.dtype)
                  for places in ((place, place + total), (place + total, place)))
    positive = (logits * other).sum(axis=1)
    return (paddle.logsumexp(logits - 1e9 * own, axis=1) - positive).mean()


def divergence(h1, h2):
    """KL(p1 || p2) of the bits, with p2 as a constant: sum over bits, mean over rows; h1, h2 [n, K]. Scalar."""
    def log_ratio(a, b):
        return paddle.log(F.sigmoid(a) + EPSILON) - paddle.log(F.sigmoid(b) + EPSILON)

    h2 = h2.detach()
    return (F.sigmoid(h1) * log_ratio(h1, h2) + F.sigmoid(-h1) * log_ratio(-h1, -h2)).sum(axis=1).mean()


class CIBHash(HashMethod):
    """Backbone, one hidden layer, K bits; two views of each image."""

    name = "cibhash"
    paper = "Qiu et al., Unsupervised Hashing with Contrastive Information Bottleneck, IJCAI 2021"
    kind = "unsupervised"
    bit_lengths = (16, 32, 64)
    views = 2
    training_state = ("noise_seed",)
    variants = ({"sample": True},)
    small = {"hidden": 16}
    settings = {
        "hidden": Setting(1024, "units of the hidden layer", low=1),
        "temperature": Setting(0.3, "T, temperature of the contrast (authors tried .2 to .4)", above=0),
        "kl_weight": Setting(0.001, "weight of the divergence of the two views (authors tried 1e-3 to 1e-5)", low=0),
        "sample": Setting(False, "draw the threshold of every bit in training: in the paper, not in its code"),
    }

    def build(self):
        """Two layers with torch's default start, and the seed of the thresholds."""
        self.hidden_layer = nn.Sequential(torch_linear(self.feature_dim, self.hidden), nn.ReLU())
        self.hash = torch_linear(self.hidden, self.bits)
        self.step = 0
        if self.sample:
            seed = numpy_generator().integers(2 ** 31, size=1)
            self.register_buffer("noise_seed", paddle.to_tensor(seed))

    def start_step(self, step, steps):
        """The thresholds of a step are its own."""
        self.step = step

    def code(self, features):
        """Normalised features -> h, float32 [N, bits]."""
        return self.hash(self.hidden_layer(features))

    def thresholds(self, index, view):
        """Uniform numbers for the rows of a view, float32 [n, bits]; None where nothing is drawn.

        Args:
            index: int64 [n], positions of the images in the training split.
            view: 0 or 1.
        """
        if not self.sample:
            return None
        draws = [np.random.default_rng((int(self.noise_seed), self.step, int(i), view)) for i in index.numpy()]
        return paddle.to_tensor(np.stack([draw.random(self.bits, "float32") for draw in draws]))

    def loss(self, batch):
        """Terms ``contrast``, ``divergence`` and ``total`` = contrast + kl_weight divergence."""
        h1, h2 = (self.code(self.view(batch, view)) for view in (0, 1))
        b1, b2 = (binary_codes(h, self.thresholds(batch["index"], view)) for view, h in enumerate((h1, h2)))
        terms = {"contrast": contrast(b1, b2, gather(b1), gather(b2), own_rows(h1.shape[0]).start, self.temperature),
                 "divergence": (divergence(h1, h2) + divergence(h2, h1)) / 2}
        return {"total": terms["contrast"] + self.kl_weight * terms["divergence"], **terms}
