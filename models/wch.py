"""WCH: Weighted Contrastive Hashing (Yu et al., ACCV 2022). Authors' code: github.com/RosieYuu/WCH.

Two views of an image give tokens x1, x2 [B, N, D]; n(.) divides rows by their L2 norm, K = bits.

    S = n(x1) n(x2)^T per image;  y1 = softmax(S^T / T_a) x1;  y2 = softmax(S / T_a) x2      mutual attention
    q_ab = mean_i max_j n(y1_a)_i . n(y2_b)_j;  p = softmax_b(q / T_w);  w_ab = p_ab / p_bb      patch weights
    h = sign(tanh(head(LayerNorm(mean_i y_i)))), straight through
    L = -mean_a sum_b w_ab log softmax_b(h1_a . h2_b / (K T_c)) + mean_k (mean_a h1_ak)^2 - mean(h1^2)

An image's code has no second view: it comes from the mean of the raw tokens.

Paper and code differ: the text reads as if row a were divided by p_aa, the code divides column b by p_bb
(``weight_norm``). As in the code, the weights are trained too (``detach_weights``), only h1 is balanced and only
h1 -> h2 is contrasted. The rows of w sum to more than 1, so no library cross-entropy fits: it is written out.
"""
import math

import paddle
from paddle import nn
from paddle.autograd import PyLayer
from paddle.nn import functional as F

from models.losses import l2_normalize, sign_ste, torch_linear
from models.method import HashMethod
from utils.errors import InputError
from utils.settings import Setting
from utils.training.distributed import gather, rank


def mutual_attention(x1, x2, temperature=1.0):
    """Each view's tokens, re-arranged by how they match the other view's (``cross_attention`` of modeling.py).

    Args:
        x1, x2: tokens float [B, N, D] of the two views.
        temperature: T_a.

    Returns:
        y1, y2 [B, N, D]: y1 holds mixtures of x1 in x2's order, y2 mixtures of x2 in x1's order.
    """
    match = paddle.matmul(l2_normalize(x1), l2_normalize(x2), transpose_y=True) / temperature
    return (paddle.matmul(F.softmax(match.transpose([0, 2, 1]), axis=-1), x1),
            paddle.matmul(F.softmax(match, axis=-1), x2))


class _BestMatch(PyLayer):
    """q_ab = mean_i max_j anchors_ai . keys_bj with its gradient, a few anchors at a time.

    All products together are A*B*N*M numbers (32 images of 196 patches: 157 MB, twice that for the graph). Here at
    most ``limit`` of them (at least one anchor's) live at once, and only the index of the best j is kept (1 / M of the
    size). Equal products: the first j has the gradient.
    """

    @staticmethod
    def forward(ctx, anchors, keys, limit):
        a, n, d = anchors.shape
        b, m, _ = keys.shape
        flat = keys.reshape([b * m, d])
        ctx.step = max(1, limit // (n * b * m))
        values, best = [], []
        for start in range(0, a, ctx.step):
            piece = anchors[start:start + ctx.step].reshape([-1, d])
            product = paddle.matmul(piece, flat, transpose_y=True).reshape([-1, n, b, m])
            values.append(product.max(axis=-1).mean(axis=1))
            best.append(product.argmax(axis=-1))
        ctx.best, ctx.wanted = best, (not anchors.stop_gradient, not keys.stop_gradient)
        ctx.save_for_backward(anchors, keys)
        return paddle.concat(values)

    @staticmethod
    def backward(ctx, grad):
        anchors, keys = ctx.saved_tensor()
        a, n, d = anchors.shape
        b, m, _ = keys.shape
        flat = keys.reshape([b * m, d])
        grad_anchors, grad_keys = [], paddle.zeros_like(flat)
        for start, best in zip(range(0, a, ctx.step), ctx.best):
            piece = anchors[start:start + ctx.step].reshape([-1, d])
            chosen = F.one_hot(best, m).astype(grad.dtype)
            chosen = chosen * (grad[start:start + ctx.step] / n).reshape([-1, 1, b, 1])
            chosen = chosen.reshape([-1, b * m])
            grad_anchors.append(paddle.matmul(chosen, flat).reshape([-1, n, d]))
            grad_keys = grad_keys + paddle.matmul(chosen, piece, transpose_x=True)
        grads = paddle.concat(grad_anchors), grad_keys.reshape([b, m, d])
        return tuple(value if wanted else None for value, wanted in zip(grads, ctx.wanted))


def patch_similarity(y1, y2, limit=1 << 24):
    """How well the tokens of image a are found in image b: mean over a's tokens of the best cosine among b's.

    Costs 2*A*B*N*M*D multiply-adds forward and twice that backward (32 x 32 images, 196 tokens of 768: 0.06 TFLOP,
    under 2 % of the ViT's own work on them), and the memory of ``limit`` numbers whatever the batch.

    Args:
        y1: anchors' tokens float [A, N, D].
        y2: keys' tokens float [B, M, D].
        limit: products held at once (default 64 MB in float32).

    Returns:
        float [A, B].
    """
    return _BestMatch.apply(l2_normalize(y1), l2_normalize(y2), limit)


def patch_weights(y1, y2, temperature=0.2, norm="column", neighbour_share=1.0, limit=1 << 24):
    """Soft targets w of this rank's anchors against the keys of the global batch.

    Args:
        y1, y2: tokens float [b, N, D] of this rank's images in the two views.
        temperature: T_w.
        norm: ``column`` divides w_ab by p_bb (authors' code), ``row`` by p_aa (paper's text); ``share`` gives the image
            itself 1 and any other one ``neighbour_share`` p_ab, so that all others together weigh no more than that.
        neighbour_share: see ``norm``.
        limit: see ``patch_similarity``.

    Returns:
        float [b, B], B = images of all ranks; w_aa = 1.
    """
    keys = gather(y2)
    own, every = y1.shape[0], keys.shape[0]
    mine = F.one_hot(paddle.arange(own) + rank() * own, every).astype(y1.dtype)
    if norm == "share" and not neighbour_share:
        return mine  # no patch weights: the costly part is not needed
    p = F.softmax(patch_similarity(y1, keys, limit) / temperature, axis=-1)
    diagonal = (p * mine).sum(axis=1)
    if norm == "share":
        return mine + neighbour_share * p * (1 - mine)
    return p / (gather(diagonal) if norm == "column" else diagonal.unsqueeze(1))


def weighted_contrast(h1, h2, weights, temperature=0.3):
    """Cross-entropy of code similarities with weights that need not sum to one (class CL of train.py).

    Args:
        h1: anchors' codes float [b, K].
        h2: keys' codes float [B, K].
        weights: float [b, B].
        temperature: T_c.

    Returns:
        scalar, mean over anchors.
    """
    logits = paddle.matmul(h1, h2, transpose_y=True) / (h1.shape[1] * temperature)
    return -(weights * F.log_softmax(logits, axis=-1)).sum(axis=-1).mean()


def balance(h1):
    """mean_k (mean_a h1_ak)^2 - mean(h1^2): each bit is on half of the time, and far from zero.

    With binary h1 the second part is constant in value, but not in (straight-through) gradient. Batch means are
    over all ranks.

    Args:
        h1: this rank's codes float [b, K].
    """
    return (gather(h1).mean(axis=0) ** 2).mean() - (h1 ** 2).mean()


def pool_tokens(tokens, grid):
    """Means over the cells of a coarser grid: the loss costs (tokens per image)^2, a cached image its tokens.

    Args:
        tokens: float [N, T, D], row by row of a square map.
        grid: rows and columns wanted; 0 = leave the tokens alone.

    Returns:
        float [N, grid^2, D].

    Raises:
        InputError: the map is not square, or smaller than ``grid``.
    """
    if not grid:
        return tokens
    count, channels = tokens.shape[1:]
    side = math.isqrt(count)
    if side * side != count or side < grid:
        raise InputError(f"token_grid is {grid}, and the backbone gives {count} tokens an image: no square map of at "
                         f"least {grid} x {grid}; lower token_grid, or enlarge --crop-size")
    maps = tokens.transpose([0, 2, 1]).reshape([-1, channels, side, side])
    return F.adaptive_avg_pool2d(maps, grid).flatten(2).transpose([0, 2, 1])


def _linear(inputs, outputs, start):
    """Linear layer. ``authors``: kaiming uniform over fan-out, N(0, 1) biases; ``small``: torch's default."""
    if start == "small":
        return torch_linear(inputs, outputs)
    bound = (6.0 / outputs) ** 0.5
    return nn.Linear(inputs, outputs, weight_attr=nn.initializer.Uniform(-bound, bound),
                     bias_attr=nn.initializer.Normal(0.0, 1.0))


class WCH(HashMethod):
    """ViT (or any backbone's final map) tokens, one hidden layer, K bits; see the module for the loss.

    Several ranks: each takes its own images as anchors and everybody's second views as keys.
    """

    name = "wch"
    paper = "Yu et al., Weighted Contrastive Hashing, ACCV 2022"
    kind = "unsupervised"
    bit_lengths = (16, 32, 64)
    views = 2
    feature_kind = "tokens"
    variants = ({"weight_norm": "row"},)
    small = {"hidden": 16}
    settings = {
        "hidden": Setting(1024, "units of the hash head's hidden layer", low=1),
        "attention_temperature": Setting(1.0, "softmax temperature of the mutual attention", above=0),
        "weight_temperature": Setting(0.2, "softmax temperature of the patch-level weights", above=0),
        "contrast_temperature": Setting(0.3, "temperature of the code similarities in the contrastive loss", above=0),
        "weight_norm": Setting("column", "weights are divided by the key's (column) or the anchor's (row) own weight; "
                               "share: the image itself weighs 1, all others together at most neighbour_share",
                               choices=("column", "row", "share")),
        "neighbour_share": Setting(1.0, "weight of all other images together with weight_norm share", low=0),
        "head_start": Setting("authors", "initial weights of the hash head; small: no tanh is saturated at the start",
                              choices=("authors", "small")),
        "token_grid": Setting(0, "pool the token map to this many rows and columns; 0 = every token as it is", low=0),
        "detach_weights": Setting(False, "keep the gradient out of the patch-level weights"),
    }

    def build(self):
        """See HashMethod.build."""
        for parameter in self.backbone.tail_parameters():  # layers after the tokens: no gradient ever reaches them
            parameter.stop_gradient = True
        self.fc_norm = nn.LayerNorm(self.feature_dim, epsilon=1e-6)
        self.fc = _linear(self.feature_dim, self.hidden, self.head_start)
        self.hash = _linear(self.hidden, self.bits, self.head_start)

    @property
    def feature_key(self):
        """See HashMethod.feature_key; cached tokens also depend on ``token_grid``."""
        return f"{self.feature_kind} {self.token_grid}"

    def backbone_features(self, image):
        """Images float32 [N, 3, H, W] -> tokens float32 [N, T, D]; T = token_grid^2 where that is given."""
        return pool_tokens(self.backbone.tokens(image), self.token_grid)

    def code(self, features):
        """Tokens float32 [N, T, D] -> relaxed code float32 [N, bits], from their mean."""
        return paddle.tanh(self.hash(F.relu(self.fc(self.fc_norm(features.mean(axis=1))))))

    def loss(self, batch):
        """Terms ``contrast`` and ``balance`` and their sum; see ``HashMethod.loss``."""
        y1, y2 = mutual_attention(self.view(batch, 0), self.view(batch, 1), self.attention_temperature)
        seen = (y1.detach(), y2.detach()) if self.detach_weights else (y1, y2)
        weights = patch_weights(*seen, self.weight_temperature, self.weight_norm, self.neighbour_share)
        h1, h2 = sign_ste(self.code(y1)), sign_ste(self.code(y2))
        terms = {"contrast": weighted_contrast(h1, gather(h2), weights, self.contrast_temperature),
                 "balance": balance(h1)}
        return {"total": terms["contrast"] + terms["balance"], **terms}
