"""CSQ: Central Similarity Quantization (Yuan et al., CVPR 2020). Authors' code: Hadamard-Matrix-for-hashing.

Each class has a fixed target in {-1, 1}^K, its hash centre, far from all others. An image with several labels takes
the sign of the sum of their centres. The bits of the code y = tanh(u) are trained as K yes-or-no questions:

    L = mean BCE((y + 1) / 2, (c + 1) / 2) + lamda mean( (|y| - 1)^2 )

The first term is written on u: BCE((tanh u + 1) / 2, (c + 1) / 2) = log(1 + exp(-2 u c)). As coded by the authors its
gradient in float32 is wrong by orders of magnitude where tanh is nearly 1.

Where the public codes differ, and what is done here:
* centres: rows of a Hadamard matrix, taken as 0, 1, 2, ... there; with fewer classes than bits many bits are then equal
  (10 classes at 64 bits: 16 different ones). Default here: an order without that, ``models.targets.hadamard_rows``.
  More classes than 2 K, or a K that is no power of two: balanced random rows, drawn as far apart as found. They are
  in the checkpoint.
* several labels: a bit for which half of them vote each way goes by one random vector (authors: drawn by each process
  and lost with it; here it follows the seed and is saved), or by the lowest-numbered label (``tie``).
* an image without label adds nothing (an exception in the authors' code; DeepHash-pytorch takes the tie vector).
* head: three layers with dropout (authors; none with AlexNet) or one (DeepHash-pytorch).
* quantisation: the square (both codes) or log cosh(|y| - 1) (paper).
* not here: the authors' pair term, whose weight is 0 in all their commands.

Ranks: a mean over rows; only the number of rows with a label is global.
"""
import paddle
from paddle import nn

from models import losses
from models.losses import label_shares, labelled_mean, torch_linear
from models.method import HashMethod
from models.targets import centres, describe_targets
from utils.settings import Setting


def image_centres(labels, targets, tie):
    """Centre of each image: sign of the sum of its labels' targets.

    Args:
        labels: multi-hot float32 [n, C].
        targets: +-1, float32 [C, K].
        tie: +-1, [K] or [n, K]: the bits where the sum is 0.

    Returns:
        float32 [n, K] of +-1, no gradient.
    """
    votes = paddle.matmul(labels, targets)
    return paddle.where(votes == 0, tie.expand_as(votes), losses.sign(votes)).detach()


def centre_loss(u, centre):
    """BCE of the bits of tanh(u) against those of the centre, mean over bits; u, centre [n, K]. Returns [n]."""
    return nn.functional.softplus(-2 * u * centre).mean(axis=1)


def quantization_loss(y, kind="square"):
    """(|y| - 1)^2, or log cosh(|y| - 1) for ``log_cosh``, mean over bits; y [n, K]. Returns [n]."""
    gap = paddle.abs(y) - 1
    return (losses.log_cosh(gap) if kind == "log_cosh" else gap * gap).mean(axis=1)


class CSQ(HashMethod):
    """Backbone, one or three linear layers, K bits; a fixed target for each class."""

    name = "csq"
    paper = "Yuan et al., Central Similarity Quantization for Efficient Image and Video Retrieval, CVPR 2020"
    kind = "supervised"
    bit_lengths = (16, 32, 64)
    training_state = ("targets", "tie_bits")
    coupling = "rows"
    variants = ({"tie": "first_label"}, {"head": "deep", "head_dropout": 0.0},
                {"target_order": "rows", "quantize": "log_cosh"})
    settings = {
        "lamda": Setting(0.001, "weight of the quantisation term (authors: .001 AlexNet, .05 ResNet50)", low=0),
        "quantize": Setting("square", "quantisation term: (|y| - 1)^2 (both public codes) or log cosh(|y| - 1) (paper)",
                            choices=("square", "log_cosh")),
        "target_order": Setting("spread", "which Hadamard rows are centres: those that make all bits differ first, or "
                                "0, 1, 2, ... as in the public codes (rows)", choices=("spread", "rows")),
        "tie": Setting("vector", "a bit on which an image's labels are split evenly: one random vector for all images "
                       "(authors), or the bit of the lowest-numbered label", choices=("vector", "first_label")),
        "head": Setting("linear", "one layer (DeepHash-pytorch) or three (authors: deep)", choices=("linear", "deep")),
        "head_dropout": Setting(0.5, "dropout after the first layer of head=deep (authors; AlexNet: 0)", low=0,
                                high=0.9),
    }

    def build(self):
        """Layers, then the centres and the tie vector."""
        width = self.feature_dim
        if self.head == "deep":
            self.hidden = nn.Sequential(torch_linear(width, width), nn.ReLU(), nn.Dropout(self.head_dropout),
                                        torch_linear(width, width), nn.ReLU())
            self.hash = torch_linear(width, self.bits)
        else:
            self.hidden = nn.Identity()
            self.hash = losses.hash_layer(width, self.bits)
        rng = losses.numpy_generator()
        rows = centres(self.bits, self.facts.num_classes, rng, self.target_order)
        self.register_buffer("targets", paddle.to_tensor(rows.astype("float32")))
        self.register_buffer("tie_bits", paddle.to_tensor((2.0 * rng.integers(0, 2, self.bits) - 1).astype("float32")))

    def describe(self):
        """Distances of the centres, constant and repeated bits."""
        return [describe_targets(self.targets.numpy(), self.bits // 4 + 1)]

    def logits(self, features):
        """Normalised features -> u, float32 [N, bits], before the tanh."""
        return self.hash(self.hidden(features))

    def code(self, features):
        """Normalised features -> y = tanh(u), float32 [N, bits]."""
        return paddle.tanh(self.logits(features))

    def loss(self, batch):
        """Terms ``centre``, ``quantization`` and ``total`` = centre + lamda quantization."""
        u, labels = self.logits(self.view(batch)), batch["label"]
        tie = self.tie_bits if self.tie == "vector" else paddle.matmul(label_shares(labels, first=True), self.targets)
        centre = labelled_mean(centre_loss(u, image_centres(labels, self.targets, tie)), labels)
        quantization = labelled_mean(quantization_loss(paddle.tanh(u), self.quantize), labels)
        return {"total": centre + self.lamda * quantization, "centre": centre, "quantization": quantization}
