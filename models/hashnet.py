"""HashNet: Deep Learning to Hash by Continuation (Cao, Long, Wang, Yu; ICCV 2017).

Images i and j that share a label (s_ij = 1) are made likely to have close codes, P(s_ij = 1) = sigmoid(d_ij)
with d_ij = alpha <u_i, u_j>, and the two classes of pairs weigh the same although similar pairs are rare:

    L = sum_{s=1} l_ij / |S1| + sum_{s=0} l_ij / |S0|,   l_ij = log(1 + exp(d_ij)) - s_ij d_ij

The code u = tanh(beta h) approaches sign(h) by continuation: beta grows during training.

Where the public codes differ, and what is done here:
* pairs: ``bank`` (paddle_hashnet; DeepHash-pytorch until 2022): a batch against the last codes of *all* training
  images. Rows of images not seen yet are zero and count as dissimilar. The bank is a constant, as in
  DeepHash-pytorch; in paddle_hashnet the rows just written also carried gradient.
  ``batch`` (DeepHash-pytorch since 2022): the batch against itself, diagonal included.
  ``halves`` (authors): the first half of the batch against the second half, linear above d = 15.
* alpha: 0.1 for every length in the two ports; the authors use 10 / bits (``alpha: 0`` here).
* class weights: |S| / |S1| and |S| / |S0| of the paper; the authors' code has a constant instead, ``class_num``
  (100 ImageNet, 5 NUS-WIDE, 1 COCO) for similar pairs, and divides by the sum of the weights.
* continuation: ``epoch`` (both ports) beta = sqrt(floor(epoch / step_continuation) + 1), epoch from 0;
  ``iteration`` (authors) beta = sqrt(1 + 0.005 it), renewed every 200 iterations.
* not here: the continuous similarity of multi-label pairs.

Ranks: with ``bank`` and ``batch`` a rank computes its own rows against all columns (the bank, the gathered
batch) and only the counts |S1|, |S0| are global: memory 4 B num_train bytes for a matrix. With ``halves`` every
rank repeats the small n x n / 4 problem of the gathered batch.
"""
import math

import paddle

from models.losses import Bank, hash_layer, negative_log_likelihood, share_a_label
from models.method import HashMethod
from utils.settings import Setting
from utils.training.distributed import gather, world_size


def hashnet_loss(u, other, s, alpha, class_num=0, linear_above=None):
    """Weighted negative log likelihood of this rank's rows of pairs (equations 2 to 4).

    Args:
        u: codes [N, K] of this rank.
        other: codes [M, K] of the columns.
        s: similarity 0 or 1, [N, M].
        alpha: scale of the inner product.
        class_num: 0 weighs both classes alike (paper); c > 0 weighs a similar pair c, a dissimilar one 1 (authors).
        linear_above: see ``negative_log_likelihood``.

    Returns:
        Scalar. Its mean over ranks is the loss of the global batch. A class without pairs adds nothing.
    """
    loss = negative_log_likelihood(alpha * paddle.matmul(u, other, transpose_y=True), s, linear_above)
    # counted by row in float32 (exact), then in float64: a bank times a global batch may pass 2^24 pairs
    similar = s.sum(axis=1).astype("float64").sum()
    counts = gather(paddle.stack([similar, float(math.prod(s.shape)) - similar]).unsqueeze(0)).sum(axis=0)
    similar, dissimilar = (counts / world_size()).astype(loss.dtype).unbind(0)
    if class_num:
        total = class_num * similar + dissimilar
        weights = class_num / total, 1 / total
    else:  # a class that is empty everywhere weighs nothing: any divisor does
        weights = [1 / paddle.where(count > 0, count, paddle.ones_like(count)) for count in (similar, dissimilar)]
    return ((s * weights[0] + (1 - s) * weights[1]) * loss).sum()


class HashNet(HashMethod):
    """Weighted pairwise likelihood of tanh(beta h), with beta growing: see the docstring above."""

    name = "hashnet"
    paper = "Cao et al., HashNet: Deep Learning to Hash by Continuation, ICCV 2017"
    kind = "supervised"
    bit_lengths = (16, 32, 48, 64)
    training_state = ("bank.", "beta", "steps")
    variants = ({"pairs": "batch"}, {"pairs": "halves"}, {"pairs": "batch", "class_num": 5.0},
                {"continuation": "iteration"})
    settings = {
        "alpha": Setting(0.1, "scale of the inner product of two codes in the likelihood; 0 means 10 / bits", low=0),
        "step_continuation": Setting(20, "epochs between two increases of beta in tanh(beta h)", low=1),
        "continuation": Setting("epoch", "schedule of beta; iteration is the authors': every 200 iterations",
                                choices=("epoch", "iteration")),
        "pairs": Setting("bank", "what a batch is compared with: all training images, the batch, or its other half",
                         choices=("bank", "batch", "halves")),
        "class_num": Setting(0.0, "weight of a similar pair; 0 balances the two classes (paper)", low=0),
    }

    def build(self):
        """See HashMethod.build."""
        self.hash = hash_layer(self.feature_dim, self.bits)
        self.scale = self.alpha or 10 / self.bits
        self.register_buffer("beta", paddle.ones([1]))
        self.register_buffer("steps", paddle.zeros([1], dtype="int64"))
        if self.pairs == "bank":
            self.bank = Bank(self.facts.num_train, self.bits, self.facts.num_classes)

    def start_epoch(self, epoch, epochs):
        """Set beta = sqrt(epoch // step_continuation + 1) where it follows the epochs."""
        if self.continuation == "epoch":
            self.beta.set_value(paddle.full([1], math.sqrt(epoch // self.step_continuation + 1)))

    def start_step(self, step, steps):
        """Set beta = sqrt(1 + 0.005 n), n the steps so far in whole 200s, where it follows the iterations."""
        if self.continuation == "iteration":  # this step counts
            self.steps.set_value(paddle.full([1], step + 1, dtype="int64"))
            self.beta.set_value(paddle.full([1], math.sqrt(1 + 0.005 * ((step + 1) // 200 * 200))))

    def code(self, features):
        """Features float32 [N, D] -> relaxed code float32 [N, bits]: tanh(beta h)."""
        return paddle.tanh(self.beta * self.hash(features))

    def loss(self, batch):
        """Term ``total``; see ``hashnet_loss``."""
        u, y = self.code(self.view(batch)), batch["label"]
        if self.pairs == "bank":
            self.bank.write(batch["index"], u, y)
            s = share_a_label(y, self.bank.labels)
            return {"total": hashnet_loss(u, self.bank.codes, s, self.scale, self.class_num)}
        all_u, all_y = gather(u), gather(y)
        if self.pairs == "batch":
            return {"total": hashnet_loss(u, all_u, share_a_label(y, all_y), self.scale, self.class_num)}
        half = all_u.shape[0] // 2
        if not half:  # one image has no other half
            return {"total": 0 * u.sum()}
        s = share_a_label(all_y[:half], all_y[half:])
        return {"total": hashnet_loss(all_u[:half], all_u[half:], s, self.scale, self.class_num, linear_above=15)}
