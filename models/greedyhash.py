"""GreedyHash: Towards Fast Optimization for Accurate Hash Coding in CNN (Su, Zhang, Han, Tian; NeurIPS 2018).

Authors' code: ssppp/GreedyHash. The sign stays in the network while it trains, and the gradient passes straight through
it; a cubic term keeps the outputs u near +1 and -1, so that this is no great lie.

    b = sign(u),   L = (what the codes are for) + alpha mean | |u| - 1 |^3

From labels: cross-entropy of a linear classifier on the codes b. From the features alone (``learn_from: features``):
the batch is cut into halves, and the cosine of the codes of images i and i + B/2 must be that of their features x:

    mean_i ( cos(b_i, b_(i + B/2)) - cos(x_i, x_(i + B/2)) )^2

Where the public codes differ, and what is done here:
* alpha: 0.1 (CIFAR-10, unsupervised), 1 (ImageNet).
* several labels: soft targets, each label the same share; DeepHash-pytorch takes the lowest-numbered (``first_label``).
  An image without label adds nothing.
* x comes from a frozen network. In the public codes it stays in training mode, and its dropout makes x noisy
  (``feature_dropout: true``). x is a constant for the loss, also where the backbone is trained.
* an odd batch: its last image has no partner (NaN, a silent broadcast, or an error there).

Ranks: from labels a mean over rows; from features the pairs are those of the global batch, and every rank repeats the
small problem of B / 2 pairs.
"""
import paddle

from models.losses import cross_entropy, label_shares, labelled_mean, rebuild_cosines, sign_ste, torch_linear
from models.method import HashMethod
from utils.settings import Setting
from utils.training.distributed import gather


def cubic_distance(u):
    """| |u| - 1 |^3, mean over bits; u [n, K]. Returns [n]."""
    gap = paddle.abs(u) - 1
    return (gap * gap * paddle.abs(gap)).mean(axis=1)


class GreedyHash(HashMethod):
    """Backbone and a linear layer; in training from labels a linear classifier on the binary codes."""

    name = "greedyhash"
    paper = "Su et al., Greedy Hash: Towards Fast Optimization for Accurate Hash Coding in CNN, NeurIPS 2018"
    kind = "supervised"  # its unsupervised form by setting
    bit_lengths = (16, 32, 48, 64)
    training_state = ("classifier.",)
    coupling = "rows"
    variants = ({"first_label": True}, {"learn_from": "features"})
    settings = {
        "learn_from": Setting("labels", "labels, or the features of the pictures (unsupervised)",
                              choices=("labels", "features")),
        "alpha": Setting(0.1, "weight of the cubic term (ImageNet 1)", low=0),
        "first_label": Setting(False, "of several labels only the lowest-numbered counts (DeepHash-pytorch)"),
    }

    @classmethod
    def needs_labels(cls, settings):
        """Only where it learns from them."""
        return settings["learn_from"] == "labels"

    def build(self):
        """Hash layer and, to learn from labels, the classifier; both with torch's default start."""
        self.hash = torch_linear(self.feature_dim, self.bits)
        if self.learn_from == "labels":
            self.classifier = torch_linear(self.bits, self.facts.num_classes, bias=False)
        else:
            self.coupling = "pairs"

    def code(self, features):
        """Normalised features -> u, float32 [N, bits]."""
        return self.hash(features)

    def loss(self, batch):
        """Terms ``class`` (from labels) or ``pair``, ``quantization``, ``total`` = the first + alpha quantization."""
        features = self.view(batch)
        u = self.code(features)
        code, distance = sign_ste(u), cubic_distance(u)
        if self.learn_from == "labels":
            labels = batch["label"]
            rows = cross_entropy(self.classifier(code), label_shares(labels, self.first_label))
            terms = {"class": labelled_mean(rows, labels), "quantization": labelled_mean(distance, labels)}
        else:
            terms = {"pair": rebuild_cosines(gather(code), gather(features.detach())), "quantization": distance.mean()}
        task, quantization = terms.values()
        return {"total": task + self.alpha * quantization, **terms}
