"""A PaddleClas network, cut before its classifier.

One mechanism serves all families: the network runs once on a probe image, which shows the classifier
(the last Linear or 1x1 convolution that makes the class scores) and the last feature map before it.
The classifier is replaced by a layer that hands over its input. AlexNet and VGG end at fc7 that way.
"""
import math

import numpy as np
import paddle
from paddle import nn

from models.backbones.adapt import LIKE_TORCHVISION, as_torchvision
from models.backbones.cutting import KeepMap, Tap, find_heads, find_map, replace, shape_of, trace
from utils.errors import InputError

_FLATTENING = (nn.Flatten, nn.Identity)


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

    def _probe(self, net, image):
        """(its scores, the calls of its layers) on a probe image, or InputError."""
        size = self.image_size
        try:
            scores, calls = trace(net, image)
            if any(0 in shape_of(call.output) for call in calls):   # Paddle 3 computes on empty maps
                raise ValueError("too small: a feature map is empty")
        except Exception as error:   # networks complain about sizes in many ways
            reason = str(error).strip().splitlines()
            raise InputError(f"backbone {self.name} cannot take pictures of {size}x{size} pixels "
                             f"({type(error).__name__}: {reason[-1] if reason else ''}); "
                             "choose another --crop_size, 224 suits most") from error
        return scores, calls

    def _cut(self, net):
        shape = (1, 3, self.image_size, self.image_size)
        image = paddle.to_tensor(np.random.RandomState(0).standard_normal(shape).astype("float32"))
        scores, calls = self._probe(net, image)
        heads = find_heads(calls, scores)
        if not heads:
            raise InputError(f"backbone {self.name} has no classifier to cut off that we can find; choose another")
        # twins: distilled transformers average the scores of two classifiers that see the same width
        width = shape_of(calls[heads[-1]].input)
        twins = [number for number in heads if shape_of(calls[number].input) == width]
        head, before = calls[twins[0]], calls[:twins[0]]
        for number in twins[1:]:
            replace(net, calls[number].name, nn.Identity())
        for call in reversed([call for call in before if call.leaf]):
            if isinstance(call.layer, nn.Dropout):   # dropout of the classifier, not of the features
                replace(net, call.name, nn.Identity())
            elif not isinstance(call.layer, _FLATTENING) and type(call.layer).__name__ != "Identity":
                break
        self.classifier_keys = {f"{calls[number].name}.{key}" for number in twins
                                for key in calls[number].layer.state_dict()}
        self.out_dim = shape_of(head.input)[1]
        call, is_input = find_map(before, head)
        self.token_dim = self.num_tokens = self._prefix = 0
        self._tail = []
        if call is not None:
            self._note_map(call.input if is_input else call.output)
            if call is not head:
                keep = KeepMap(self._seen)
                (call.layer.register_forward_pre_hook(keep) if is_input
                 else call.layer.register_forward_post_hook(keep))
                done = {id(c.layer) for c in before[:before.index(call) + 1]}
                self._tail = [c.layer for c in before if c.leaf and id(c.layer) not in done]
        self._map_is_features = call is head
        replace(net, head.name, Tap(self._seen))
        try:   # what follows the classifier (nothing, mostly) must bear other widths than the classes
            trace(net, image)
        except Exception as error:
            raise InputError(f"backbone {self.name} cannot be cut before its classifier ({type(error).__name__}); "
                             "choose another") from error
        self._seen.clear()

    def _note_map(self, x):
        shape = shape_of(x)
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
        """Change the structure to torchvision's where it differs (see adapt.py); name follows."""
        if self.name.endswith(":" + LIKE_TORCHVISION):
            return
        if as_torchvision(self.net):
            self.name += ":" + LIKE_TORCHVISION
