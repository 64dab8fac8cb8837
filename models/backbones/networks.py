"""PaddleClas networks by name, cut before their classifier.

One mechanism serves all families: the network runs once on a probe image, which shows the classifier
(the last Linear or 1x1 convolution that makes the class scores) and the last feature map before it.
The classifier is replaced by a layer that hands over its input. AlexNet and VGG end at fc7 that way; they,
like the other families whose torchvision twin differs a little, get their small repairs in ``_adapt``.

A name may carry options after a colon:
    ``SqueezeNet1_1:torchvision``   the network as torchvision has it, see ``as_torchvision``
    ``ViT:patch=16,dim=32,depth=2,heads=4,mlp=2``   any size of vision transformer
    ``ConvNet:width=16``            six convolutions of our own, for small pictures from scratch
    ``precomputed:512``             features in, features out
``Backbone.name`` holds the full name of what was built: building that name again gives the same network.
"""
import difflib
import importlib
import importlib.util
import logging
import math
import os
import sys
import types
import zlib  # noqa: F401 - before paddle: 2.6.2 brings its own inflate, and zlib loaded after it crashes

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from utils.errors import InputError

_PACKAGE = "_pdh_paddleclas"   # our private name of the wheel's folder: a real `import paddleclas` stays possible
_LIKE_TORCHVISION = "torchvision"
_FLATTENING = (nn.Flatten, nn.Identity)
_POOLS = (nn.AdaptiveAvgPool2D, nn.AvgPool2D, nn.AdaptiveMaxPool2D, nn.MaxPool2D)


# the wheel ------------------------------------------------------------------------------------
class _AttrDict(dict):
    """A dict whose entries are attributes too."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__


def _refuse_loading(*_, **__):
    raise InputError("this network loads its own weights, which is not supported: give --backbone-weights FILE")


def _paddleclas():
    """The module with all architectures, imported without the rest of the wheel.

    The parent packages import faiss, scikit-learn and more, download and unpickle weights and log to
    stdout; none of that is needed to build a network, so light modules take their places.

    Raises:
        InputError: paddleclas is not installed.
    """
    if _PACKAGE + ".ppcls.arch.backbone" in sys.modules:
        return sys.modules[_PACKAGE + ".ppcls.arch.backbone"]
    spec = importlib.util.find_spec("paddleclas")   # finds a package without importing it
    if spec is None or not spec.submodule_search_locations:
        raise InputError("paddleclas is not installed; run: pip install --no-deps paddleclas==2.6.0")
    root = list(spec.submodule_search_locations)[0]

    def module(name, folder=None, **values):
        made = types.ModuleType(f"{_PACKAGE}{name}")
        made.__dict__.update(values)
        if folder is not None:
            made.__path__ = [os.path.join(root, folder)] if folder else []
        sys.modules[made.__name__] = made
        return made

    log = logging.getLogger("ppcls")
    logger = module(".ppcls.utils.logger", info=log.debug, debug=log.debug, warning=log.debug, error=log.error)
    module("", ".")
    module(".ppcls", "ppcls")
    module(".ppcls.arch", "ppcls/arch")
    module(".ppcls.utils", "", logger=logger)
    module(".ppcls.utils.save_load", load_dygraph_pretrain=_refuse_loading)
    module(".ppcls.utils.download", get_weights_path_from_url=_refuse_loading)
    module(".ppcls.utils.config", AttrDict=_AttrDict)
    return importlib.import_module(_PACKAGE + ".ppcls.arch.backbone")


def _factories():
    """name -> factory function, for every architecture that has a ``pretrained`` switch or a class count."""
    found = {}
    for name, value in vars(_paddleclas()).items():
        code = getattr(value, "__code__", None)
        if code and not name.startswith("_") and "pretrained" in code.co_varnames[:code.co_argcount]:
            found[name] = value
    return found


def list_backbones():
    """Sorted names of all PaddleClas architectures that can be asked for."""
    return sorted(_factories())


def weights_url(name):
    """Address of PaddleClas' own ImageNet weights of an architecture, or None where it has none."""
    table = _factories()[name].__globals__.get("MODEL_URLS", {})
    url = table.get(name)
    return url if isinstance(url, str) and url.startswith("http") else None


# building -------------------------------------------------------------------------------------
def split_name(name):
    """``"ViT:patch=16,dim=32"`` -> ("ViT", {"patch": "16", "dim": "32"}); a bare option maps to ""."""
    base, _, tail = str(name).partition(":")
    options = {}
    for part in filter(None, tail.split(",")):
        key, _, value = part.partition("=")
        options[key.strip()] = value.strip()
    return base.strip(), options


def _known_name(base):
    """The architecture's own spelling; InputError with the nearest names if there is none."""
    names = list_backbones()
    same = {name.lower(): name for name in names}
    if base.lower() in same:
        return same[base.lower()]
    near = [same[key] for key in difflib.get_close_matches(base.lower(), list(same), n=3, cutoff=0.5)]
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise InputError(f"unknown backbone {base!r}{hint} (models.backbones.networks.list_backbones() lists {len(names)})")


def _tiny_vit(name, options, image_size):
    """A vision transformer of any size, PaddleClas' class with Google's settings (LayerNorm eps 1e-6)."""
    known = {"patch": 16, "dim": 32, "depth": 2, "heads": 4, "mlp": 2}
    for key, value in options.items():
        if key not in known or not value.isdigit() or int(value) < 1:
            raise InputError(f"backbone {name!r}: option {key}={value}: options are positive whole numbers, "
                             f"{', '.join(known)}")
        known[key] = int(value)
    if known["dim"] % known["heads"]:
        raise InputError(f"backbone {name!r}: dim {known['dim']} is not a multiple of heads {known['heads']}")
    _check_patches(name, image_size, known["patch"])
    vit = importlib.import_module(_paddleclas().__name__ + ".model_zoo.vision_transformer")
    net = vit.VisionTransformer(img_size=image_size, patch_size=known["patch"], embed_dim=known["dim"],
                                depth=known["depth"], num_heads=known["heads"], mlp_ratio=known["mlp"],
                                qkv_bias=True, epsilon=1e-6)
    return net, "ViT:" + ",".join(f"{key}={value}" for key, value in known.items())


def _check_patches(name, image_size, patch):
    if image_size % patch:
        raise InputError(f"backbone {name}: crop size {image_size} is not a multiple of its patch size {patch}")


def is_vit(net):
    """Is this PaddleClas' plain vision transformer (ViT, DeiT), with one grid of position embeddings?"""
    return all(hasattr(net, part) for part in ("patch_embed", "pos_embed", "cls_token", "blocks", "norm"))


def _resize_vit(name, net, image_size):
    """Give a freshly built ViT the grid of ``image_size`` pixels; its position embedding is drawn anew."""
    patches = net.patch_embed
    if not hasattr(patches, "img_size") or patches.img_size[0] == image_size:
        return
    patch = patches.patch_size[0]
    _check_patches(name, image_size, patch)
    extra = net.pos_embed.shape[1] - patches.num_patches
    patches.img_size = (image_size, image_size)
    patches.num_patches = (image_size // patch) ** 2
    net.pos_embed = net.create_parameter(
        shape=[1, patches.num_patches + extra, net.pos_embed.shape[2]],
        default_initializer=nn.initializer.TruncatedNormal(std=0.02))


class _DropInput:
    """Hook: dropout on a layer's input, in that layer's training mode."""

    def __call__(self, layer, inputs):
        return F.dropout(inputs[0], 0.5, training=layer.training)


class _PoolOutput:
    """Hook: adaptive average pooling of a layer's output, so that fc6 fits any picture size."""

    def __init__(self, size):
        self.size = size

    def __call__(self, layer, inputs, output):
        return F.adaptive_avg_pool2d(output, self.size)


def _adapt(net, image_size):
    """The repairs that AlexNet and VGG need. Both then are dropout-fc6-relu-dropout-fc7-relu.

    PaddleClas trains them with dropout that halves in evaluation ("downscale_in_infer"). Ours is the
    other convention (torchvision, the papers' public code): nothing happens in evaluation, and
    models.backbones.pretrained halves fc6 and fc7 of PaddleClas' files, which is the same function.

    Other sizes than 224 pixels reach fc6 through adaptive pooling, as in torchvision; at 224 it would be
    the identity and is left out.
    """
    if hasattr(net, "_drop1") and hasattr(net, "_fc7"):
        net._drop1, net._drop2 = nn.Dropout(0.5), nn.Dropout(0.5)
        if not 199 <= image_size <= 230:
            net._conv5.register_forward_post_hook(_PoolOutput((6, 6)))
    elif hasattr(net, "conv_block_5") and hasattr(net, "fc2"):
        net.drop = nn.Identity()
        net.fc1.register_forward_pre_hook(_DropInput())
        net.fc2.register_forward_pre_hook(_DropInput())
        if not 224 <= image_size < 256:
            net.conv_block_5.register_forward_post_hook(_PoolOutput((7, 7)))


def _as_torchvision(net):
    """Change the network where torchvision's differs in structure; False if nothing is to change.

    VGG: convolutions have a bias. ResNet18/34: the first stage's first shortcut is the identity (PaddleClas
    has a convolution there). SqueezeNet 1.1: no padding in the first convolution (PaddleClas pads by one
    pixel; the shared ImageNet weights were trained without, and lose 1.5 points of k-NN with it).
    """
    if hasattr(net, "conv_block_5"):
        for layer in net.sublayers():
            if isinstance(layer, nn.Conv2D) and layer.bias is None:
                layer.bias = layer.create_parameter([layer.weight.shape[0]], is_bias=True)
        return True
    if type(net).__name__ == "SqueezeNet" and net.version == "1.1":
        net._conv._updated_padding = [0, 0]
        net._conv._padding = 0
        return True
    first = net.blocks[0] if type(net).__name__ == "ResNet" else None
    if type(first).__name__ == "BasicBlock" and hasattr(first, "short"):
        del first.short
        first.shortcut = True
        return True
    return False


# cutting --------------------------------------------------------------------------------------
class _Tap(nn.Layer):
    """Takes the classifier's place: keeps its input and passes it on."""

    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def forward(self, x):
        _keep(self.seen, "features", x)
        return x


class _KeepMap:
    """Hook that keeps the feature map: a layer's output, or its input where ``before`` is set."""

    def __init__(self, seen):
        self.seen = seen

    def __call__(self, layer, inputs, output=None):
        _keep(self.seen, "map", inputs[0] if output is None else output)


@paddle.jit.not_to_static
def _keep(seen, key, value):
    seen[key] = value


class _Call:
    """One executed layer of the probe run; holds its tensors so that identity means something."""

    def __init__(self, name, layer, inputs, output):
        self.name, self.layer, self.output = name, layer, output
        self.input = inputs[0] if inputs else None
        self.leaf = not layer.sublayers()


def _shape(x):
    return list(x.shape) if isinstance(x, paddle.Tensor) else []


def _trace(net, image):
    """Run ``net`` in evaluation mode and return (its first output, calls in the order of their ends)."""
    calls, hooks = [], []
    for name, layer in net.named_sublayers():
        def record(layer, inputs, output, name=name):
            calls.append(_Call(name, layer, inputs, output))
        hooks.append(layer.register_forward_post_hook(record))
    try:
        net.eval()
        with paddle.no_grad():
            output = net(image)
    finally:
        for hook in hooks:
            hook.remove()
        net.train()
    return output[0] if isinstance(output, (list, tuple)) else output, calls


def _find_heads(calls, scores):
    """Positions of the calls that make as many numbers as there are scores: the classifier, and twins of it."""
    classes = _shape(scores)[-1] if _shape(scores) else 0
    found = []
    for number, call in enumerate(calls):
        linear = isinstance(call.layer, nn.Linear) and _shape(call.output)[-1:] == [classes]
        conv = (isinstance(call.layer, nn.Conv2D) and _shape(call.output)[1:2] == [classes]
                and list(call.layer.weight.shape[2:]) == [1, 1])
        if call.output is scores and (linear or conv):
            return [number]
        if linear or conv:
            found.append(number)
    return found


def _find_map(calls, head):
    """The call that has the last feature map before the classifier: (call, is it its input), or (None, ..)."""
    if len(_shape(head.input)) == 4 and math.prod(_shape(head.input)[2:]) > 1:
        return head, True
    for call in reversed(calls):
        shape = _shape(call.output)
        if isinstance(call.layer, _POOLS) and shape[2:] == [1, 1]:
            return call, True
        if len(shape) == 4 and shape[2] * shape[3] > 1:
            return call, False
        if len(shape) == 3 and isinstance(call.layer, nn.LayerNorm) and shape[1] > 1:
            return call, False
    return None, False


def _replace(net, name, layer):
    path = name.split(".")
    for part in path[:-1]:
        net = net._sub_layers[part]
    net._sub_layers[path[-1]] = layer


class Backbone(nn.Layer):
    """A PaddleClas network without its classifier.

    Attributes:
        name: full name; ``build_backbone(name, pretrained=False)`` builds the same network.
        out_dim, token_dim: channels of ``forward`` and of ``tokens``.
        num_tokens: tokens of an image of ``image_size`` pixels.
        classifier_keys: weights that belong to the removed classifier (ignored in files).
    """

    def __init__(self, name, net, image_size):
        """Cut ``net``. Raises InputError if it cannot take the size or no classifier is found."""
        super().__init__()
        self.name, self.image_size = name, image_size
        self._seen = {}
        self._cut(net)
        self.net = net

    def _cut(self, net):
        size = self.image_size
        probe = np.random.RandomState(0).standard_normal((1, 3, size, size)).astype("float32")
        probe = paddle.to_tensor(probe)
        try:
            scores, calls = _trace(net, probe)
            if any(0 in _shape(call.output) for call in calls):   # Paddle 3 computes on empty maps
                raise ValueError("too small: a feature map is empty")
        except Exception as error:   # networks complain about sizes in many ways
            reason = str(error).strip().splitlines()
            raise InputError(f"backbone {self.name} cannot take pictures of {size}x{size} pixels "
                             f"({type(error).__name__}: {reason[-1] if reason else ''}); "
                             "choose another --crop_size, 224 suits most") from error
        heads = _find_heads(calls, scores)
        if not heads:
            raise InputError(f"backbone {self.name} has no classifier to cut off that we can find; choose another")
        # twins: distilled transformers average the scores of two classifiers that see the same width
        width = _shape(calls[heads[-1]].input)
        twins = [number for number in heads if _shape(calls[number].input) == width]
        head, before = calls[twins[0]], calls[:twins[0]]
        for number in twins[1:]:
            _replace(net, calls[number].name, nn.Identity())
        for call in reversed([call for call in before if call.leaf]):
            if isinstance(call.layer, nn.Dropout):   # dropout of the classifier, not of the features
                _replace(net, call.name, nn.Identity())
            elif not isinstance(call.layer, _FLATTENING) and type(call.layer).__name__ != "Identity":
                break
        self.classifier_keys = {f"{calls[number].name}.{key}" for number in twins
                                for key in calls[number].layer.state_dict()}
        self.out_dim = _shape(head.input)[1]
        call, is_input = _find_map(before, head)
        self.token_dim = self.num_tokens = self._prefix = 0
        self._tail = []
        if call is not None:
            self._note_map(call.input if is_input else call.output)
            if call is not head:
                keep = _KeepMap(self._seen)
                (call.layer.register_forward_pre_hook(keep) if is_input
                 else call.layer.register_forward_post_hook(keep))
                done = {id(c.layer) for c in before[:before.index(call) + 1]}
                self._tail = [c.layer for c in before if c.leaf and id(c.layer) not in done]
        self._map_is_features = call is head
        _replace(net, head.name, _Tap(self._seen))
        try:   # what follows the classifier (nothing, mostly) must bear other widths than the classes
            _trace(net, probe)
        except Exception as error:
            raise InputError(f"backbone {self.name} cannot be cut before its classifier ({type(error).__name__}); "
                             "choose another") from error
        self._seen.clear()

    def _note_map(self, x):
        shape = _shape(x)
        if len(shape) == 4:
            self.token_dim, self.num_tokens = shape[1], shape[2] * shape[3]
            return
        side = math.isqrt(shape[1])
        self._prefix = shape[1] - side * side    # class (and distillation) tokens stand in front
        if self._prefix <= 2:
            self.token_dim, self.num_tokens = shape[2], side * side

    def _run(self, image):
        self._seen.clear()
        self.net(image)
        features, feature_map = self._seen.get("features"), self._seen.get("map")
        self._seen.clear()   # do not keep the graph alive
        return features, features if self._map_is_features else feature_map

    def forward(self, image):
        """Images float32 [N, 3, H, W] -> features [N, out_dim] as the classifier would see them.

        AlexNet, VGG: fc7 after ReLU. ViT: the class token after the last norm. Others: pooled features (what
        stands before the last Linear, without its dropout).
        """
        features, _ = self._run(image)
        if features.ndim == 4:
            features = features.mean([2, 3])
        return features

    def tokens(self, image):
        """Images float32 [N, 3, H, W] -> [N, T, token_dim], row by row.

        ViT: patch tokens after the last norm, without the class token. CNN: the last feature map.

        Raises:
            InputError: the network has no such map.
        """
        if not self.token_dim:
            raise InputError(f"backbone {self.name} has no feature map to take tokens from; choose another")
        _, x = self._run(image)
        if x.ndim == 4:
            return x.flatten(2).transpose([0, 2, 1])
        return x[:, self._prefix:]

    def tail_parameters(self):
        """Weights that ``forward`` uses and ``tokens`` does not (MobileNetV3's last convolution, AlexNet's fc6...).

        A method that trains on tokens should freeze them: they never get a gradient, which
        ``paddle.DataParallel`` takes for an error.
        """
        return [parameter for layer in self._tail for parameter in layer.parameters() if not parameter.stop_gradient]

    def as_torchvision(self):
        """Change the structure to torchvision's where it differs (see ``_as_torchvision``); name follows."""
        if self.name.endswith(":" + _LIKE_TORCHVISION):
            return
        if _as_torchvision(self.net):
            self.name += ":" + _LIKE_TORCHVISION


class Precomputed(nn.Layer):
    """Stands where a backbone would: its input already is features, float32 [N, dim] (or tokens [N, T, dim])."""

    classifier_keys = frozenset()
    num_tokens = 1

    def __init__(self, dim):
        super().__init__()
        self.name = f"precomputed:{dim}"
        self.out_dim = self.token_dim = dim

    def forward(self, x):
        return x

    def tokens(self, x):
        """[N, dim] -> [N, 1, dim]; [N, T, dim] as it is."""
        return x.unsqueeze(1) if x.ndim == 2 else x

    def tail_parameters(self):
        return []


class ConvNet(nn.Layer):
    """Six 3x3 convolutions with batch norm, for small pictures and no pretrained weights (the embedded ``shapes`` set).

    ``width`` channels, doubled after the first, third and fifth convolution; strides 2 1 2 1 2 1.
    """

    classifier_keys = frozenset()

    def __init__(self, width, image_size):
        super().__init__()
        self.name = f"ConvNet:width={width}"
        channels = [3, width, 2 * width, 2 * width, 4 * width, 4 * width, 8 * width]
        layers = []
        for number, (inputs, outputs) in enumerate(zip(channels, channels[1:])):
            layers += [nn.Conv2D(inputs, outputs, 3, stride=2 - number % 2, padding=1, bias_attr=False),
                       nn.BatchNorm2D(outputs), nn.ReLU()]
        self.net = nn.Sequential(*layers)
        self.out_dim = self.token_dim = channels[-1]
        self.num_tokens = math.ceil(image_size / 8) ** 2

    def forward(self, image):
        """Images float32 [N, 3, H, W] -> mean of the last feature map [N, 8 width]."""
        return self.net(image).mean([2, 3])

    def tokens(self, image):
        """Images float32 [N, 3, H, W] -> the last feature map, row by row [N, T, 8 width]."""
        return self.net(image).flatten(2).transpose([0, 2, 1])

    def tail_parameters(self):
        return []


def build_net(name, base, options, image_size):
    """The whole network (with its classifier) and its full name."""
    if base.lower() == "vit":
        return _tiny_vit(name, options, image_size)
    full = _known_name(base)
    if set(options) - {_LIKE_TORCHVISION}:
        raise InputError(f"backbone {name!r}: {full} has the one option :{_LIKE_TORCHVISION}")
    try:
        net = _factories()[full](pretrained=False)
    except Exception as error:   # a few variants want arguments or files of their own
        raise InputError(f"backbone {full} cannot be built ({type(error).__name__}: {error}); "
                         "choose another") from error
    if is_vit(net):
        _resize_vit(full, net, image_size)
    if _LIKE_TORCHVISION in options and _as_torchvision(net):
        full += ":" + _LIKE_TORCHVISION
    _adapt(net, image_size)
    return net, full
