"""Bi-half: Deep Unsupervised Image Hashing by Maximizing Bit Entropy (Li, van Gemert; AAAI 2021).

Authors' code: liyunqianggyn/Deep-Unsupervised-Image-Hashing. A bit tells most when half of the images have it. So in
training every bit of the batch is split in halves: the N // 2 images with the largest outputs get +1, the others -1.
The cosine of the codes of images i and i + N/2 must be that of their features x, as in GreedyHash:

    L = mean_i ( cos(b_i, b_(i + N/2)) - cos(x_i, x_(i + N/2)) )^2 + gamma / 2 mean (U - B)^2

The authors add gamma (U - B) / (N K) to the gradient inside the layer's backward pass. That is the second term here,
with a straight-through layer; as a term it is scaled along with the loss (mixed precision, accumulation).
An image on its own is coded by the sign of its outputs.

* Equal outputs: the lower row first, on every device and version.
* x comes from a frozen network; in the authors' code its dropout stays on (``feature_dropout: true``).
* an odd batch: its last image has no partner in the first term (NaN or an error there).

Ranks: outputs are split over the global batch, and its pairs are compared; every rank repeats the small problem.
"""
import numpy as np
import paddle

from models.losses import hash_layer, rebuild_cosines
from models.method import HashMethod
from utils.settings import Setting
from utils.training.distributed import gather, own_rows


def half_split(u):
    """+1 for the N // 2 largest of every column of u [N, K] (equal ones: lower row first), else -1; no gradient."""
    rows = u.numpy()
    order = np.argsort(-rows, axis=0, kind="stable")  # Paddle's is stable on request only, and not at all in 2.6
    codes = np.full_like(rows, -1)
    np.put_along_axis(codes, order[:len(rows) // 2], 1, axis=0)
    return paddle.to_tensor(codes, place=u.place)


def split_codes(u):
    """``half_split`` with the straight-through estimator: the value is the split, the gradient that of u."""
    return u + (half_split(u) - u).detach()


class BiHalf(HashMethod):
    """Backbone and one linear layer."""

    name = "bihalf"
    paper = "Li, van Gemert, Deep Unsupervised Image Hashing by Maximizing Bit Entropy, AAAI 2021"
    kind = "unsupervised"
    bit_lengths = (16, 32, 64)
    settings = {"gamma": Setting(6.0, "weight of the distance of outputs and codes (authors: 6, MNIST 1)", low=0)}

    def build(self):
        """Hash layer N(0, 0.01)."""
        self.hash = hash_layer(self.feature_dim, self.bits)

    def code(self, features):
        """Normalised features -> U, float32 [N, bits]."""
        return self.hash(features)

    def loss(self, batch):
        """Terms ``pair``, ``distance`` and ``total`` = pair + gamma / 2 distance."""
        features = self.view(batch)
        u = self.code(features)
        every = gather(u)
        codes = split_codes(every)
        terms = {"pair": rebuild_cosines(codes, gather(features.detach())),
                 "distance": ((u - codes.detach()[own_rows(u.shape[0])]) ** 2).mean()}
        return {"total": terms["pair"] + self.gamma / 2 * terms["distance"], **terms}
