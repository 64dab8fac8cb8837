"""The contract that every method fulfils. The trainer, the evaluator and the exporter know only this."""
import dataclasses
import hashlib
import json
import re
from typing import Any, ClassVar, Dict, Optional, Sequence, Tuple

import numpy as np
import paddle
from paddle import nn

from models.backbones.adapt import dropout_layers
from utils.config import GROUPS, RECIPE_LINES
from utils.errors import InputError
from utils.flags import Flags, flag_name
from utils.peer_flags import SINGLE
from utils.settings import Setting, nearest


class FeatureNorm(nn.Layer):
    """Optional normalisation of backbone features, fitted once on the training split and fixed from then on.

    ``kind`` is ``none``, ``standardize`` or ``log1p_standardize`` (for non-negative pooled features:
    a few dimensions hold most of the energy). Statistics are per channel (last axis) and are
    buffers: saved with the weights and exported. Where the backbone trains they are those of its first weights, and
    stay: a head that sees all dimensions at one scale from the first step is what they are for.

    A dimension that is the same for all training pictures, or nearly so, is left out (scale 0). Divided by next to
    nothing it would make noise of the code of the first picture that wakes it.
    """

    KINDS = ("none", "standardize", "log1p_standardize")
    CONSTANT = 1e-3  # of the median deviation: below it a dimension counts as constant

    def __init__(self, kind, dim):
        super().__init__()
        self.kind = kind
        if kind != "none":
            self.register_buffer("mean", paddle.zeros([dim]))
            self.register_buffer("scale", paddle.ones([dim]))

    def fit(self, features):
        """Set the statistics.

        Args:
            features: raw features of the training split, float32 [N, ..., dim].

        Returns:
            A line for the log: from how many rows, and how many dimensions are left out.

        Raises:
            InputError: no dimension varies.
        """
        if self.kind == "none":
            return "feature_norm: none"
        x = np.asarray(features, dtype="float64").reshape(-1, features.shape[-1])
        if self.kind == "log1p_standardize":
            x = np.log1p(np.maximum(x, 0))
        deviation = x.std(0)
        if not deviation.any():
            raise InputError(f"feature_norm {self.kind}: all {len(x)} training features are the same; look at the "
                             "pictures and at the weights of the backbone, or set feature_norm to none")
        varies = deviation > self.CONSTANT * np.median(deviation[deviation > 0])
        self.mean.set_value(x.mean(0).astype("float32"))
        self.scale.set_value(np.where(varies, 1 / np.where(varies, deviation, 1), 0).astype("float32"))
        return (f"feature_norm {self.kind}: fitted on {len(x)} features of {len(varies)} dimensions, "
                f"{int((~varies).sum())} constant ones are left out")

    def forward(self, x):
        """Raw features float32 [N, ..., dim] -> normalised ones, same shape."""
        if self.kind == "none":
            return x
        if self.kind == "log1p_standardize":
            x = paddle.log1p(nn.functional.relu(x))
        return (x - self.mean) * self.scale


@dataclasses.dataclass(frozen=True)
class DataFacts:
    """What a method may know of the data before it is built.

    Attributes:
        num_train: images in the training split (rows of a memory bank).
        num_classes: label columns, 0 where there are no labels.
        text_dim: columns of the text features, None where there are no texts.
    """

    num_train: int = 0
    num_classes: int = 0
    text_dim: Optional[int] = None


class HashMethod(nn.Layer):
    """A network and its loss. A method is one file with one subclass: settings, ``build``, ``code``, ``loss``.

    Class attributes (what the method says about itself):
        name: registry name; also the folder under ``configs/``.
        paper: one-line citation.
        kind: ``supervised`` or ``unsupervised``; see ``needs_labels``.
        bit_lengths: code lengths of the paper's tables and of the TIPC configs (any 1..1024 works).
        views: augmented views per image that the loss wants (batch keys ``image0``, ``image1``).
        modalities: ``("image",)`` or ``("image", "text")``.
        feature_kind: ``pooled`` ([N, D]) or ``tokens`` ([N, T, D]) from the backbone.
        settings: dict name -> utils.settings.Setting. Each is a recipe key, a flag of this method and an attribute
            of the object, set before ``build`` is called. Another method may use the name for something else; the
            names of the recipe (utils/config.py) and of this class are taken.
        training_state: prefixes of state that belongs to training only (a memory bank, a classifier); it is in the
            checkpoint, but not in the fingerprint, not in ``best.safetensors`` and not in the exported graph.
        coupling: how the rows of a batch meet in the loss, for the tests of several ranks: ``pairs`` (each row meets
            the others: halves on their own are another loss) or ``rows`` (a mean over the rows). Random numbers that a
            loss draws must follow the image, not its place in the batch. ``build`` may set it for this object.
        variants: list of dicts of settings that change what is compared with what; the contract tests try each.
        small: settings with which a test is quick.
        lite: recipe keys of the TIPC lite recipe that this method needs otherwise.
        defined_in, source_sha256: set by models.find_method for a method from outside: its file, and the SHA-256 of
            what was executed.
    """

    name: ClassVar[Optional[str]] = None
    paper: ClassVar[str] = ""
    kind: ClassVar[str] = "supervised"
    bit_lengths: ClassVar[Tuple[int, ...]] = (16, 32, 48, 64)
    views: ClassVar[int] = 1
    modalities: ClassVar[Tuple[str, ...]] = ("image",)
    feature_kind: ClassVar[str] = "pooled"
    settings: ClassVar[Dict[str, Setting]] = {}
    training_state: ClassVar[Tuple[str, ...]] = ()
    coupling: str = "pairs"
    variants: ClassVar[Sequence[Dict[str, Any]]] = ()
    small: ClassVar[Dict[str, Any]] = {}
    lite: ClassVar[Dict[str, Any]] = {}
    defined_in = source_sha256 = None

    def __init_subclass__(cls, **more):
        """A method is refused when its class is made, not in the middle of a run.

        Raises:
            InputError: a name that cannot be a registry name, or a setting that is none or whose name is taken.
        """
        super().__init_subclass__(**more)
        if cls.name is not None and not re.fullmatch("[a-z][a-z0-9_]*", str(cls.name)):
            raise InputError(f"class {cls.__name__}: name = {cls.name!r}, expected lower-case letters, digits and _, "
                             "for it is a folder and a flag's value")
        for key, setting in cls.settings.items():
            if not isinstance(setting, Setting) or not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", key):
                raise InputError(f"class {cls.__name__}: settings[{key!r}] must be a name and a utils.settings.Setting")
            if key in RECIPE_LINES or flag_name(key) in COMMAND_FLAGS:
                raise InputError(f"class {cls.__name__}: the setting {key} is a key or a flag of every recipe "
                                 "(utils/config.py, docs/flags.md); choose another name")
            if key in TAKEN or key in vars(cls):
                raise InputError(f"class {cls.__name__}: the setting {key} would hide the attribute {key} of a "
                                 "HashMethod; choose another name")
        if len({flag_name(key) for key in cls.settings}) < len(cls.settings):
            raise InputError(f"class {cls.__name__}: two of the settings {', '.join(cls.settings)} are one flag")

    def __init__(self, backbone, bits, facts=DataFacts(), feature_norm="none", frozen=False, feature_dropout=False,
                 **settings):
        """Set the settings and the backbone, then call ``build``.

        Args:
            backbone: models.backbones.backbone.Backbone.
            bits: code length.
            facts: DataFacts.
            feature_norm: one of ``FeatureNorm.KINDS``; the trainer fits it.
            frozen: train the head only; the backbone stays in evaluation mode.
            feature_dropout: but its dropout stays on in training, as in public codes that freeze weights and forget
                the mode.
            settings: values of ``settings`` that differ from the defaults.

        Raises:
            InputError: an unknown setting, a value out of range, or labels or texts that the method needs and the
                data have not.
        """
        super().__init__()
        self.backbone = backbone
        self.bits = bits
        self.facts = facts
        self.frozen, self.feature_dropout = frozen, feature_dropout
        values = self.check_settings(settings)
        for name, value in values.items():
            setattr(self, name, value)
        if self.needs_labels(values) and not facts.num_classes:
            raise InputError(f"method {self.name} learns from labels, and this data set has none")
        if "text" in self.modalities and not facts.text_dim:
            raise InputError(f"method {self.name} needs texts (the number of columns of their features), and there are "
                             "none")
        self.norm = FeatureNorm(feature_norm, self.feature_dim)
        if self.feature_dropout and not (frozen and dropout_layers(backbone)):
            raise InputError("feature_dropout keeps the dropout of a frozen backbone on: it needs --freeze-backbone "
                             "and a backbone with dropout before its last features (AlexNet, VGG)")
        if frozen:
            for parameter in backbone.parameters():
                parameter.stop_gradient = True
        self.build()

    @classmethod
    def check_settings(cls, given):
        """The values of all settings: defaults, replaced by what is given and converted.

        Raises:
            InputError: an unknown name or a value out of range; says what is expected.
        """
        for name in given:
            if name not in cls.settings:
                raise InputError(f"method {cls.name} has no setting {name}{nearest(name, cls.settings)}; it has "
                                 + (", ".join(cls.settings) or "none"))
        values = {}
        for name, setting in cls.settings.items():
            try:
                values[name] = setting.convert(given.get(name, setting.default))
            except ValueError as error:
                raise InputError(f"{name} = {given[name]!r}, expected {error}") from None
        return values

    @classmethod
    def needs_labels(cls, settings):
        """True where the method learns from labels with these settings (a dict with all of them)."""
        return cls.kind == "supervised"

    def build(self) -> None:
        """Make the layers and buffers above the backbone; settings, ``bits``, ``facts``, ``feature_dim`` are set.

        The order in which layers are made decides which random numbers they get.
        """
        raise NotImplementedError

    # what the trainer calls ---------------------------------------------------------------
    def loss(self, batch: Dict[str, paddle.Tensor]) -> Dict[str, paddle.Tensor]:
        """Named loss terms of a batch, ``total`` among them (the one that is optimised).

        Args:
            batch: dict with ``image0`` [, ``image1``] float32 [B, 3, H, W] (or the raw backbone
                features ``feature0`` [, ``feature1``] where they are cached), ``index`` int64 [B]
                (position in the training split), ``label`` float32 [B, C] where there are labels,
                ``text`` float32 [B, T] where there are texts.

        Returns:
            dict name -> scalar tensor; the job's loss is the mean over ranks of ``total``.
        """
        raise NotImplementedError

    def forward(self, batch):
        """The terms of ``loss``, so that data parallelism sees the call."""
        return self.loss(batch)

    def fit(self, train):
        """Called once before a new run trains, on every rank: text norms, class centres, statistics.

        Args:
            train: the training split (utils.datasets.base.Split): ``labels`` uint8 [N, C] or None, ``text_features``
                float32 [N, T] or None.
        """

    def describe(self):
        """What the log should say of this object before it trains: a list of lines, for example of drawn targets."""
        return []

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Called before epoch ``epoch`` (from 0) of ``epochs``, for schedules."""

    def start_step(self, step: int, steps: int) -> None:
        """Called before step ``step`` (from 0, counted over the whole run) of ``steps``, for schedules."""

    def head_parameters(self):
        """Parameters outside the backbone."""
        inside = {id(p) for p in self.backbone.parameters()}
        return [p for p in self.parameters() if id(p) not in inside and not p.stop_gradient]

    def param_groups(self, head_lr_mult=1.0):
        """Optimizer groups; ``learning_rate`` is a multiplier of the recipe's learning rate."""
        body = [p for p in self.backbone.parameters() if not p.stop_gradient]
        groups = [{"params": body, "learning_rate": 1.0},
                  {"params": self.head_parameters(), "learning_rate": float(head_lr_mult)}]
        return [group for group in groups if group["params"]]

    # codes --------------------------------------------------------------------------------
    def code(self, features: paddle.Tensor) -> paddle.Tensor:
        """Normalised features -> relaxed code float32 [N, bits]; its sign is the binary code."""
        raise NotImplementedError

    def encode(self, image):
        """Images float32 [N, 3, H, W] -> relaxed code float32 [N, bits]."""
        return self.encode_features(self.backbone_features(image))

    def encode_features(self, features):
        """Raw backbone features (see ``feature_kind``) -> relaxed code float32 [N, bits]."""
        return self.code(self.norm(features))

    def backbone_features(self, image):
        """Images float32 [N, 3, H, W] -> raw features, [N, D] or [N, T, D] by ``feature_kind``."""
        return self.backbone.tokens(image) if self.feature_kind == "tokens" else self.backbone(image)

    @property
    def feature_dim(self):
        """Channels of the backbone features (last axis)."""
        return self.backbone.token_dim if self.feature_kind == "tokens" else self.backbone.out_dim

    @property
    def feature_key(self):
        """What cached backbone features depend on beside the backbone, the preprocessing and the images; plain text."""
        return self.feature_kind

    # helpers for the methods --------------------------------------------------------------
    def view(self, batch, number=0):
        """Normalised features of a view of the batch, from the cache where there is one."""
        raw = batch.get(f"feature{number}")
        if raw is None:
            raw = self.backbone_features(batch[f"image{number}"])
        return self.norm(raw)

    @property
    def fixed_features(self):
        """True where a picture has the same backbone features in every step of training, so that one may keep them."""
        return self.frozen and not self.feature_dropout

    def train(self):
        """Training mode; a frozen backbone stays in evaluation mode, but for its dropout if that is asked for."""
        super().train()
        if self.frozen:
            self.backbone.eval()
        if self.feature_dropout:
            for layer in dropout_layers(self.backbone):
                layer.training = True

    # identity -----------------------------------------------------------------------------
    def fingerprint(self, preprocess):
        """16 hex digits that change whenever the codes of an image could change.

        Args:
            preprocess: dict that describes decoding and preprocessing (plain values).
        """
        digest = hashlib.sha256(json.dumps([self.name, self.bits, preprocess], sort_keys=True).encode())
        for key, value in sorted(self.state_dict().items()):
            if not key.startswith(self.training_state):
                array = np.ascontiguousarray(value.numpy())
                digest.update(f"{key}{array.dtype}{array.shape}".encode())
                digest.update(array.tobytes())
        return digest.hexdigest()[:16]


# names that a setting cannot have: flags of the mains; attributes of the contract, of an object, of Paddle's Layer
COMMAND_FLAGS = frozenset(Flags(SINGLE, GROUPS).names)
TAKEN = {key for key in vars(HashMethod) if not key.startswith("__")} | {
    "backbone", "bits", "facts", "frozen", "norm", "training", "train", "eval", "parameters", "named_parameters",
    "buffers", "sublayers", "state_dict", "set_state_dict", "register_buffer", "add_parameter", "create_parameter"}
