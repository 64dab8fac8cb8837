"""OrthoHash: One Loss for All: Deep Hashing with a Single Cosine Similarity based Learning Objective.

Hoe, Ng, Zhang, Chan, Song, Xiang, NeurIPS 2021. Authors' code: kamwoh/orthohash.

Each class has a fixed target o_c in {-1, 1}^K. The code v, normalised by batch norm so that every bit is on half of the
time, shall have a large cosine with the target of its class: classification with a margin, and no other term.

    z_c = s (cos(v, o_c) - m [c is a label]),   L = cross-entropy of z

Where paper and public code differ, and what is done here:
* s: sqrt(K) (supplement; ``scale: 0``). The code has 8 for every length.
* several labels: soft targets, each label the same share, the margin off every one (``label_loss: shares``). The code
  does so on NUS-WIDE only; on COCO it trains on the lowest-numbered label (``first``). Its other losses: ``bce`` and
  ``weighted_bce``, which weighs positives and gross mistakes 1 and the rest 1 / C.
* targets: fair coins (``bernoulli``), coin rows that are far apart (``maxhd``), Hadamard rows (supplement).
* an image without label adds nothing, and a code of zeros has no direction (both NaN in the public code).
* arc margin and quantisation terms of the code: ``margin_kind``, ``quantize`` (weight 0).

Batch norm: moments of the rows of all ranks, forward and backward. As in torch the running variance is unbiased
(Paddle's own is not); a single row, whose moments say nothing, is normalised by the running ones.

Ranks: moments and the number of rows with a label are global, all else is a mean over rows.
"""
import math

import paddle
from paddle import nn

from models import losses
from models.losses import l2_normalize, label_shares, labelled_mean, negative_log_likelihood
from models.method import HashMethod
from models.targets import codebook, describe_targets
from utils.settings import Setting
from utils.training.distributed import gather, world_size


class GlobalBatchNorm(nn.BatchNorm1D):
    """Batch normalisation of [n, K] by the moments of the rows of all ranks (SyncBatchNorm has no CPU kernel)."""

    def forward(self, x):
        """Normalised rows [n, K]; in training the running moments move."""
        rows = gather(x)
        count = rows.shape[0]
        if not self.training or count == 1:
            return nn.functional.batch_norm(x, self._mean, self._variance, self.weight, self.bias, training=False,
                                            epsilon=self._epsilon)
        mean = rows.mean(axis=0)
        variance = ((rows - mean) ** 2).mean(axis=0)
        with paddle.no_grad():
            for running, moment in ((self._mean, mean), (self._variance, variance * (count / (count - 1)))):
                running.set_value(self._momentum * running + (1 - self._momentum) * moment)
        return (x - mean) / paddle.sqrt(variance + self._epsilon) * self.weight + self.bias


def class_cosines(v, targets):
    """Cosine of each code v [n, K] with each target [C, K] of +-1; a row of zeros has 0. Returns [n, C]."""
    return paddle.matmul(l2_normalize(v), targets, transpose_y=True) / math.sqrt(targets.shape[1])


def margin_logits(cosine, labels, scale, margin, kind="cos"):
    """Scaled cosines, those of an image's labels made harder.

    Args:
        cosine: [n, C].
        labels: multi-hot [n, C].
        scale: s.
        margin: m, taken off the cosine, or (``arc``) added to the angle.
        kind: ``cos`` or ``arc``.

    Returns:
        z [n, C].
    """
    if kind == "cos":
        return scale * (cosine - margin * labels)
    return scale * paddle.cos(paddle.acos(paddle.clip(cosine, -0.99999, 0.99999)) + margin * labels)


def weighted_bce(z, labels):
    """Binary cross-entropy where positives and gross mistakes weigh 1 and all else 1 / C; z, labels [n, C].

    Returns:
        Scalar; its mean over ranks is that of the global batch. Rows without label are left out.
    """
    wrong = ((nn.functional.sigmoid(z) >= 0.7).astype(z.dtype) - labels).abs()
    weight = paddle.where(labels + wrong > 0, paddle.ones_like(z), paddle.full_like(z, 1 / z.shape[1]))
    weight = (weight * (labels.sum(axis=1, keepdim=True) > 0).astype(z.dtype)).detach()
    total = gather(weight.sum().reshape([1])).sum() / world_size()
    return (weight * negative_log_likelihood(z, labels)).sum() / (total + 1e-7 / world_size())


def quantization_loss(v, kind="cosine"):
    """Distance of each code v [n, K] from its sign, [n]: 1 - cosine, mean |v - sign v|, or mean (v - sign v)^2."""
    goal = losses.sign(v)
    if kind == "cosine":
        return 1 - (l2_normalize(v) * goal).sum(axis=1) / math.sqrt(v.shape[1])
    gap = v - goal
    return (gap.abs() if kind == "l1" else gap * gap).mean(axis=1)


class OrthoHash(HashMethod):
    """Backbone, linear layer without bias, batch norm; a fixed target for each class."""

    name = "orthohash"
    paper = ("Hoe et al., One Loss for All: Deep Hashing with a Single Cosine Similarity based Learning Objective, "
             "NeurIPS 2021")
    kind = "supervised"
    bit_lengths = (16, 32, 64, 128)
    training_state = ("targets",)
    coupling = "pairs"  # by the moments of batch norm
    variants = ({"margin_kind": "arc", "codebook": "maxhd", "label_loss": "first"}, {"label_loss": "bce", "lamda": 0.5},
                {"label_loss": "weighted_bce", "codebook": "hadamard"})
    settings = {
        "margin": Setting(0.2, "m: what the cosine with a label's target must be better by (COCO: .3 to .5)", low=0),
        "margin_kind": Setting("cos", "take the margin off the cosine, or add it to the angle", choices=("cos", "arc")),
        "scale": Setting(0.0, "s: factor of the cosines; 0 = sqrt(bits) (supplement), public code 8", low=0),
        "codebook": Setting("bernoulli", "targets of the classes: fair coins, coin rows far apart, or Hadamard rows",
                            choices=("bernoulli", "maxhd", "hadamard")),
        "label_loss": Setting("shares", "several labels: equal shares of one, the lowest-numbered only, or each on its "
                              "own", choices=("shares", "first", "bce", "weighted_bce")),
        "lamda": Setting(0.0, "weight of the quantisation term (public code; the paper has none)", low=0),
        "quantize": Setting("cosine", "quantisation term", choices=("cosine", "l1", "l2")),
    }

    def build(self):
        """Linear layer N(0, 0.01), batch norm, then the targets."""
        self.hash = losses.hash_layer(self.feature_dim, self.bits, bias=False)
        self.batch_norm = GlobalBatchNorm(self.bits)
        rows = codebook(self.bits, self.facts.num_classes, losses.numpy_generator(), self.codebook)
        self.register_buffer("targets", paddle.to_tensor(rows.astype("float32")))

    def describe(self):
        """Distances of the targets, constant and repeated bits."""
        return [describe_targets(self.targets.numpy())]

    def code(self, features):
        """Normalised features -> v, float32 [N, bits]; in evaluation by the running moments."""
        return self.batch_norm(self.hash(features))

    def loss(self, batch):
        """Terms ``class``, ``quantization`` and ``total`` = class + lamda quantization."""
        v, labels = self.code(self.view(batch)), batch["label"]
        wanted = label_shares(labels, first=True) if self.label_loss == "first" else labels
        z = margin_logits(class_cosines(v, self.targets), wanted, self.scale or math.sqrt(self.bits), self.margin,
                          self.margin_kind)
        if self.label_loss == "weighted_bce":
            loss = weighted_bce(z, wanted)
        elif self.label_loss == "bce":
            loss = labelled_mean(negative_log_likelihood(z, wanted).mean(axis=1), labels)
        else:
            loss = labelled_mean(losses.cross_entropy(z, label_shares(wanted)), labels)
        quantization = labelled_mean(quantization_loss(v, self.quantize), labels)
        return {"total": loss + self.lamda * quantization, "class": loss, "quantization": quantization}
