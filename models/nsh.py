"""NSH: Learning to Hash Naturally Sorts (Yu, Shen, Wang, Zhang, Torr; IJCAI 2022). Unsupervised.

Two random views of each image give binary codes b1, b2 and latent vectors z1, z2. For every anchor a the batch is
sorted by code similarity, softly, so that the order can be learnt; the latents are carried along; the first m of
the sorted list are positives and the rest negatives of a contrastive loss:

    s_aj = <b1_a, b2_j> / (2 K) + 1/2                       (1 - Hamming distance / K)
    P_a[i, j] = softmax_j( -|s_aj - s_a(i)|^pow / tau_sort )   s_a(i): the i-th largest    (SoftSort)
    e_ai = sum_j P_a[i, j] z1_j,   c_ai = cos(e_ai, z2_a)
    L = mean_a 1/m sum_{i<=m} -log( exp(c_ai/tau) / (exp(c_ai/tau) + sum_{k>m} exp(c_ak/tau)) )   (SortedNCE)
    L + lamda mean( (tanh h - sign h)^2 )                   over both views

b = sign(tanh h) with the straight-through gradient; h and z are two linear layers on one trunk (linear, ReLU).

m = 2 and tau = 0.1 are the settings of the public re-implementation; width of trunk and latent, tau_sort, pow, hard
and lamda could be read nowhere and are *chosen*. That public code does not converge for five reasons that are not
repeated here: softmax before a cross-entropy that applies softmax again, a second division by the batch size, the
same image as both views, sign without straight-through, and tau_sort = K where similarities are in [0, 1].

Ranks: a rank sorts for its own B anchors over all n images of the global batch. P takes 4 B n^2 bytes, e 4 B n z_dim,
and about four arrays like P are alive at the peak: 2 MB at B = n = 50, 270 MB (measured 250) at B = n = 256 and
at B = 64, n = 512. More ranks, not bigger batches, are the way up.
"""
import paddle
from paddle import nn

from models.losses import l2_normalize, sign, sign_ste
from models.method import HashMethod
from utils.settings import Setting
from utils.training.distributed import gather


def similarity(b1, b2):
    """s [N, M] in [0, 1] of codes b1 [N, K] and b2 [M, K] with entries in [-1, 1]: 1 - Hamming distance / K."""
    return paddle.matmul(b1, b2, transpose_y=True) / (2 * b1.shape[1]) + 0.5


def descending_order(s):
    """Positions that sort each row of s [N, M] in descending order, equal entries by position; int64 [N, M].

    Codes are binary, so ties are the rule, and the gradient depends on their order. ``argsort`` orders ties
    differently by version and device; the rank counted here is unique.
    """
    s = s.detach()
    rows, columns = s.unsqueeze(1), s.unsqueeze(2)          # entry [a, j, k] compares s_aj (columns) with s_ak (rows)
    position = paddle.arange(s.shape[1])
    before = paddle.logical_and(rows == columns, (position.unsqueeze(0) < position.unsqueeze(1)).unsqueeze(0))
    rank = paddle.logical_or(rows > columns, before).astype("int32").sum(axis=2)
    return paddle.argsort(rank, axis=1)


def soft_sort(s, tau_sort, power=1.0, hard=False):
    """SoftSort: for each row of similarities the relaxed permutation that sorts it in descending order.

    Args:
        s: [N, M].
        tau_sort: temperature, in units of s ** power; P becomes a permutation as it goes to 0.
        power: exponent of |s_j - s_(i)|.
        hard: values 0 and 1 (one per row i, the first of equals), gradient of the soft P.

    Returns:
        P [N, M, M]: P[a, i, :] are the weights of the i-th place; each sums to 1.
    """
    ordered = paddle.take_along_axis(s, descending_order(s), axis=1)
    gap = paddle.abs(s.unsqueeze(1) - ordered.unsqueeze(2))
    soft = nn.functional.softmax(-(gap if power == 1 else gap ** power) / tau_sort, axis=-1)
    if not hard:
        return soft
    # the largest weight is where the gap is smallest; in the weights themselves small gaps may have vanished
    count = s.shape[1]
    smallest = (gap == gap.min(axis=-1, keepdim=True)).astype("int64")
    first = paddle.argmax(smallest * paddle.arange(count, 0, -1, dtype="int64"), axis=-1)
    return soft + (nn.functional.one_hot(first, count).astype(soft.dtype) - soft).detach()


def sorted_cosine(p, z1, z2):
    """c [N, M]: cosine of e_ai = sum_j p[a, i, j] z1_j with z2_a; p [N, M, M], z1 [M, D], z2 [N, D]."""
    return (l2_normalize(paddle.matmul(p, z1)) * l2_normalize(z2).unsqueeze(1)).sum(axis=-1)


def sorted_nce(c, tau, positives):
    """SortedNCE of sorted cosines.

    Args:
        c: [N, M], column i the cosine with the soft i-th neighbour.
        tau: temperature.
        positives: m, how many of the first columns are positives. At least one column is kept as a negative,
            so a batch of m or fewer images has M - 1 positives; a single image adds nothing.

    Returns:
        Scalar, mean over anchors and positives.
    """
    positives = min(positives, c.shape[1] - 1)
    if not positives:
        return 0 * c.sum()
    negatives = paddle.logsumexp(c[:, positives:] / tau, axis=1, keepdim=True)
    # -log( e^p / (e^p + e^n) ) = log(1 + e^(n - p))
    return nn.functional.softplus(negatives - c[:, :positives] / tau).mean()


class NSH(HashMethod):
    """Contrast with positives found by a soft sort of the codes: see the docstring above."""

    name = "nsh"
    paper = "Yu et al., Learning to Hash Naturally Sorts, IJCAI 2022"
    kind = "unsupervised"
    bit_lengths = (16, 32, 64)
    views = 2
    variants = ({"hard": True},)
    small = {"hidden": 16, "z_dim": 8}
    settings = {
        "hidden": Setting(1024, "width of the layer below the hash and latent layers (chosen)", low=1),
        "z_dim": Setting(128, "size of the latent vectors (chosen)", low=1),
        "positives": Setting(2, "m: the first m of the sorted batch are positives", low=1),
        "tau": Setting(0.1, "temperature of the contrastive loss", above=0),
        "tau_sort": Setting(0.1, "temperature of the soft sort; similarities lie in [0, 1] (chosen)", above=0),
        # below 1 the slope at a gap of 0 is infinite
        "pow": Setting(1.0, "exponent of the distance inside the soft sort (chosen)", low=1),
        "hard": Setting(False, "sort hard in the forward pass, softly in the backward pass (chosen)"),
        "lamda": Setting(0.0, "weight of the quantisation term (chosen)", low=0),
    }

    def build(self):
        """See HashMethod.build."""
        self.trunk = nn.Sequential(nn.Linear(self.feature_dim, self.hidden), nn.ReLU())
        self.hash = nn.Linear(self.hidden, self.bits)
        self.latent = nn.Linear(self.hidden, self.z_dim)

    def code(self, features):
        """Features float32 [N, D] -> relaxed code float32 [N, bits]: tanh of the hash layer."""
        return paddle.tanh(self.hash(self.trunk(features)))

    def loss(self, batch):
        """Terms ``contrast``, ``quantization`` and ``total`` = contrast + lamda quantization."""
        trunk1, trunk2 = self.trunk(self.view(batch, 0)), self.trunk(self.view(batch, 1))
        u1, u2 = paddle.tanh(self.hash(trunk1)), paddle.tanh(self.hash(trunk2))
        z1, z2 = self.latent(trunk1), self.latent(trunk2)
        s = similarity(sign_ste(u1), gather(sign_ste(u2)))
        c = sorted_cosine(soft_sort(s, self.tau_sort, self.pow, self.hard), gather(z1), z2)
        contrast = sorted_nce(c, self.tau, self.positives)
        quantization = 0.5 * (((u1 - sign(u1)) ** 2).mean() + ((u2 - sign(u2)) ** 2).mean())
        return {"total": contrast + self.lamda * quantization, "contrast": contrast, "quantization": quantization}
