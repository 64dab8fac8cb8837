"""DJSRH: Deep Joint-Semantics Reconstructing Hashing (Su, Zhong, Zhang, ICCV 2019).

Authors' code: github.com/zs-zhong/DJSRH (train.py, models.py). Unsupervised, image and text: an image encoder and a
text encoder are trained so that the cosines of their codes rebuild a similarity made from the raw features of both.
n(.) divides rows by their L2 norm, B = batch size, F_I, F_T = raw image and text features (non-negative).

    S_I = 2 n(F_I) n(F_I)^T - 1, S_T likewise;   S~ = beta S_I + (1 - beta) S_T
    S = mu ((1 - eta) S~ + eta S~ S~^T / B)
    L = lambda1 mse(c_II, S) + mse(c_IT, S) + lambda2 mse(c_TT, S),   c_XY = n(u_X) n(u_Y)^T
    u = tanh(sqrt(epoch + 1) h)

F_I comes from a frozen copy of the initial backbone on the *training* view, as in the authors' code. Where the
backbone itself is frozen, or its features are given, these are the same numbers and no second network is kept.

B is the number of rows at hand, all ranks together. With ``drop_last`` (the authors') that is the configured batch
size, and 2 ranks x B is 1 rank x 2B without further ado. ``affinity_batch`` fixes it, for the authors' arithmetic on
a last short batch (they never meet one).

Text features of unit length and many columns (TF-IDF) are too small for the authors' initial weights: the biases
decide and all texts get one code. ``text_norm: rms`` scales them by one number fitted on the training split; the
affinity, which looks at directions only, stays the same.
"""
import copy
import math

import numpy as np
import paddle
from paddle import nn

from models.losses import l2_normalize, torch_linear
from models.method import HashMethod
from utils.errors import InputError
from utils.settings import Setting
from utils.training.distributed import gather, own_rows


def joint_affinity(image, text, beta, eta, mu, batch_size=0):
    """Target similarity of every pair of rows.

    A row of zeros (an image without tags) has no direction: its cosine is 0 with everything, itself included.

    Args:
        image: raw image features float [B, D], non-negative.
        text: raw text features float [B, T], non-negative.
        beta, eta, mu: see the module.
        batch_size: divisor of the second-order term; 0 = B.

    Returns:
        float [B, B], no gradient; up to mu.
    """
    with paddle.no_grad():
        image, text = l2_normalize(image), l2_normalize(text)
        s = (2 * beta * paddle.matmul(image, image, transpose_y=True)
             + 2 * (1 - beta) * paddle.matmul(text, text, transpose_y=True) - 1)
        second = paddle.matmul(s, s, transpose_y=True) / (batch_size or s.shape[0])
        return mu * ((1 - eta) * s + eta * second)


def reconstruction(image, text, target):
    """Mean squared errors of the code cosines of this rank's rows against those of all ranks.

    Args:
        image, text: relaxed codes float [b, K] of this rank.
        target: float [b, B], B = rows of all ranks.

    Returns:
        (image-image, image-text, text-text) scalars.
    """
    image, text = l2_normalize(image), l2_normalize(text)
    all_image, all_text = gather(image), gather(text)

    def error(rows, columns):
        return ((paddle.matmul(rows, columns, transpose_y=True) - target) ** 2).mean()

    return error(image, all_image), error(image, all_text), error(text, all_text)


def _frozen_copy(backbone):
    twin = copy.deepcopy(backbone)
    for parameter in twin.parameters():
        parameter.stop_gradient = True
    twin.eval()
    return twin


class DJSRH(HashMethod):
    """Image encoder (backbone, Linear K) and text encoder (Linear ``text_hidden``, ReLU, Linear K)."""

    name = "djsrh"
    paper = "Su, Zhong, Zhang, Deep Joint-Semantics Reconstructing Hashing, ICCV 2019"
    kind = "unsupervised"
    bit_lengths = (16, 32, 64, 128)
    modalities = ("image", "text")
    training_state = ("teacher.",)
    small = {"text_hidden": 16}
    # without these all texts get one code in two epochs
    lite = {"text_norm": "rms", "text_lr_mult": 0.1, "beta": 0.1}
    settings = {
        "beta": Setting(0.9, "image share of the joint similarity (Wiki .3, MIRFlickr .9, NUS-WIDE .6)"),
        "eta": Setting(0.4, "share of the second-order similarity"),
        "mu": Setting(1.5, "scale of the similarity to rebuild"),
        "lambda1": Setting(0.1, "weight of the image-image term (Wiki .3)"),
        "lambda2": Setting(0.1, "weight of the text-text term (Wiki .3)"),
        "text_hidden": Setting(4096, "units of the text encoder's hidden layer", low=1),
        "text_lr_mult": Setting(10.0, "learning-rate multiplier of the text encoder (Wiki 1, others .01 / .001 = 10)",
                                low=0),
        "text_norm": Setting("none", "rms: text features divided by their root mean square over the training split, "
                             "for texts of unit length (TF-IDF)", choices=("none", "rms")),
        "train_conv": Setting(True, "false: of the backbone only fully connected layers train (Wiki)"),
        "affinity_batch": Setting(0, "divisor of the second-order similarity; 0 = rows of the global batch", low=0),
    }

    def build(self):
        """See HashMethod.build."""
        if self.text_norm != "none":
            self.register_buffer("text_scale", paddle.ones([1]))
        self.text_dim = self.facts.text_dim
        self.scale = 1.0
        self.hash = torch_linear(self.feature_dim, self.bits)
        self.text_encoder = nn.Sequential(torch_linear(self.text_dim, self.text_hidden), nn.ReLU(),
                                          torch_linear(self.text_hidden, self.bits))
        self.fixed = [] if self.train_conv else self._fix_other_thantorch_linear()
        self.frozen = self.frozen or all(parameter.stop_gradient for parameter in self.backbone.parameters())
        self.teacher = None if self.frozen else _frozen_copy(self.backbone)
        self.train()

    def _fix_other_thantorch_linear(self):
        fixed = [layer for layer in self.backbone.sublayers(include_self=True) if not isinstance(layer, nn.Linear)
                 and layer.parameters(include_sublayers=False)]
        for layer in fixed:
            for parameter in layer.parameters(include_sublayers=False):
                parameter.stop_gradient = True
        return fixed

    def train(self):
        """Training mode, but for the fixed layers and the teacher: they stay in evaluation mode."""
        super().train()
        for layer in self.fixed:
            layer.training = False
        if self.teacher is not None:
            self.teacher.eval()

    def fit(self, train):
        """Set the scale of the text features."""
        if self.text_norm == "rms":
            texts = np.asarray(train.text_features, dtype="float32")
            size = float(np.sqrt(np.mean(np.square(texts, dtype="float64"))))
            self.text_scale.set_value(np.array([1 / size if size else 1.0], dtype="float32"))

    def text_logits(self, text):
        """Text features float32 [N, text_dim] -> float32 [N, bits] before the tanh."""
        return self.text_encoder(text if self.text_norm == "none" else text * self.text_scale)

    def start_epoch(self, epoch, epochs):
        """tanh(sqrt(epoch + 1) h), epoch from 0."""
        self.scale = math.sqrt(epoch + 1.0)

    def param_groups(self, head_lr_mult=1.0):
        """Backbone 1, image hash layer ``head_lr_mult`` (1 in the authors' code), text encoder ``text_lr_mult``."""
        body = [parameter for parameter in self.backbone.parameters() if not parameter.stop_gradient]
        groups = [{"params": body, "learning_rate": 1.0},
                  {"params": self.hash.parameters(), "learning_rate": float(head_lr_mult)},
                  {"params": self.text_encoder.parameters(), "learning_rate": float(self.text_lr_mult)}]
        return [group for group in groups if group["params"]]

    # codes: tanh changes no sign, so the epoch's scale is left out and a loaded model codes like a trained one
    def code(self, features):
        """Normalised features float32 [N, D] -> relaxed code float32 [N, bits]."""
        return paddle.tanh(self.hash(features))

    def text_code(self, text):
        """Text features float32 [N, text_dim] -> relaxed code float32 [N, bits]."""
        return paddle.tanh(self.text_logits(text))

    def encode_text(self, text):
        """As ``text_code``; texts made by another vectoriser are refused (InputError)."""
        self._check_text(text)
        return self.text_code(text)

    def _check_text(self, text):
        if text.shape[-1] != self.text_dim:
            raise InputError(f"text features have {text.shape[-1]} columns and the model wants {self.text_dim}: "
                             "use the vectoriser that is saved with the model")

    # loss ---------------------------------------------------------------------------------
    def _image_features(self, batch):
        """(what the encoder sees, raw and with gradient; what the affinity sees, raw and without)."""
        cached = batch.get("feature0")
        raw = self.backbone_features(batch["image0"]) if cached is None else cached
        if cached is not None or self.teacher is None:
            return raw, raw.detach()
        with paddle.no_grad():
            return raw, self.teacher(batch["image0"])

    def loss(self, batch):
        """Terms ``image``, ``cross``, ``text`` and their weighted sum; see ``HashMethod.loss``."""
        text = batch["text"]
        self._check_text(text)
        raw, reference = self._image_features(batch)
        target = joint_affinity(gather(reference), gather(text), self.beta, self.eta, self.mu, self.affinity_batch)
        image_code = paddle.tanh(self.scale * self.hash(self.norm(raw)))
        text_code = paddle.tanh(self.scale * self.text_logits(text))
        image, cross, between_texts = reconstruction(image_code, text_code, target[own_rows(text.shape[0])])
        return {"total": self.lambda1 * image + cross + self.lambda2 * between_texts,
                "image": image, "cross": cross, "text": between_texts}
